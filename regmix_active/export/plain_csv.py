"""CSV: a row per domain."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

from .base import Exporter
from .handover import Handover
from .registry import exporter


@exporter("csv")
@dataclass(frozen=True)
class PlainCSV(Exporter):
    """Columns ``domain``, ``weight``, ``tokens`` and ``epochs``; the last two are empty where they are unknown."""

    trainer = "anything (CSV)"
    unit = "token"
    zeros = "kept"
    exhausted = "–"

    def files(self, handover: Handover) -> dict[str, str]:
        """One CSV file."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["domain", "weight", "tokens", "epochs"])
        for name, weight in handover.weights.items():
            epochs = handover.epochs(name)
            writer.writerow(
                [name, repr(float(weight)), handover.tokens.get(name, ""), "" if epochs is None else repr(float(epochs))]
            )
        return {"mixture.csv": stream.getvalue()}

"""JSON: weights by name, and what else is known. ``regmix-active export --mixture`` reads it again."""

from __future__ import annotations

import json
from dataclasses import dataclass

from .base import Exporter
from .handover import Handover
from .registry import exporter


@exporter("json")
@dataclass(frozen=True)
class PlainJSON(Exporter):
    """Weights by name."""

    trainer = "anything (JSON)"
    unit = "token"
    zeros = "kept"
    exhausted = "–"

    def files(self, handover: Handover) -> dict[str, str]:
        """One JSON file."""
        content: dict[str, object] = {
            "study": handover.study,
            "unit": "share of the training tokens",
            "weights": dict(handover.weights),
        }
        if handover.target_tokens is not None:
            content["target_tokens"] = handover.target_tokens
        if tokens := {name: handover.tokens[name] for name in handover.domains if name in handover.tokens}:
            content["tokens"] = tokens
        epochs = {name: handover.epochs(name) for name in tokens}
        if handover.target_tokens is not None and epochs:
            content["epochs"] = epochs
        return {"mixture.json": json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"}

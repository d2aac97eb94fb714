"""Tables of the terminal: the mixture as it was written, and the formats that there are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from .base import Exporter, too_often
from .handover import NEGLIGIBLE, Handover


def mixture_table(exporter: Exporter, handover: Handover) -> Table:
    """Domain by domain: share of the tokens, share in the trainer's unit, tokens that there are, epochs of the target run."""
    table = Table(title=f"{escape(handover.study)} for {exporter.trainer}", title_justify="left")
    table.add_column("domain")
    converted = exporter.unit == "example"
    columns = ["share of tokens", *[f"share of {exporter.unit}s"] * converted, "tokens", "epochs"]
    for column in columns:
        table.add_column(column, justify="right")
    drawn = exporter.ready(handover).in_unit(exporter.unit)
    for name, share in sorted(handover.weights.items(), key=lambda item: -item[1]):
        epochs, tokens = handover.epochs(name), handover.tokens.get(name)
        gone = share <= NEGLIGIBLE and exporter.zeros == "left out"
        row = [f"{share:.4%}"]
        if converted:
            row += [f"{drawn[name]:.4%}" if name in drawn else "–"]
        row += ["?" if tokens is None else f"{tokens:,.0f}"]
        row += ["left out" if gone else "?" if epochs is None else f"{epochs:.2f}" + " !" * too_often(epochs)]
        table.add_row(escape(name), *row)
    return table


def formats_table(exporters: Mapping[str, type[Exporter]]) -> Table:
    """The formats: who reads them, what a weight means there, what is needed, what happens to zeros and at the end of data."""
    table = Table(title="Formats (--format)", title_justify="left")
    table.add_column("format", no_wrap=True)
    for column in ("trainer", "a weight is a share of", "needs", "zeros", "data that ends", "options"):
        table.add_column(column, overflow="fold")
    for name, cls in exporters.items():
        fields: tuple[Any, ...] = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
        options = "\n".join(field.name for field in fields) or "–"
        row = (name, cls.trainer, f"{cls.unit}s", cls.needed(), cls.zeros, cls.exhausted, options)
        table.add_row(*map(escape, row))
    return table

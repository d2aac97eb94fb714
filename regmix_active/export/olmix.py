"""Olmix's ``mix`` section of a launch configuration (allenai/olmix, ``plans/023_explicit_mix_field.md``).

**Unit: tokens.** Each entry's ``weight`` becomes the ``target_ratio`` of an OLMo-core source, its ``repetition_factor`` the
``max_repetition_ratio``: what a source may be repeated before OLMo-core calls it too small. Sources of weight zero are
skipped (``mk_source_instances``), so they are left out; the others must sum to 1. The flat layout is written, whose keys are
``source``, ``source:topic`` or ``source:topic:quality``, as in ``data.sources`` of the same configuration: domains must be
called so.
"""

from __future__ import annotations

from dataclasses import dataclass

from regmix_active.errors import ConfigError

from .base import Exporter
from .handover import Handover
from .quoting import comments, epochs_text, heading, number, quoted, remark
from .registry import exporter
from .repetition import needed_repetition

KEYS = ("weight", "repetition_factor")


@exporter("olmix")
@dataclass(frozen=True)
class Olmix(Exporter):
    """``mix`` of a launch configuration."""

    trainer = "Olmix"
    unit = "token"
    needs = ("tokens", "target_tokens")
    exhausted = "error; the needed ratio is written"

    def files(self, handover: Handover) -> dict[str, str]:
        """One YAML file with the section."""
        if taken := [name for name in handover.domains if name in KEYS]:
            raise ConfigError(f"--format olmix: a domain is called {taken[0]!r}, which is a key of Olmix's own; rename it")
        lines = heading(handover, "A weight is a share of the tokens. The names are those of data.sources: source:topic:quality.")
        text = comments(lines) + "mix:\n"
        for name, weight in handover.in_unit(self.unit).items():
            text += f"  {quoted(name)}:\n    weight: {number(weight)}\n"
            text += f"    repetition_factor: {number(needed_repetition(handover, name))}{remark(epochs_text(handover, name))}\n"
        return {"olmix.yaml": text}

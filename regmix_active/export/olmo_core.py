"""OLMo-core's ``SourceMixtureList`` as YAML (allenai/OLMo-core, ``src/olmo_core/data/source_mixture.py``).

**Unit: tokens.** ``SourceMixtureDatasetConfig.build`` takes ``int(requested_tokens x target_ratio)`` tokens of each source,
in whole sequences. ``target_ratio`` must be positive and the ratios must sum to 1 (``numpy.allclose``): nothing is
renormalised, zeros are left out. A source that is too small is an *error*, not a repetition, unless ``max_repetition_ratio``
allows it; so the ratio that the target run needs is written, which takes the tokens that there are and those that are wanted.

``SourceMixtureList.from_yaml(file)`` reads it; the rest of ``SourceMixtureDatasetConfig`` (``requested_tokens``,
``global_batch_size``) stays in the user's script.
"""

from __future__ import annotations

from dataclasses import dataclass

from .base import Exporter
from .handover import Handover
from .quoting import comments, epochs_text, heading, number, quoted, remark
from .registry import exporter
from .repetition import needed_repetition


@exporter("olmo-core")
@dataclass(frozen=True)
class OLMoCore(Exporter):
    """``SourceMixtureList``."""

    trainer = "OLMo-core"
    unit = "token"
    data = "tokens"
    needs = ("paths", "tokens", "target_tokens")
    exhausted = "error; the needed ratio is written"

    def files(self, handover: Handover) -> dict[str, str]:
        """One YAML file."""
        lines = heading(
            handover,
            f"For SourceMixtureList.from_yaml; requested_tokens: {handover.target_tokens}. Ratios are shares of the tokens.",
        )
        text = comments(lines) + "sources:\n"
        for name, weight in handover.in_unit(self.unit).items():
            text += f"  - source_name: {quoted(name)}\n    target_ratio: {number(weight)}\n"
            repetition = number(needed_repetition(handover, name))
            text += f"    max_repetition_ratio: {repetition}{remark(epochs_text(handover, name))}\n    paths:\n"
            text += "".join(f"      - {quoted(path)}\n" for path in handover.files(name))
        return {"olmo-core.yaml": text}

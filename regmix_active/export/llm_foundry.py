"""Streams of LLM Foundry and MosaicML Streaming (mosaicml/llm-foundry, mosaicml/streaming).

**Unit: sequences**, if the shards were written with ``--concat_tokens``: then every sample is a row of ``max_seq_len``
tokens. (Shards of text samples are cut or padded to that length: their weights are shares of *rows*, whatever is in them.)

A stream has at most one of three weights, and all streams the same kind (``Stream.validate_weights``,
``Stream.apply_weights``):

- ``proportion`` (relative): divided by the sum of all; an epoch has ``epoch_size`` samples, by default as many as there are.
  A stream that is too small is sampled again. Written with ``epoch_size`` of the target run where that is known.
- ``repeat`` (absolute): how often an epoch sees the stream: one epoch is the whole target run. Needs the tokens that there
  are.
- ``choose`` (absolute): how many samples of the stream an epoch has: likewise. Needs the sequence length; shares are whole
  samples.

With the absolute ones ``epoch_size`` must not be given. Zeros are left out: the index of a stream of weight zero would
still be fetched.

What is written is a part of a training configuration: ``shuffle`` is in it, without which an epoch would go through one
stream after the other, and so are ``drop_last`` and ``num_workers``, which the data loader wants. ``dataset.max_seq_len`` is
there if the sequence length is known. Tokenizer, batch size and ``remote`` places of local streams stay the user's.

The YAML goes through OmegaConf, where ``${`` begins an interpolation; it is escaped in paths.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from .base import Exporter, Need
from .handover import Handover
from .quoting import comments, epochs_text, heading, number, quoted, remark
from .registry import exporter

_INTERPOLATION = re.compile(r"(\\*)\$\{")


@exporter("llm-foundry")
@dataclass(frozen=True)
class LLMFoundry(Exporter):
    """``train_loader.dataset.streams``.

    Attributes:
        weighting: Which of the three weights to write.
        split: The split (subfolder) of every stream.
        num_workers: Processes of the data loader, per device.
    """

    trainer = "LLM Foundry (MosaicML streams)"
    unit = "sequence"
    data = "tokens"
    needs = ("paths",)
    one_path = True
    exhausted = "repeats"

    weighting: Literal["proportion", "repeat", "choose"] = "proportion"
    split: str = "train"
    num_workers: int = 8

    def required(self) -> tuple[Need, ...]:
        """Absolute weights need to know what there is, or how long a row is, and how much is wanted."""
        more: dict[str, tuple[Need, ...]] = {
            "proportion": (),
            "repeat": ("tokens", "target_tokens"),
            "choose": ("sequence_length", "target_tokens"),
        }
        return self.needs + more[self.weighting]

    def files(self, handover: Handover) -> dict[str, str]:
        """One YAML file with the section."""
        absolute = self.weighting != "proportion"
        meaning = "One epoch is the whole target run." if absolute else "Proportions are divided by their sum."
        lines = heading(
            handover,
            f"Streams of MDS shards written with --concat_tokens: all samples have max_seq_len tokens. {meaning}",
            "A part of a training configuration: merge it into yours.",
        )
        text = comments(lines) + "train_loader:\n  name: text\n  dataset:\n    shuffle: true\n"
        if handover.sequence_length is not None:
            text += f"    max_seq_len: {handover.sequence_length}\n"
        if not absolute and handover.target_tokens is not None and handover.sequence_length is not None:
            text += f"    epoch_size: {math.ceil(handover.target_tokens / handover.sequence_length)}{remark('the target run')}\n"
        text += "    streams:\n"
        written = self._weights(handover)
        for name, weight in written.items():
            (path,) = handover.files(name)
            place = "remote" if "://" in path else "local"
            text += (
                f"      {quoted(name)}:\n        {place}: {quoted(escaped(path))}\n        split: {quoted(escaped(self.split))}\n"
            )
            text += f"        {self.weighting}: {weight}{remark(epochs_text(handover, name))}\n"
        return {"llm-foundry.yaml": f"{text}  drop_last: true\n  num_workers: {self.num_workers}\n"}

    def notes(self, handover: Handover) -> list[str]:
        """What is missing, and streams of no samples."""
        said = []
        if handover.sequence_length is None:
            said.append("add train_loader.dataset.max_seq_len, or give --sequence-length N")
        if empty := [name for name in handover.domains if name not in self._weights(handover)]:
            said.append(f"{', '.join(empty)}: less than a sample in the whole target run, left out")
        return said

    def _weights(self, handover: Handover) -> dict[str, str]:
        shares = handover.in_unit(self.unit)
        if self.weighting == "proportion":
            return {name: number(share) for name, share in shares.items()}
        if self.weighting == "repeat":
            return {name: number(handover.epochs(name) or 0.0) for name in shares}
        assert handover.target_tokens is not None
        assert handover.sequence_length is not None
        samples = math.ceil(handover.target_tokens / handover.sequence_length)
        return {name: str(count) for name, count in _apportioned(shares, samples).items() if count > 0}


def escaped(text: str) -> str:
    """Text that OmegaConf takes literally: a backslash before ``${``, and those that stand there doubled."""
    return _INTERPOLATION.sub(lambda found: f"{found.group(1) * 2}\\${{", text)


def _apportioned(shares: dict[str, float], total: int) -> dict[str, int]:
    """Whole numbers that sum to `total`: rounded down, and the largest remainders up."""
    counts = {name: math.floor(share * total) for name, share in shares.items()}
    remainders = sorted(shares, key=lambda name: counts[name] - shares[name] * total)
    for name in remainders[: total - sum(counts.values())]:
        counts[name] += 1
    return counts

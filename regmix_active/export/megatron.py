"""Megatron-LM's blend (NVIDIA/Megatron-LM): the arguments ``--data-path``, ``--data-args-path`` and
``--per-split-data-args-path``.

**Unit: sequences.** ``BlendedDataset`` picks the dataset whose count lags most behind its weight for each *sample*
(``build_blending_indices``), and a sample of a ``GPTDataset`` has ``--seq-length`` tokens, cut from documents that were
joined: a weight is a share of tokens. Weights are divided by their sum (``normalize``). A dataset that is too small is
repeated in as many epochs as its samples need. A weight of zero would build an index of no samples, so zeros are left out. At
most 32,766 datasets.

Of the three files use one. ``data-args.txt`` and the strings of ``per-split.json`` are split at blanks
(``get_blend_and_blend_per_split`` in ``megatron/training/utils.py``), so no path may hold one. Weights and prefixes alternate
in them (``get_blend_from_list``). ``per-split.json`` must hold ``train``, ``valid`` and ``test``; null is no data.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

from regmix_active.errors import ConfigError

from .base import Exporter
from .handover import Handover, Paths
from .quoting import number, quoted
from .registry import exporter

MOST_DATASETS = 32_766


@exporter("megatron")
@dataclass(frozen=True)
class Megatron(Exporter):
    """Three ways to say the blend: words of the command line, an arguments file, JSON per split."""

    trainer = "Megatron-LM"
    unit = "sequence"
    data = "tokens"
    needs = ("paths",)
    one_path = True
    exhausted = "repeats"

    def files(self, handover: Handover) -> dict[str, str]:
        """``data-path.txt`` (to be pasted into a shell), ``data-args.txt`` and ``per-split.json``."""
        if len(handover.weights) > MOST_DATASETS:
            raise ConfigError(f"--format megatron: {len(handover.weights):,} domains; Megatron-LM blends at most {MOST_DATASETS:,}")
        weights = handover.in_unit(self.unit)
        train = _pairs(handover.paths, weights)
        words = [word for pair in train for word in pair]
        splits = {
            "train": _listed(train),
            "valid": _listed(_pairs(handover.validation_paths, weights)),
            "test": _listed(_pairs(handover.test_paths, weights)),
        }
        body = ",\n".join(f" {json.dumps(split)}: {blend}" for split, blend in splits.items())
        return {
            "data-path.txt": f"--data-path {shlex.join(words)}\n",
            "data-args.txt": "".join(f"{weight} {prefix}\n" for weight, prefix in train),
            "per-split.json": f"{{\n{body}\n}}\n",
        }


def _pairs(paths: Paths, weights: dict[str, float]) -> list[tuple[str, str]]:
    """Weight and prefix of every domain that has data here."""
    found = []
    for name, weight in weights.items():
        for path in paths.get(name, ()):
            prefix = path.removesuffix(".bin").removesuffix(".idx")
            if any(letter.isspace() for letter in prefix) or prefix.startswith("-"):
                raise ConfigError(
                    f"--format megatron: the prefix {prefix!r} of {name!r} holds a blank or begins with '-', which Megatron-LM "
                    "would take apart; link the data under another path"
                )
            found.append((number(weight), prefix))
    return found


def _listed(pairs: list[tuple[str, str]]) -> str:
    if not pairs:
        return "null"
    return "[\n" + ",\n".join(f"  {quoted(weight)}, {quoted(prefix)}" for weight, prefix in pairs) + "\n ]"

"""GPT-NeoX's two lists (EleutherAI/gpt-neox): ``train_data_paths`` and ``train_data_weights``.

**Unit: sequences.** ``BlendableDataset`` blends samples by weight (``megatron/data/blendable_dataset.py``), and a sample of a
``GPT2Dataset`` has ``seq_length`` tokens: a weight is a share of tokens. Weights are divided by their sum; each dataset is
asked for its share of the samples and half a percent more (``get_normalized_weights_and_num_samples``) and repeats its
documents for as long as that needs. A weight of zero would ask for no samples, so zeros are left out. At most 254 datasets,
because the index is a byte.

Training paths alone are refused by NeoX: validation and test paths must be there too. They are written if they are known;
else a comment says so. ``weight_by_num_documents`` must stay false, or NeoX computes weights of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from regmix_active.errors import ConfigError

from .base import Exporter
from .handover import Handover, Paths
from .quoting import comments, epochs_text, heading, number, quoted, remark
from .registry import exporter

MOST_DATASETS = 254


@exporter("gpt-neox")
@dataclass(frozen=True)
class GPTNeoX(Exporter):
    """A YAML file of its own, given to NeoX's launcher beside the others."""

    trainer = "GPT-NeoX"
    unit = "sequence"
    data = "tokens"
    needs = ("paths",)
    wants = "validation and test paths"
    one_path = True
    exhausted = "repeats"

    def files(self, handover: Handover) -> dict[str, str]:
        """One YAML file."""
        if len(handover.weights) > MOST_DATASETS:
            raise ConfigError(
                f"--format gpt-neox: {len(handover.weights)} domains have a weight; GPT-NeoX blends at most {MOST_DATASETS}. "
                "Merge domains, or cap their number (mixture.active.at_most)"
            )
        lines = heading(
            handover,
            "A weight is a share of the training samples, which all have seq_length tokens: of the tokens.",
            "Leave weight_by_num_documents false: it would replace these weights.",
        )
        lines += [f"{note[0].upper()}{note[1:]}." for note in self.notes(handover)]
        text = comments(lines)
        splits = (("train", handover.paths), ("valid", handover.validation_paths), ("test", handover.test_paths))
        return {"gpt-neox.yml": text + "".join(self._split(handover, split, paths) for split, paths in splits)}

    def notes(self, handover: Handover) -> list[str]:
        """What NeoX would stop for."""
        splits = {"valid": handover.validation_paths, "test": handover.test_paths}
        missing = [f"{split}_data_paths" for split, paths in splits.items() if not any(map(paths.get, handover.domains))]
        if not missing:
            return []
        return [f"GPT-NeoX stops without {' and '.join(missing)}: add them, or give --paths a file of train, valid and test"]

    def _split(self, handover: Handover, split: str, paths: Paths) -> str:
        weights = {name: weight for name, weight in handover.in_unit(self.unit).items() if paths.get(name)}
        if not weights:
            return ""
        text = f"{split}_data_paths:\n"
        for name in weights:
            (path,) = _one(name, tuple(paths[name]))
            text += f"  - {quoted(path.removesuffix('.bin').removesuffix('.idx'))}{remark(name)}\n"
        text += f"{split}_data_weights:\n"
        for name, weight in weights.items():
            text += f"  - {number(weight)}{remark(name, epochs_text(handover, name) if split == 'train' else '')}\n"
        return text


def _one(name: str, paths: tuple[str, ...]) -> tuple[str]:
    if len(paths) != 1:
        raise ConfigError(f"--format gpt-neox: {name!r} has {len(paths)} paths of validation or test data; give one")
    return (paths[0],)

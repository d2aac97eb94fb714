"""RegMix's YAML for its TinyLlama trainer (sail-sg/regmix, ``mixture_config/config_1b/*.yaml``).

**Unit: sequences.** ``CombinedDataset`` draws a dataset by its weight for every row, and each ``PackedDataset`` yields blocks
of ``block_size + 1`` tokens (``model_training/lit_gpt/packed_dataset.py``): all rows have one length, a weight is a share of
tokens. Weights are divided by their sum (``create_train_dataloader`` in ``pretrain/tinyllama.py``). A dataset that ends
starts again.

What is known from reading it, and checked or said here:

- The keys of ``train`` and ``valid`` are prefixes of file names: the files of a domain are ``glob(DATA_DIR/PREFIX*)``. A
  prefix of another prefix would take its files, too, so such names are refused; and so are prefixes of validation data that
  extend, or are extended by, those of training data: the same text would be trained on and scored.
- ``valid`` must be there (it is deleted from the dictionary without asking). Each of its entries is evaluated by itself. If
  no validation data is named, the names are RegMix's own for all domains: ``valid_books``.
- A domain with fewer files than devices is skipped with a line in the log, and the other shares grow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from regmix_active.errors import ConfigError

from .base import Exporter
from .handover import Handover
from .quoting import comments, epochs_text, heading, number, remark, scalar
from .registry import exporter


@exporter("regmix")
@dataclass(frozen=True)
class RegMix(Exporter):
    """``--data_yaml_file`` of RegMix's TinyLlama trainer.

    Attributes:
        model_name: The trainer's model, such as ``tinyllama_1_1b``; left out if None.
    """

    trainer = "RegMix's TinyLlama"
    unit = "sequence"
    data = "tokens"
    one_path = True
    exhausted = "restarts"

    model_name: str | None = None

    def ready(self, handover: Handover) -> Handover:
        """Also look at the prefixes, those of domains of weight zero included: their files may be there."""
        written = super().ready(handover)
        prefixes = {name: _prefix(handover, name) for name in handover.domains}
        for name in written.domains:
            _check(name, prefixes)
            _check_validation(name, prefixes[name], _held_out(written))
        return written

    def files(self, handover: Handover) -> dict[str, str]:
        """One YAML file."""
        prefixes = {name: _prefix(handover, name) for name in handover.domains}
        lines = heading(
            handover,
            "A weight is a share of the training rows, which all have one length: of the tokens. Keys are prefixes of file names.",
            "The trainer skips a domain that has fewer files than there are devices, and the other shares grow.",
        )
        text = comments(lines) + "train:\n"
        for name, weight in handover.in_unit(self.unit).items():
            said = remark("" if prefixes[name] == name else name, epochs_text(handover, name))
            text += f"  {scalar(prefixes[name])}: {number(weight)}{said}\n"
        text += "valid:\n"
        text += "".join(f"  {scalar(path)}: 1.0\n" for path in _held_out(handover))
        if self.model_name is not None:
            text += f"model_name: {scalar(self.model_name)}\n"
        return {"regmix.yaml": text}


def _prefix(handover: Handover, name: str) -> str:
    return next(iter(handover.files(name)), name)


def _held_out(handover: Handover) -> list[str]:
    """Prefixes of validation data: those that are named, or RegMix's names for every domain; never some of each."""
    named = [path for paths in handover.validation_paths.values() for path in paths]
    return list(dict.fromkeys(named or [_validation(_prefix(handover, name)) for name in handover.domains]))


def _validation(prefix: str) -> str:
    """RegMix's own names: ``train_books`` and ``valid_books``."""
    folder, separator, name = prefix.rpartition("/")
    return f"{folder}{separator}valid_{name.removeprefix('train_')}"


def _check(name: str, prefixes: dict[str, str]) -> None:
    prefix = prefixes[name]
    _check_letters(prefix, f"of {name!r}")
    for other, longer in prefixes.items():
        if other != name and longer.startswith(prefix):
            raise ConfigError(
                f"--format regmix: the files of {other!r} ({longer}*) would also count as those of {name!r} ({prefix}*); "
                f"give {name!r} a prefix of its own with --paths, such as {prefix}_0"
            )


def _check_letters(prefix: str, whose: str) -> None:
    if found := re.search(r"[*?[]", prefix):
        raise ConfigError(
            f"--format regmix: the prefix {prefix!r} {whose} holds {found.group()!r}, which the trainer's glob would expand; "
            "name the files otherwise, and give the prefix with --paths"
        )


def _check_validation(name: str, prefix: str, held_out: list[str]) -> None:
    for other in held_out:
        _check_letters(other, "of validation data")
        if other.startswith(prefix) or prefix.startswith(other):
            wrong = "trained on as" if other.startswith(prefix) else "scored together with"
            raise ConfigError(
                f"--format regmix: validation data ({other}*) would be {wrong} {name!r} ({prefix}*); give both prefixes of "
                f"their own with --paths (train: and valid:), such as train_{name} and valid_{name}"
            )

"""Levanter's data section (marin-community/levanter, stanford-crfm/levanter): components and ``train_weights``.

**Unit: sequences.** ``MixtureDataset`` gives each dataset a fixed number of the examples of every block, and examples of text
are rows of the model's length cut from the joined tokens (``src/levanter/data/mixture.py``, ``data/text``): a weight is a
share of tokens. Weights are divided by their sum; a dataset that ends starts again (``stop_strategy: restart``, the only one
there is). Weights of zero are allowed and skipped; they are left out here.

Traps, which this file avoids:

- Per block a dataset gets ``int(weight x mixture_block_size)`` examples, and the largest takes the rest. With the default of
  2,048 a weight below 0.0005 trains on *nothing*, and says so in a warning only. The block size is written: the smallest
  power of two, up to 32,768 (it must stay below 65,536), at which rounding costs each domain at most a hundredth of its
  share.
- Text is read from ``.jsonl``, ``.json`` and ``.parquet`` alone (``sharded_datasource.py``), and of data sets of the hub the
  split ``train``; the rest is refused. The field of the text is that of the component's ``format``.
- Caches are named after the domain, so a name must not lead out of the cache's folder.

``layout=configs`` writes ``configs`` (``LMMixtureDatasetConfig``) for versions before ``LmDataConfig`` and its
``components``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from regmix_active.errors import ConfigError

from .base import Exporter
from .dataset_arguments import ByDomain, DatasetArguments
from .handover import Handover
from .quoting import comments, epochs_text, heading, number, quoted, remark
from .registry import exporter

READ = ("json", "parquet")
"""Readers (of `datasets`) whose files Levanter reads, too."""

BLOCKS = (2_048, 4_096, 8_192, 16_384, 32_768)


@exporter("levanter")
@dataclass(frozen=True)
class Levanter(Exporter):
    """``data`` of Levanter's configuration.

    Attributes:
        layout: Sections of today's versions (components) or of older ones (configs).
        text_key: The field of a document that holds its text, for all domains or by domain; by default what the run's configuration
            says, or ``text``.
    """

    trainer = "Levanter"
    unit = "sequence"
    data = "text"
    needs = ("paths",)
    exhausted = "restarts"

    layout: Literal["components", "configs"] = "components"
    text_key: ByDomain = None

    def files(self, handover: Handover) -> dict[str, str]:
        """One YAML file with the section."""
        for name in handover.domains:
            if name.startswith("/") or ".." in PurePosixPath(name).parts:
                raise ConfigError(
                    f"--format levanter: the cache of {name!r} would lie outside the cache's folder; rename the domain"
                )
        lines = heading(handover, "A weight is a share of the training examples, which all have one length: of the tokens.")
        text = (
            comments(lines) + f"data:\n  stop_strategy: restart\n  mixture_block_size: {block_size(handover)}\n  train_weights:\n"
        )
        for name, weight in handover.in_unit(self.unit).items():
            text += f"    {quoted(name)}: {number(weight)}{remark(epochs_text(handover, name))}\n"
        text += f"  {self.layout}:\n"
        for name in handover.domains:
            data = DatasetArguments.of(handover, name, self.name, text_key=self.text_key)
            source = [line for line in _source(handover, name, data) if line != self._implied]
            form = [] if data.text_key == "text" else ["format:", "  type: text", f"  text_key: {quoted(data.text_key)}"]
            if self.layout == "components":
                source = ["source:", *(f"  {line}" for line in source)]
            text += f"    {quoted(name)}:\n" + "".join(f"      {line}\n" for line in [*source, *form])
        return {"levanter.yaml": text}

    @property
    def _implied(self) -> str:
        """What versions with ``configs`` take for granted, and the oldest do not know."""
        return "type: url" if self.layout == "configs" else ""

    def notes(self, handover: Handover) -> list[str]:
        """Domains whose share is too small for the largest block."""
        size = block_size(handover)
        return [
            f"{name} has a share of {weight:.2g}: with blocks of {size:,} Levanter never trains on it; leave it out or merge it"
            for name, weight in handover.weights.items()
            if int(weight * size) == 0
        ]


def _source(handover: Handover, name: str, data: DatasetArguments) -> list[str]:
    """Files by URL, or a data set of the hub."""
    if not data.files:
        if data.split != "train":
            raise ConfigError(
                f"--format levanter: {name!r} is the split {data.split!r} of {data.path}, and Levanter trains on splits "
                "called train; write it to .jsonl files, and name them with --paths"
            )
        subset = [] if data.name is None else [f"name: {quoted(data.name)}"]
        return ["type: hf", f"id: {quoted(data.path)}", *subset]
    if data.path not in READ:
        raise ConfigError(
            f"--format levanter: {name!r} has files that Levanter does not read ({data.files[0]}); write its documents to "
            ".jsonl, one on each line, and name those files with --paths"
        )
    lines = ["type: url"]
    for key, paths in (("train_urls", data.files), ("validation_urls", handover.validation_paths.get(name, ()))):
        if paths:
            lines += [f"{key}:", *(f"  - {quoted(path)}" for path in paths)]
    return lines


def block_size(handover: Handover) -> int:
    """The smallest block at which rounding down costs each domain at most a hundredth of its share, or the largest block."""
    for size in BLOCKS:
        if all(int(weight * size) >= 0.99 * weight * size for weight in handover.weights.values()):
            return size
    return BLOCKS[-1]

"""torchtitan's data pipeline as Python code (pytorch/torchtitan, ``torchtitan/components/data/README.md``).

**Unit: sequences.** ``DatasetMixConfig`` weighs whatever its children emit: documents if it mixes before packing, rows of
fixed length if each child is packed first (``ConcatThenSplitPackingConfig``). This code packs first, so that a weight is a
share of tokens. Weights must be positive and finite, so zeros are left out; they are normalised (by Grain, to multiples of a
hundredth of the smallest). Without ``repeat=True`` the mix would end with the first source that ends.

The pipeline is that of torchtitan's main branch. Releases up to 0.3 have ``InterleavedHuggingFaceTextDataLoader`` instead,
for data sets that are registered in ``DATASETS``; its sources are packed, too, so the same weights go into
``HFDataSource(weight=…)``.
"""

from __future__ import annotations

from dataclasses import dataclass

from .base import Exporter
from .dataset_arguments import COMPRESSED, ByDomain, DatasetArguments
from .handover import Handover
from .quoting import comments, epochs_text, heading, number, remark
from .registry import exporter

_CODE = '''
from torchtitan.components.data import (
    ConcatThenSplitPackingConfig,
    DatasetMixConfig,
    GrainDataLoader,
    HuggingFaceStreamingSource,
    IndexedJsonlSource,
    SingleDatasetConfig,
    WeightedDataset,
)
from torchtitan.hf_datasets.text_datasets import TextProcessor

SOURCES = (
    # share of the rows; load_dataset's path, name, data_files and split; the field that holds the text
{rows})


def configured(cls, **settings):
    """Some versions configure by a class within the class, others by the class itself."""
    return getattr(cls, "Config", cls)(**settings)


def packed(path, name, data_files, split, text_key):
    """Rows of fixed length of one source. A file of plain text is one document."""
    if path == "jsonl":
        source = configured(IndexedJsonlSource, patterns=data_files)
    else:
        more = {{"data_files": list(data_files)}} if data_files else {{}}
        if path == "text":
            more["sample_by"] = "document"
        source = configured(HuggingFaceStreamingSource, path=path, name=name, split=split, load_dataset_kwargs=more)
    documents = SingleDatasetConfig(
        source=source,
        processor=configured(TextProcessor, text_fn=lambda row: row[text_key]),
        post_filters=(lambda sample: sample is not None,),
    )
    return ConcatThenSplitPackingConfig(dataset=documents)


def dataloader(seed={seed}):
    """For config.dataloader."""
    datasets = tuple(WeightedDataset(dataset=packed(*source), weight=weight) for weight, *source in SOURCES)
    return configured(GrainDataLoader, dataset=DatasetMixConfig(datasets=datasets), seed=seed, shuffle=True, repeat=True)
'''


@exporter("torchtitan")
@dataclass(frozen=True)
class TorchTitan(Exporter):
    """A Python module with a function ``dataloader``.

    Attributes:
        text_key: The field of a document that holds its text, for all domains or by domain; by default what the run's configuration
            says, or ``text``.
        split: Split of hub data sets, likewise; or ``train``.
        seed: Default of the function's seed.
    """

    trainer = "torchtitan"
    unit = "sequence"
    data = "text"
    needs = ("paths",)
    exhausted = "restarts"

    text_key: ByDomain = None
    split: ByDomain = None
    seed: int = 42

    def files(self, handover: Handover) -> dict[str, str]:
        """One Python file."""
        lines = heading(
            handover,
            "Each source is packed before it is mixed: a weight is a share of rows of fixed length, that is of the tokens.",
        )
        rows = ""
        for name, weight in handover.in_unit(self.unit).items():
            data = DatasetArguments.of(handover, name, self.name, text_key=self.text_key, split=self.split)
            path = "jsonl" if _indexed(data) else data.path
            said = remark(name, epochs_text(handover, name))
            source = (path, data.name, data.files, data.split, data.text_key)
            rows += f"    ({number(weight)}, {', '.join(map(repr, source))}),{said}\n"
        code = _CODE.format(rows=rows, seed=self.seed)
        return {"mixture.py": comments(lines) + code}


def _indexed(data: DatasetArguments) -> bool:
    """Only plain lines can be looked up at random; compressed ones, and those of folders in folders, are streamed."""
    apart = (".json", *COMPRESSED)
    return data.path == "json" and not any(path.lower().endswith(apart) or "**" in path for path in data.files)

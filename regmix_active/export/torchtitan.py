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
from .handover import Handover
from .registry import exporter
from .text import comments, epochs_text, heading, number, remark
from .text_data import COMPRESSED, TextData

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
    # share of the rows, load_dataset's path, name and data_files
{rows})


def text(row):
    return row[{text_key!r}]


def packed(path, name, data_files):
    """Rows of fixed length of one source."""
    if path == "jsonl":
        source = IndexedJsonlSource.Config(patterns=data_files)
    else:
        files = {{"data_files": list(data_files)}} if data_files else {{}}
        source = HuggingFaceStreamingSource.Config(path=path, name=name, split={split!r}, load_dataset_kwargs=files)
    documents = SingleDatasetConfig(
        source=source, processor=TextProcessor.Config(text_fn=text), post_filters=(lambda sample: sample is not None,)
    )
    return ConcatThenSplitPackingConfig(dataset=documents)


def dataloader(seed={seed}):
    """For config.dataloader."""
    datasets = tuple(WeightedDataset(dataset=packed(*source), weight=weight) for weight, *source in SOURCES)
    return GrainDataLoader.Config(dataset=DatasetMixConfig(datasets=datasets), seed=seed, shuffle=True, repeat=True)
'''


@exporter("torchtitan")
@dataclass(frozen=True)
class TorchTitan(Exporter):
    """A Python module with a function ``dataloader``.

    Attributes:
        text_key: The field of a document that holds its text.
        split: Split of hub data sets.
        seed: Default of the function's seed.
    """

    trainer = "torchtitan"
    unit = "sequence"
    data = "text"
    needs = ("paths",)
    exhausted = "restarts"

    text_key: str = "text"
    split: str = "train"
    seed: int = 42

    def files(self, handover: Handover) -> dict[str, str]:
        """One Python file."""
        lines = heading(
            handover,
            "Each source is packed before it is mixed: a weight is a share of rows of fixed length, that is of the tokens.",
        )
        rows = ""
        for name, weight in handover.in_unit(self.unit).items():
            data = TextData.of(name, handover.files(name), self.name)
            # Only plain lines can be looked up at random; compressed ones are streamed.
            indexed = data.path == "json" and data.files and not any(path.endswith((".json", *COMPRESSED)) for path in data.files)
            said = remark(name, epochs_text(handover, name))
            rows += f"    ({number(weight)}, {('jsonl' if indexed else data.path)!r}, {data.name!r}, {data.files!r}),{said}\n"
        code = _CODE.format(rows=rows, split=self.split, text_key=self.text_key, seed=self.seed)
        return {"mixture.py": comments(lines) + code}

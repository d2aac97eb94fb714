"""Python code with ``datasets.interleave_datasets`` (huggingface/datasets), whose probabilities are per *example*.

**Unit: examples.** With ``probabilities`` the next example comes from a source drawn at random, whatever its length. Where
documents differ in length, a share of examples is far from a share of tokens (two sources at 0.5 gave 91 and 9 % of the
tokens, measured), so the probabilities are ``p ~ weight / mean tokens of a document``, renormalised. A test draws from such
sources and counts.

The mean length must be that of the examples as the code yields them: whole documents, in tokens of the target's tokenizer
(only the lengths' proportions count). Code that packs or cuts documents *before* it interleaves has examples of equal length:
use the weights then.

``stopping_strategy="first_exhausted"`` would end with the first source that ends; so each source repeats
(``IterableDataset.repeat``), and the training loop decides when to stop. ``numpy`` wants probabilities that sum to 1; zeros
are left out, so that their data is not opened.
"""

from __future__ import annotations

from dataclasses import dataclass

from .base import Exporter
from .handover import Handover
from .registry import exporter
from .text import comments, epochs_text, heading, number, remark
from .text_data import TextData

_CODE = '''
from datasets import IterableDataset, interleave_datasets, load_dataset

SOURCES = [
    # probability of an example, load_dataset's path, name and data_files
{rows}]


def load(path, name, data_files):
    """One source, which starts again when it ends."""
    files = list(data_files) or None
    return load_dataset(path, name, data_files=files, split={split!r}, streaming=True).select_columns([{text_key!r}]).repeat(None)


def mixture(seed={seed}, load=load) -> IterableDataset:
    """Documents for ever, so that each source gets its share of the tokens."""
    sources = [load(*source) for _, *source in SOURCES]
    probabilities = [probability for probability, *_ in SOURCES]
    return interleave_datasets(sources, probabilities=probabilities, seed=seed, stopping_strategy="first_exhausted")
'''


@exporter("hf-interleave")
@dataclass(frozen=True)
class HFInterleave(Exporter):
    """A Python module with a function ``mixture``.

    Attributes:
        text_key: The field of an example that holds its text; others are dropped, because sources must agree on their fields.
        split: Split of hub data sets.
        seed: Default of the function's seed.
    """

    trainer = "Hugging Face datasets"
    unit = "example"
    data = "text"
    needs = ("paths", "lengths")
    exhausted = "restarts"

    text_key: str = "text"
    split: str = "train"
    seed: int = 42

    def files(self, handover: Handover) -> dict[str, str]:
        """One Python file."""
        lines = heading(
            handover,
            "interleave_datasets draws examples, not tokens: a probability is proportional to the domain's share of the tokens",
            "divided by the mean tokens of its documents.",
        )
        rows = ""
        for name, probability in handover.in_unit(self.unit).items():
            data = TextData.of(name, handover.files(name), self.name)
            said = remark(f"{name}: {handover.weights[name]:.4%} of the tokens", epochs_text(handover, name))
            rows += f"    ({number(probability)}, {data.path!r}, {data.name!r}, {data.files!r}),{said}\n"
        code = _CODE.format(rows=rows, split=self.split, text_key=self.text_key, seed=self.seed)
        return {"mixture.py": comments(lines) + code}

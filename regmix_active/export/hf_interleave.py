"""Python code with ``datasets.interleave_datasets`` (huggingface/datasets), whose probabilities are per *example*.

**Unit: examples.** With ``probabilities`` the next example comes from a source drawn at random, whatever its length. Where
documents differ in length, a share of examples is far from a share of tokens (two sources at 0.5 gave 91 and 9 % of the
tokens, measured), so the probabilities are ``p ~ weight / mean tokens of a document``, renormalised. A test draws from such
sources and counts.

The mean length must be that of the examples as the code yields them: whole documents, in tokens of the target's tokenizer
(only the lengths' proportions count). So a file of plain text is one example here (``sample_by="document"``), not one for each
line. Code that packs or cuts documents *before* it interleaves has examples of equal length:
use the weights then.

``stopping_strategy="first_exhausted"`` would end with the first source that ends; so each source repeats
(``IterableDataset.repeat``), and the training loop decides when to stop. ``numpy`` wants probabilities that sum to 1; zeros
are left out, so that their data is not opened.
"""

from __future__ import annotations

from dataclasses import dataclass

from .base import Exporter
from .dataset_arguments import ByDomain, DatasetArguments
from .handover import Handover
from .quoting import comments, epochs_text, heading, number, remark
from .registry import exporter

_CODE = '''
from datasets import IterableDataset, interleave_datasets, load_dataset

SOURCES = [
    # probability of an example; load_dataset's path, name, data_files and split; the field that holds the text
{rows}]


def load(path, name, data_files, split, text_key):
    """One source, which starts again when it ends. A file of plain text is one document."""
    more = {{"sample_by": "document"}} if path == "text" else {{}}
    documents = load_dataset(path, name, data_files=list(data_files) or None, split=split, streaming=True, **more)
    documents = documents.select_columns([text_key])
    return (documents if text_key == "text" else documents.rename_column(text_key, "text")).repeat(None)


def mixture(seed={seed}, load=load) -> IterableDataset:
    """Documents for ever, so that each source gets its share of the tokens; their field is called text."""
    sources = [load(*source) for _, *source in SOURCES]
    probabilities = [probability for probability, *_ in SOURCES]
    return interleave_datasets(sources, probabilities=probabilities, seed=seed, stopping_strategy="first_exhausted")
'''


@exporter("hf-interleave")
@dataclass(frozen=True)
class HFInterleave(Exporter):
    """A Python module with a function ``mixture``.

    Attributes:
        text_key: The field of an example that holds its text, for all domains or by domain; by default what the run's configuration
            says, or ``text``. Other fields are dropped, because sources must agree on their fields.
        split: Split of hub data sets, likewise; or ``train``.
        seed: Default of the function's seed.
    """

    trainer = "Hugging Face datasets"
    unit = "example"
    data = "text"
    needs = ("paths", "lengths")
    exhausted = "restarts"

    text_key: ByDomain = None
    split: ByDomain = None
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
            data = DatasetArguments.of(handover, name, self.name, text_key=self.text_key, split=self.split)
            said = remark(f"{name}: {handover.weights[name]:.4%} of the tokens", epochs_text(handover, name))
            source = (data.path, data.name, data.files, data.split, data.text_key)
            rows += f"    ({number(probability)}, {', '.join(map(repr, source))}),{said}\n"
        code = _CODE.format(rows=rows, seed=self.seed)
        return {"mixture.py": comments(lines) + code}

"""nanotron's two lists (huggingface/nanotron): ``dataset_folder`` and ``dataset_weights`` of a data stage.

**Unit: sequences.** A ``Nanoset`` picks the dataset whose count lags most behind its weight for each sample, and all samples
have ``sequence_length + 1`` tokens (``src/nanotron/data/nanoset.py``): a weight is a share of tokens. Weights are divided by
their sum. A folder that ends starts again (the sample's index modulo the folder's length). ``NanosetDatasetsArgs`` wants as
many weights as folders, and the one stage that every configuration needs begins at step 1. Zeros are taken, but their folders
would be opened, so they are left out.

Older versions take a dictionary ``dataset_folder: {folder: weight}`` instead of two lists (``layout=dictionary``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from regmix_active.errors import ConfigError

from .base import Exporter
from .handover import Handover
from .quoting import comments, epochs_text, heading, number, quoted, remark
from .registry import exporter


@exporter("nanotron")
@dataclass(frozen=True)
class Nanotron(Exporter):
    """``data_stages`` of nanotron's configuration.

    Attributes:
        layout: Two lists, or the dictionary of older versions.
        seed: The stage's data seed.
        stage: The stage's name.
    """

    trainer = "nanotron"
    unit = "sequence"
    data = "tokens"
    needs = ("paths",)
    one_path = True
    exhausted = "restarts"

    layout: Literal["lists", "dictionary"] = "lists"
    seed: int = 42
    stage: str = "mixture"

    def files(self, handover: Handover) -> dict[str, str]:
        """One YAML file with the section."""
        lines = heading(
            handover, "A weight is a share of the training samples, which all have sequence_length tokens: of the tokens."
        )
        weights = handover.in_unit(self.unit)
        folders = {name: handover.files(name)[0] for name in weights}
        text = comments(lines) + f"data_stages:\n  - name: {quoted(self.stage)}\n    start_training_step: 1\n    data:\n"
        text += f"      seed: {self.seed}\n      num_loading_workers: 1\n      dataset:\n        dataset_folder:\n"
        if self.layout == "dictionary":
            if len(set(folders.values())) < len(folders):
                raise ConfigError(
                    "--format nanotron: two domains have the same folder, which a dictionary cannot say; use layout=lists"
                )
            for name, weight in weights.items():
                text += f"          {quoted(folders[name])}: {number(weight)}{remark(name, epochs_text(handover, name))}\n"
            return {"nanotron.yaml": text}
        text += "".join(f"          - {quoted(folder)}{remark(name)}\n" for name, folder in folders.items())
        text += "        dataset_weights:\n"
        for name, weight in weights.items():
            text += f"          - {number(weight)}{remark(name, epochs_text(handover, name))}\n"
        return {"nanotron.yaml": text}

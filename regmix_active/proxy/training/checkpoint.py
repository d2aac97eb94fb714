"""The state of a training on disk: tensors in safetensors, the rest in JSON, joined by hashes; nothing that runs code when read."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from regmix_active.atomic import write_atomically

log = logging.getLogger(__name__)

FORMAT = 2


@dataclass(frozen=True)
class Checkpoint:
    """What a training needs to go on at the exact step.

    Attributes:
        tensors: By name.
        state: Plain JSON values.
    """

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


class Checkpoints:
    """The newest checkpoint of one job.

    Args:
        path: Of the tensors, without an ending; the files are ``<path>.safetensors`` and ``<path>.json``.
        meaning: Hash of what is trained; a checkpoint of anything else is not read.
        minutes: Between two of them.
    """

    def __init__(self, path: Path, meaning: str, minutes: float) -> None:
        self._path, self._meaning, self._seconds = path, meaning, 60 * minutes
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for the next one."""
        return self._seconds > 0 and time.monotonic() - self._last >= self._seconds

    def save(self, make: Callable[[], Checkpoint]) -> None:
        """Write a checkpoint: whole, or the one before it stays."""
        found = make()
        data = safetensors.torch.save({name: tensor.contiguous().cpu() for name, tensor in found.tensors.items()})
        digest = hashlib.sha256(data).hexdigest()
        # The tensors' name holds their hash, so that the JSON, written last, never points to others.
        file = self._path.with_name(f"{self._path.name}.{digest[:16]}.safetensors")
        write_atomically(file, data)
        record = {"format": FORMAT, "meaning": self._meaning, "tensors": file.name, "sha256": digest, "state": dict(found.state)}
        record = json.loads(json.dumps(record))  # as it will be read: JSON's keys are text
        write_atomically(self._record, json.dumps({**record, "record_sha256": _digest(record)}))
        for old in self._path.parent.glob(f"{self._path.name}.*.safetensors"):
            if old != file:
                old.unlink(missing_ok=True)
        self._last = time.monotonic()

    def load(self) -> Checkpoint | None:
        """The newest checkpoint, or None if there is no intact one of this job; the log says why."""
        try:
            text = self._record.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            return self._none(error)
        try:
            return self._read(json.loads(text))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
            return self._none(error)

    def _read(self, record: dict[str, Any]) -> Checkpoint:
        """What a record describes.

        Raises:
            ValueError: If it is of another training, or damaged; what else is raised says the same.
        """
        written = record.pop("record_sha256")
        if record["format"] != FORMAT or record["meaning"] != self._meaning:
            raise ValueError("of another training, or another version")
        # A step or a loss in which one bit changed would be believed.
        if written != _digest(record):
            raise ValueError("damaged")
        data = self._path.with_name(record["tensors"]).read_bytes()  # a name with slashes is refused
        if hashlib.sha256(data).hexdigest() != record["sha256"]:
            raise ValueError("its tensors are damaged")
        return Checkpoint(safetensors.torch.load(data), record["state"])

    @property
    def _record(self) -> Path:
        return self._path.with_name(f"{self._path.name}.json")

    def _none(self, error: Exception) -> Checkpoint | None:
        log.warning("%s: the checkpoint is not readable (%s); training starts again", self._record, error)
        return None


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()

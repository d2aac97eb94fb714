"""The state of a training on disk: tensors in safetensors, the rest in JSON, joined by a hash; nothing that runs code when read."""

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

FORMAT = 1


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
        write_atomically(self._record, json.dumps(record))
        for old in self._path.parent.glob(f"{self._path.name}.*.safetensors"):
            if old != file:
                old.unlink(missing_ok=True)
        self._last = time.monotonic()

    def load(self) -> Checkpoint | None:
        """The newest checkpoint, or None if there is no intact one of this job."""
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            if record["format"] != FORMAT or record["meaning"] != self._meaning:
                return None
            data = (self._path.parent / record["tensors"]).read_bytes()
            if hashlib.sha256(data).hexdigest() != record["sha256"]:
                log.warning("%s: the checkpoint's tensors are damaged; training starts again", self._record)
                return None
            return Checkpoint(safetensors.torch.load(data), record["state"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            log.warning("%s: not readable (%s); training starts again", self._record, error)
            return None

    @property
    def _record(self) -> Path:
        return self._path.with_name(f"{self._path.name}.json")

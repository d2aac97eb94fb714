"""The blocks of a stack's steps, read ahead of them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from regmix_active.proxy.blocks import BlockPlan, TokenSource

READ_AHEAD_STEPS = 64
READ_AHEAD_BYTES = 32 * 2**20
"""Blocks of at most so many steps and bytes are read at once."""


class Feed:
    """Serves the blocks of every step, ``(K, batch_size, context + 1)`` token ids.

    Blocks are read many steps at a time; for a GPU the next ones are read by a thread while the device works on these.

    Args:
        store: The tokens.
        plans: Blocks of every proxy.
        batch_size: Blocks of one proxy in a step.
        device: Where the ids go.
    """

    def __init__(self, store: TokenSource, plans: Sequence[BlockPlan], batch_size: int, device: torch.device) -> None:
        self._store, self._plans, self._batch, self._device = store, plans, batch_size, device
        self._n_steps = plans[0].domain.size // batch_size
        per_step = len(plans) * batch_size * plans[0].block_length * 8
        self._ahead = max(1, min(READ_AHEAD_STEPS, READ_AHEAD_BYTES // per_step))
        self._first = -1
        self._here = torch.empty(0)
        self._thread = ThreadPoolExecutor(1) if device.type == "cuda" else None
        self._next: tuple[int, Future[Tensor]] | None = None

    def step(self, step: int) -> Tensor:
        """The blocks of one step, int64, on the device."""
        first = step - step % self._ahead
        if first != self._first:
            self._here = self._fetch(first).to(self._device, non_blocking=True).long()
            self._first = first
            following = first + self._ahead
            if self._thread is not None and following < self._n_steps:
                self._next = following, self._thread.submit(self._read, following)
        return self._here[step - first]

    def close(self) -> None:
        """End the reading thread."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _fetch(self, first: int) -> Tensor:
        if self._next is not None and self._next[0] == first:
            return self._next[1].result()
        return self._read(first)

    def _read(self, first: int) -> Tensor:
        """The blocks of several steps, ``(steps, K, batch_size, context + 1)``."""
        last = min(first + self._ahead, self._n_steps)
        plans, batch = self._plans, self._batch
        shape = (last - first, batch, plans[0].block_length)
        blocks = np.stack([plan.gather(self._store, first * batch, last * batch).reshape(shape) for plan in plans], axis=1)
        if self._device.type != "cuda":
            return torch.from_numpy(blocks)
        # Half the bytes over the bus; pinned, so that the copy does not wait for the device.
        return torch.from_numpy(blocks.astype(np.int32)).pin_memory()

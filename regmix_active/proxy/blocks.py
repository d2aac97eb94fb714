"""The block plan: which block of which domain a proxy trains on at every position.

A weight is a share of training *tokens*: every block has the same length, and the domain of every block is drawn by the
mixture.

Domains are drawn by a low-discrepancy sequence, unless independent draws are asked for: position i reads the mixture's cumulative
weights at ``u_i = frac(u_0 + i / golden ratio)``. Such points fill the unit interval about as evenly as any sequence can
(Niederreiter, "Random Number Generation and Quasi-Monte Carlo Methods", 1992, chapter 3), so after N blocks the realised share of a
domain is within about 1 / N of its weight, where independent draws would miss by sqrt(w (1 - w) / N); every batch is balanced, too.
Independent draws, the habit of most data loaders, are there to be compared with (``regmix-active benchmark proxy --noise``): they
read the same cumulative weights at uniform random numbers.

Within a domain, blocks are drawn without replacement: each epoch visits its non-overlapping windows in a new order.

Two mixtures with the same data seed share the points ``u_i`` and the orders (common random numbers): they differ only where their
cumulative weights differ, and so do their losses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from regmix_active.errors import CorpusError

GOLDEN_STEP = (5**0.5 - 1) / 2

Draws = Literal["low-discrepancy", "independent"]
"""How the domains of blocks are drawn; see ``proxy.domain_draws``."""


class TokenArray(Protocol):
    """Token ids that can be counted and picked: a 1-D integer array (may be memory-mapped), or what reads like one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: NDArray[np.int64], /) -> NDArray[Any]: ...


class TokenSource(Protocol):
    """What a proxy reads: the tokens of every domain. :class:`~regmix_active.corpus.TokenStore` is one."""

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, in the order of a mixture's weights."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        ...

    def train(self, domain: int, /) -> TokenArray:
        """Training tokens of a domain."""
        ...

    def validation(self, domain: int, /) -> NDArray[Any]:
        """Validation tokens of a domain, a 1-D integer array (may be memory-mapped)."""
        ...

    def validation_bytes_per_token(self, domain: int, /) -> float:
        """Bytes of text behind one validation token of a domain."""
        ...


@dataclass(frozen=True)
class BlockPlan:
    """The blocks of one proxy, in training order.

    Attributes:
        domain: Domain of every block, shape ``(N,)``.
        start: First token of every block within its domain, shape ``(N,)``.
        block_length: Tokens in a block: context + 1, because the last one is only predicted.
    """

    domain: NDArray[np.int64]
    start: NDArray[np.int64]
    block_length: int

    def shares(self, n_domains: int) -> NDArray[np.float64]:
        """Realised share of every domain, shape ``(n_domains,)``."""
        return np.bincount(self.domain, minlength=n_domains) / self.domain.size

    def gather(self, source: TokenSource, first: int, last: int) -> NDArray[np.int64]:
        """Read blocks ``first`` to ``last`` (exclusive) from the source.

        Returns:
            Token ids, shape ``(last - first, block_length)``.
        """
        domain, start = self.domain[first:last], self.start[first:last]
        tokens = np.empty((domain.size, self.block_length), dtype=np.int64)
        for index in np.unique(domain):
            here = domain == index
            tokens[here] = windows(source.train(int(index)), start[here], self.block_length)
        return tokens


def plan_blocks(
    source: TokenSource,
    weights: NDArray[np.float64],
    data_seed: int,
    n_blocks: int,
    block_length: int,
    draws: Draws = "low-discrepancy",
) -> BlockPlan:
    """Plan the training blocks of one proxy.

    Args:
        source: The tokens; only their counts are read here.
        weights: Mixture, shape ``(d,)``, not negative, not all zero; scaled to sum to one.
        data_seed: Seed of the domain sequence and of the orders within domains, not negative.
        n_blocks: Number of blocks to plan.
        block_length: Tokens in a block.
        draws: Evenly spread domains, or independent ones (categorical, by the weights).

    Returns:
        The plan. A domain of weight 0 is never in it.

    Raises:
        CorpusError: A domain with a weight has fewer tokens than one block.
        ValueError: The weights are not one finite, non-negative number per domain.
    """
    if weights.shape != (len(source.domains),) or not np.isfinite(weights).all() or weights.min() < 0 or weights.sum() <= 0:
        raise ValueError(f"weights must be one share >= 0 for each of {len(source.domains)} domains, not {weights!r}")
    domain = _draw_domains(weights, _points(np.random.default_rng([data_seed]), n_blocks, draws))
    start = np.empty(n_blocks, dtype=np.int64)
    for index in np.flatnonzero(weights):
        n_tokens = len(source.train(int(index)))
        if n_tokens < block_length:
            raise CorpusError(
                f"domain {source.domains[index]!r} has {n_tokens} training tokens, fewer than one block of {block_length}: "
                "add text, set its weight to 0, or lower proxy.context"
            )
        here = np.flatnonzero(domain == index)
        start[here] = _draw_starts(n_tokens, block_length, here.size, n_blocks, [data_seed, int(index)])
    return BlockPlan(domain, start, block_length)


def windows(tokens: TokenArray, start: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Cut ``(len(start), length)`` token ids out of a 1-D array, at the given starts."""
    return tokens[start[:, None] + np.arange(length)].astype(np.int64)


def _points(rng: np.random.Generator, n_blocks: int, draws: Draws) -> NDArray[np.float64]:
    """Numbers in [0, 1), one per block, shape ``(n_blocks,)``."""
    if draws == "independent":
        return rng.random(n_blocks)
    return np.asarray((rng.random() + GOLDEN_STEP * np.arange(n_blocks)) % 1.0)


def _draw_domains(weights: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Read the cumulative weights at the given points."""
    upper = np.cumsum(weights / weights.sum())
    # Rounding may leave the last bound just below 1; a weight of zero must stay an empty interval all the same.
    upper[np.flatnonzero(weights)[-1] :] = 1.0
    return np.searchsorted(upper, points, side="right").astype(np.int64)


def _draw_starts(n_tokens: int, length: int, n_visits: int, n_blocks: int, seed: list[int]) -> NDArray[np.int64]:
    """Return where the visited blocks of one domain start: epochs of all its windows, each in its own order.

    The windows of an epoch begin at its own offset, so that the tokens that do not fill a window are not always the last ones.
    """
    per_epoch, remainder = divmod(n_tokens, length)
    # No epoch needs more than n_blocks windows. This bound, unlike n_visits, is the same for all mixtures, and so is the order.
    drawn = min(per_epoch, n_blocks)
    starts = []
    for epoch in range(-(-n_visits // per_epoch)):
        rng = np.random.default_rng([*seed, epoch])
        offset = rng.integers(remainder, endpoint=True)
        starts.append(offset + length * rng.choice(per_epoch, size=drawn, replace=False))
    return np.concatenate([*starts, np.empty(0, np.int64)])[:n_visits].astype(np.int64)

"""Pools: the part of every domain that proxies draw from, so that they repeat its text as often as a longer run would.

A run of T tokens on the mixture w passes w_i T / N_i times over the N_i tokens of domain i. A proxy of t tokens passes as often
over a pool of N_i t / T tokens, whatever w is: the pools are the same for all proxies of a study. (What repetition does to
losses: Muennighoff et al., Scaling Data-Constrained Language Models, arXiv 2305.16264.)

A pool is made of whole training blocks, one from each of as many stretches of equal length: a part that is like the whole, where
the beginning of a file need not be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from regmix_active.errors import CorpusError
from regmix_active.proxy.blocks import TokenArray, TokenSource

STREAM = 5
"""Stream of random numbers below the study's seed."""


@dataclass(frozen=True)
class Pools:
    """How large each domain's pool is, and which blocks it holds.

    Attributes:
        seed: Of the study. Together with a domain's name it says which blocks are in its pool.
        blocks: Blocks in the pool of every domain of the token store, shape ``(d,)``; None: all of its text.
    """

    seed: int
    blocks: tuple[int | None, ...]

    def to_json(self) -> dict[str, Any]:
        """As a job file holds it."""
        return {"seed": self.seed, "blocks": list(self.blocks)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            KeyError: If something is missing.
            TypeError: If something is not a number.
        """
        blocks = tuple(data["blocks"])
        if any(isinstance(n, bool) or not isinstance(n, int | None) for n in (data["seed"], *blocks)):
            raise TypeError("pools hold something that is no number")
        return cls(data["seed"], blocks)

    def starts(self, domain: int, name: str, n_tokens: int, block_length: int) -> NDArray[np.int64] | None:
        """Where the blocks of a pool begin within their domain, shape ``(blocks,)``; None: the pool is the whole domain.

        Args:
            domain: Index.
            name: Name; a pool stays as it is when other domains come or go.
            n_tokens: Training tokens of the domain.
            block_length: Tokens in a block.

        Raises:
            CorpusError: If the domain holds fewer blocks than its pool.
        """
        wanted = self.blocks[domain]
        if wanted is None:
            return None
        digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
        try:
            return spread_blocks(n_tokens, block_length, wanted, np.random.default_rng([self.seed, STREAM, digest]))
        except ValueError as error:
            raise CorpusError(f"domain {name!r}: its pool does not fit ({error}); run the search again") from None


def spread_blocks(n_tokens: int, block_length: int, wanted: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Choose blocks that do not overlap, one at random from each of as many stretches of the text.

    Args:
        n_tokens: Tokens of the text.
        block_length: Tokens in a block.
        wanted: Blocks to choose, at least one.
        rng: Chooses. Every block is equally likely to be in.

    Returns:
        First token of every block, shape ``(wanted,)``.

    Raises:
        ValueError: If there are fewer blocks.
    """
    there, remainder = divmod(n_tokens, block_length)
    if not 1 <= wanted <= there:
        raise ValueError(f"{wanted} blocks of {there} were wanted")
    # Stretches of whole blocks differ by one in length. Turning the text like a ring makes up for it.
    edges = np.arange(wanted + 1) * there // wanted
    blocks = (rng.integers(edges[:-1], edges[1:]) + rng.integers(there)) % there
    return np.asarray(rng.integers(remainder, endpoint=True) + block_length * blocks, dtype=np.int64)


class PoolTokens:
    """A pool as one array of token ids: its blocks, one after the other. Nothing is read before it is asked for.

    Args:
        tokens: Training tokens of the domain.
        starts: First token of every block, shape ``(blocks,)``.
        block_length: Tokens in a block.
    """

    def __init__(self, tokens: TokenArray, starts: NDArray[np.int64], block_length: int) -> None:
        self._tokens, self._starts, self._length = tokens, starts, block_length

    def __len__(self) -> int:
        return self._starts.size * self._length

    def __getitem__(self, index: NDArray[np.int64], /) -> NDArray[Any]:
        """Token ids at the given places of the pool, in the shape of `index`."""
        block, within = np.divmod(index, self._length)
        return self._tokens[self._starts[block] + within]


class PooledSource:
    """A token source whose training tokens are those of the pools; validation is untouched.

    Args:
        source: All tokens.
        pools: Size of each domain's pool.
        block_length: Tokens in a block, as proxies train on them: then their windows are the pool's blocks.

    Raises:
        CorpusError: If a domain holds fewer blocks than its pool.
        ValueError: If the pools are not one per domain.
    """

    def __init__(self, source: TokenSource, pools: Pools, block_length: int) -> None:
        if len(pools.blocks) != len(source.domains):
            raise ValueError(f"{len(pools.blocks)} pools for {len(source.domains)} domains")
        self._source, self._length = source, block_length
        self._starts = [pools.starts(i, name, len(source.train(i)), block_length) for i, name in enumerate(source.domains)]

    @property
    def domains(self) -> tuple[str, ...]:
        """See :attr:`TokenSource.domains`."""
        return self._source.domains

    @property
    def vocab_size(self) -> int:
        """See :attr:`TokenSource.vocab_size`."""
        return self._source.vocab_size

    def train(self, domain: int, /) -> TokenArray:
        """Training tokens of a domain's pool."""
        starts = self._starts[domain]
        tokens = self._source.train(domain)
        return tokens if starts is None else PoolTokens(tokens, starts, self._length)

    def validation(self, domain: int, /) -> NDArray[Any]:
        """See :meth:`TokenSource.validation`."""
        return self._source.validation(domain)

    def validation_bytes_per_token(self, domain: int, /) -> float:
        """See :meth:`TokenSource.validation_bytes_per_token`."""
        return self._source.validation_bytes_per_token(domain)

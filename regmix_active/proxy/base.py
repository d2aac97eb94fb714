"""What is asked of a proxy, what it answers, and who may answer.

The seam of the proxy room: the search knows these three names and nothing below them. A runner may train a stacked swarm,
start the user's own command or look losses up in a recorded table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

ABSURD_LOSS = 1000.0
"""Nats per token beyond which, on either side of zero, no loss is believed: the proxy diverged."""


@dataclass(frozen=True)
class ProxyRequest:
    """One proxy to train.

    Attributes:
        slot: Position in the study; unique, and the only name under which the result is handed back.
        weights: Mixture, shape ``(d,)``, in the order of the runner's domains.
        init_seed: Seed of the initial weights.
        data_seed: Seed of the order of domains and blocks.
        learning_rate: Peak learning rate, where it is not the configuration's.
        weight_decay: Likewise.
        clip: Likewise, the gradient norm.
    """

    slot: int
    weights: NDArray[np.float64]
    init_seed: int
    data_seed: int
    learning_rate: float | None = None
    weight_decay: float | None = None
    clip: float | None = None


@dataclass(frozen=True)
class ProxyResult:
    """What one proxy showed.

    Attributes:
        slot: The request's slot.
        losses: Mean validation cross-entropy per domain, nats per token; empty when the proxy failed.
        bits_per_byte: The same losses in bits per byte of text, comparable across tokenizers.
        tokens: Tokens trained on.
        seconds: Its share of the stack's wall-clock time.
        failure: Why there are no losses (diverged, crashed), or None.
        shares: Realised share of the training tokens per domain.
        curve: Losses on the way, by the tokens trained on so far (as text, the way JSON keys are), on fewer validation tokens.
        stopped: It was ended early, as hopeless: no losses, no failure, the curve says why.
        diverged: The failure is the mixture's own: trained again, it would fail again, and so would mixtures close to it.
    """

    slot: int
    losses: Mapping[str, float]
    bits_per_byte: Mapping[str, float] = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0
    failure: str | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    curve: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    stopped: bool = False
    diverged: bool = False


class ProxyRunner(Protocol):
    """Turns mixtures into losses. Knows no surrogate, no strategy and no study."""

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, in the order of a request's weights."""
        ...

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the losses that every successful result carries."""
        ...

    def run(self, requests: Sequence[ProxyRequest], known: Collection[int] = ()) -> Generator[ProxyResult, None, None]:
        """Train the requested proxies and yield each result as it is known, in any order, each slot at most once.

        A proxy that fails yields a result with :attr:`ProxyResult.failure`; the runner raises only when nothing more can run.
        Closing the iterator abandons what is in flight.

        Args:
            requests: A whole round.
            known: Slots whose results are recorded already. They need no training, but tell the runner the whole round, so that
                it can give the others the same company as the first time.
        """
        ...


Propose = Callable[[int], Sequence[ProxyRequest]]
"""Asks for at most so many proxies that shall train together; nothing, if there are none at present."""


@runtime_checkable
class StreamingRunner(Protocol):
    """A :class:`ProxyRunner` that takes new proxies while others train."""

    @property
    def workers(self) -> int:
        """Jobs that train at the same time."""
        ...

    @property
    def stack(self) -> int:
        """Proxies in one job, at most."""
        ...

    def stream(self, propose: Propose) -> Generator[ProxyResult, None, None]:
        """Keep every worker busy with what `propose` hands out, until it has nothing left and all have ended.

        Yields results as :meth:`ProxyRunner.run` does; `propose` is called after they were taken.
        """
        ...


@runtime_checkable
class StoppingRunner(Protocol):
    """A :class:`ProxyRunner` that can end hopeless proxies early."""

    def stopping_early(
        self, pruner: str, weights: Mapping[str, float], finished: Sequence[Mapping[str, Mapping[str, float]]]
    ) -> ProxyRunner:
        """The same runner, for one round.

        Args:
            pruner: Which of Optuna's pruners decides: ``median``, ``asha`` or ``hyperband``.
            weights: Weights of the target over losses.
            finished: Learning curves of finished proxies, as :attr:`ProxyResult.curve`, oldest first.
        """
        ...

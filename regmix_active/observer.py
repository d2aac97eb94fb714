"""What a search tells those who watch it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regmix_active.proxy.base import ProxyResult

if TYPE_CHECKING:
    from regmix_active.recommend.simulate import Recommendation


class Observer:
    """Watches a search; every method does nothing until overridden. Called in the driver's process, between its steps."""

    def on_stage(self, text: str) -> None:
        """A step that may take a while begins, such as building the corpus or fitting the surrogate."""

    def on_warning(self, text: str) -> None:
        """Something that the user should know happened, such as lines left out of the corpus."""

    def on_start(self, completed: int, budget: int, best: float | None) -> None:
        """The search begins or continues.

        Args:
            completed: Proxies already in the study.
            budget: Proxies it shall have.
            best: Smallest target so far, nats per token.
        """

    def on_round(self, index: int, size: int, unfinished: int, proposer: str) -> None:
        """A round is planned and starts training.

        Args:
            index: Number of the round, from 0.
            size: Proxies in it.
            unfinished: Those of them still to be trained.
            proposer: What chose the mixtures.
        """

    def on_recommendation(self, found: Recommendation) -> None:
        """The search has its answer; results that follow belong to a verification."""

    def on_result(self, result: ProxyResult, value: float | None) -> None:
        """A result is recorded.

        Args:
            result: Losses, or the failure.
            value: Its target, nats per token; None for a failure, and for a proxy that was stopped early.
        """

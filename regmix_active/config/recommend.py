"""The schema's ``recommend`` section: how the answer is found."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from regmix_active.config.section import Positive, Section


class RecommendConfig(Section):
    """The answer: simulate the simplex, average the best."""

    simulations: Annotated[int, Field(ge=1000)] = 100_000
    """Mixtures simulated through the surrogate."""

    top_k: Positive = 128
    """Best simulated mixtures that are averaged."""

    rule: Literal["bound", "mean", "thompson"] = "bound"
    """By what simulated mixtures are ranked: `bound` (what their target may well be: the expectation and `caution` standard
    deviations), `mean` (the expectation alone, as RegMix does) or `thompson` (by votes: how many functions drawn from the posterior
    have the mixture among their best)."""

    caution: Annotated[float, Field(ge=0)] = 1.0
    """Standard deviations of doubt that count as loss with the rule `bound`; 0 ranks by the expected target, as RegMix does."""

    interval: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Probability of the intervals that the answer comes with."""

    draws: Annotated[int, Field(ge=0)] = 128
    """Functions drawn from the posterior to see how far the answer can be trusted; 0: do not look."""

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.top_k > self.simulations:
            raise ValueError(f"top_k ({self.top_k}) is more than simulations ({self.simulations}), of which it takes the best")
        return self

"""The schema's ``mixture`` section: which mixtures are allowed."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from regmix_active.config.section import Positive, Section, Share, check_names

Tokens = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class GroupConfig(Section):
    """Domains that are bounded together, such as all code, or a source with its topics."""

    members: tuple[str, ...]
    """Domains, other groups, or patterns such as `wiki-*`; groups in groups make a hierarchy."""

    min: Share | None = None
    """Smallest weight of the group."""

    max: Share | None = None
    """Largest weight of the group."""

    within: str | None = None
    """A larger group, with all these members, whose weight `min` and `max` are shares of; default: all tokens."""

    proportions: Literal["free", "natural"] = "free"
    """`natural`: the members keep their natural proportions and share one weight, which is all that the search chooses."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.members:
            raise ValueError("members is empty; name domains or groups, such as [github, stackexchange]")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min:g}) is above max ({self.max:g})")
        return self


class ActiveConfig(Section):
    """How many domains a mixture uses; those it does not use have weight zero."""

    at_least: Positive | None = None
    """Use at least so many domains."""

    at_most: Positive | None = None
    """Use at most so many domains."""

    smallest: Share = 0.0
    """A domain that is used gets at least this weight."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least ({self.at_least}) is above at_most ({self.at_most})")
        return self


class PullConfig(Section):
    """A preference for mixtures near a given one, for what the losses do not say."""

    kind: Literal["kl", "l1"] = "kl"
    """Distance: Kullback-Leibler divergence, or the sum of absolute differences."""

    strength: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Nats per token that a distance of one adds to the target; 0: no pull."""

    towards: Literal["natural", "prior", "uniform"] = "natural"
    """Which mixture."""


class MixtureConfig(Section):
    """Which mixtures are allowed: in designs, proposals, the answer and its export alike."""

    floors: dict[str, Share] = Field(default_factory=dict)
    """Smallest weight of a domain, such as `{books: 0.05}`."""

    caps: dict[str, Share] = Field(default_factory=dict)
    """Largest weight of a domain, such as `{web: 0.5}`."""

    fixed: dict[str, Share] = Field(default_factory=dict)
    """Weights that are given, such as `{logs: 0.1}`."""

    max_ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    """No domain gets more than so many times its natural share (RegMix trains its proxies below 15)."""

    groups: dict[str, GroupConfig] = Field(default_factory=dict)
    """Groups by name, such as `{code: {members: [github, stackexchange], max: 0.3}}`."""

    active: ActiveConfig = ActiveConfig()

    target_tokens: Tokens | None = None
    """Training tokens of the model that the mixture is for. With it, no domain is repeated more than `max_epochs` times."""

    max_epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0
    """How often the target run may repeat a domain; up to about four times, repeated tokens are nearly worth new ones
    (arXiv 2305.16264)."""

    tokens: dict[str, Tokens] = Field(default_factory=dict)
    """Tokens that there are of each domain for the target run; default: the corpus's, or `runner.domains`."""

    match_repetition: bool = False
    """Let proxies draw from a part of each domain, so that they repeat it as often as the target run would (needs
    `target_tokens`; with `runner.command` also `proxy.tokens`, what it trains on: it is told `pool_shares`). Losses then mean
    something else: another study."""

    prior: dict[str, Tokens] | None = None
    """What random mixtures are drawn around: a share or token count per domain; default: the natural mixture."""

    temperature: Annotated[float, Field(ge=0.1, allow_inf_nan=False)] = 2.0
    """Flattens the prior: shares are raised to 1/temperature (RegMix takes square roots: 2; 1: as it is; below 1: sharpened)."""

    pull: PullConfig = PullConfig()

    @field_validator("groups")
    @classmethod
    def _names(cls, groups: dict[str, GroupConfig]) -> dict[str, GroupConfig]:
        check_names(groups)
        return groups

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.match_repetition and self.target_tokens is None:
            raise ValueError("match_repetition needs target_tokens: the training tokens of the model that the mixture is for")
        return self

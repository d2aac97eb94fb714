"""What an objective says to its trial: which mixture do I train, and these are its losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optuna.trial import BaseTrial

from regmix_active.errors import ConfigError, StudyError
from regmix_active.mixture.space import TOLERANCE, MixtureSpace
from regmix_active.study.trials import PREFIX

LOSSES = "losses"
"""User attribute that holds a trial's losses by name."""


def suggest_mixture(trial: BaseTrial, domains: Sequence[str] | MixtureSpace) -> dict[str, float]:
    """The mixture of a trial, by domain; weights sum to one.

    Args:
        trial: What the objective was called with, or what `study.ask` returned.
        domains: All domains that the study's sampler was made for, in any order.

    Raises:
        StudyError: If these weights are no mixture: domains are missing, or another sampler chose them.
    """
    names = domains.domains if isinstance(domains, MixtureSpace) else tuple(domains)
    weights = {name: trial.suggest_float(PREFIX + name, 0.0, 1.0) for name in names}
    if abs(sum(weights.values()) - 1) > TOLERANCE:
        raise StudyError(
            f"trial {trial.number}: the weights of {', '.join(names)} sum to {sum(weights.values()):.6g}, not to 1; "
            "give the study a MixtureSampler of the same domains (optuna.load_study takes `sampler` too)"
        )
    return weights


def record_losses(trial: BaseTrial, losses: Mapping[str, float]) -> None:
    """Write the losses of a trial, from which the sampler fits one surrogate each. Without them it learns from the value alone.

    Args:
        trial: The trial that trained them, before it is told.
        losses: Nats per token by name, in every trial the same names; one that is not finite says that the proxy diverged.

    Raises:
        ConfigError: If there are none.
    """
    if not losses:
        raise ConfigError("record_losses: no losses were given")
    trial.set_user_attr(LOSSES, {str(name): float(loss) for name, loss in losses.items()})

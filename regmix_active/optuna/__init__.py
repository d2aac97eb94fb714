"""Mixtures in an Optuna study of your own: a sampler, and two lines for the objective.

::

    domains = ["books", "code", "web"]

    def objective(trial):
        mixture = suggest_mixture(trial, domains)     # {"books": 0.2, "code": 0.5, "web": 0.3}
        losses = train_and_score(mixture)             # {"books": 3.1, "code": 2.2, "web": 3.4}
        record_losses(trial, losses)
        return sum(losses.values()) / len(losses)

    study = optuna.create_study(sampler=MixtureSampler(domains))
    study.optimize(objective, n_trials=64)
"""

from regmix_active.optuna.sampler import MixtureSampler, UnfitStudyError
from regmix_active.optuna.trial import record_losses, suggest_mixture

__all__ = ["MixtureSampler", "UnfitStudyError", "record_losses", "suggest_mixture"]

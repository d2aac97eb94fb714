"""An Optuna study whose target has references and limits."""

from __future__ import annotations

import numpy as np
import optuna

from regmix_active.mixture.space import MixtureSpace
from regmix_active.optuna.reader import TrialReader
from regmix_active.optuna.trial import record_losses

DOMAINS = ("books", "code", "web")


def test_limited_losses_are_read_beside_the_weighed_ones() -> None:
    study = optuna.create_study()
    for share in (0.2, 0.5, 0.8):
        trial = study.ask()
        weights = {"books": share, "code": 1 - share, "web": 0.0}
        for name, weight in weights.items():
            trial.suggest_float(f"w/{name}", weight, weight)
        record_losses(trial, {name: 3 - weight for name, weight in weights.items()})
        study.tell(trial, 0.0)
    space = MixtureSpace(DOMAINS, np.array([0.5, 0.5, 0.0]))
    spec = {"weights": {"code": "7/52"}, "excess_over": "natural", "limits": {"books": {"above_natural": 0.0}}}
    history = TrialReader(space, spec).history(study.trials)
    assert history.target.loss_names == ("books", "code")
    np.testing.assert_allclose(history.values, [-0.3, 0.0, 0.3])
    assert history.feasible.tolist() == [False, True, True]
    assert history.best == 1

"""What a history makes of targets with references and limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from regmix_active.mixture.constraints import Bound, Constraints
from regmix_active.mixture.space import MixtureSpace
from regmix_active.study.history import History
from regmix_active.study.target import Target

DOMAINS = ("a", "b")
SPACE = MixtureSpace(DOMAINS, np.array([0.5, 0.5]))
MIXTURES = np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.7, 0.3]])
LOSSES = np.array([[3.0, 2.0], [2.0, 2.6], [3.5, 1.9], [3.2, 2.2], [2.5, 2.05]])


def history(spec: Any, losses: np.ndarray[Any, Any] = LOSSES, space: MixtureSpace = SPACE) -> History:
    return History(space, Target.parse(spec, DOMAINS), MIXTURES, losses, np.arange(5))


def test_references_are_the_natural_mixtures_mean_losses() -> None:
    np.testing.assert_allclose(history("mean").references, [3.1, 2.1])
    np.testing.assert_allclose(history({"weights": {"a": 1}, "excess_over": "natural"}).values, LOSSES[:, 0] - 3.1)


def test_without_the_natural_mixture_the_nearest_one_stands_for_it() -> None:
    space = MixtureSpace(DOMAINS, np.array([0.75, 0.25]))
    np.testing.assert_allclose(history("mean", space=space).references, LOSSES[4])
    missing = LOSSES.copy()
    missing[4, 1] = np.nan
    np.testing.assert_allclose(history("mean", missing, space).references, [2.5, 2.6]), "of each loss"
    missing[:, 1] = np.nan
    assert np.isnan(history("mean", missing, space).references).tolist() == [False, True]


def test_the_best_keeps_the_limits() -> None:
    assert history({"a": 1}).best == 1
    limited = history({"weights": {"a": 1}, "limits": {"b": {"above_natural": 0.0}}})
    assert limited.feasible.tolist() == [True, False, True, False, True]
    assert limited.best == 4
    assert history({"weights": {"a": 1}, "limits": {"b": {"at_most": 1.0}}}).best == 2, "the nearest to keeping it"
    assert not history({"weights": {"a": 1}, "limits": {"b": {"at_most": 1.0}}}).feasible.any()


def test_the_best_is_in_the_feasible_set() -> None:
    cap = Bound("mixture.caps.a", "a at most 0.6", np.array([1.0, 0.0]), high=0.6)
    space = MixtureSpace(DOMAINS, SPACE.natural, Constraints((cap,)))
    assert history({"a": 1}, space=space).feasible.tolist() == [True, False, True, True, False]
    assert history({"a": 1}, space=space).best == 0
    none = MixtureSpace(DOMAINS, SPACE.natural, Constraints((replace(cap, high=0.1),)))
    assert history({"a": 1}, space=none).best == 1, "of none that is feasible, the best"


def test_a_limited_loss_that_is_missing_is_not_kept() -> None:
    losses = LOSSES.copy()
    losses[4, 1] = np.nan
    limited = history({"weights": {"a": 1}, "limits": {"b": {"above_natural": 0.0}}}, losses)
    assert not limited.feasible[4]
    assert limited.values[4] == 2.5
    assert limited.best == 0
    losses[:, 0] = np.nan
    with pytest.raises(ValueError, match="no finished proxy has all losses that the target weighs"):
        _ = history({"a": 1}, losses).best


def test_one_target_or_several() -> None:
    alone = history("mean")
    assert alone.targets == (alone.target,)
    other = Target.parse("a", DOMAINS)
    assert replace(alone, target=other).targets == (other,)
    both = replace(alone, targets=(other, alone.target))
    assert both.targets == (other, alone.target)
    assert both.before(3).targets == both.targets


@pytest.mark.parametrize("worst", [False, True])
@pytest.mark.parametrize("relative", [False, True])
def test_without_references_there_is_no_target(worst: bool, relative: bool) -> None:
    """Not zero, and no traceback, be it of no runs or of runs that lack the loss."""
    whole = history({"weights": {"a": 1, "b": 1}, "worst": worst, "excess_over": "natural", "relative": relative})
    assert np.isfinite(whole.values).all()
    assert whole.before(0).values.shape == (0,)
    assert np.isnan(whole.target(LOSSES, whole.before(0).references)).all()
    assert np.isnan(whole.target(LOSSES, np.array([3.0, np.nan]))).all()

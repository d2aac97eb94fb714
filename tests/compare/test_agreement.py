"""Do imported losses mean the same? A shift is found, chance is not called one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from regmix_active.compare.agreement import Offset, compare_losses
from regmix_active.mixture.space import MixtureSpace
from regmix_active.report.agreement import offset_table, offset_warning
from regmix_active.study.history import History
from regmix_active.study.imported import ImportedRun
from regmix_active.study.target import Target
from regmix_active.surrogate.registry import load_surrogate

NAMES = ("a", "b", "c")
SPACE = MixtureSpace(NAMES, np.array([0.5, 0.3, 0.2]))
NOISE = 0.01


def losses_of(mixtures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Losses as they are: smooth in the mixture, with the noise of a seed."""
    return 2 + np.exp(-3 * mixtures) + NOISE * rng.standard_normal(mixtures.shape)


def history(n: int, rng: np.random.Generator) -> History:
    mixtures = SPACE.dirichlet(n, np.ones(3), rng)
    return History(SPACE, Target.parse("mean", NAMES), mixtures, losses_of(mixtures, rng), np.arange(n))


def imported(n: int, rng: np.random.Generator, shift: float = 0.0) -> list[ImportedRun]:
    mixtures = SPACE.dirichlet(n, np.ones(3), rng)
    losses = losses_of(mixtures, rng) + shift
    return [
        ImportedRun(str(i), row, dict(zip(NAMES, loss.tolist(), strict=True)))
        for i, (row, loss) in enumerate(zip(mixtures, losses, strict=True))
    ]


@pytest.mark.parametrize(("own", "theirs"), [(24, 10), (10, 24)])
def test_a_shift_is_found_whichever_side_is_larger(own: int, theirs: int) -> None:
    rng = np.random.default_rng(0)
    offsets = compare_losses(imported(theirs, rng, 0.3), history(own, rng), load_surrogate("gp"))
    assert [offset.loss for offset in offsets] == list(NAMES)
    for offset in offsets:
        assert (offset.fitted, offset.predicted) == (24, 10)
        assert offset.mean == pytest.approx(0.3, abs=0.1), "positive: imported runs are worse"
        assert offset.suspicious
    assert "3 of 3 losses of the imported runs lie elsewhere" in str(offset_warning(offsets))


def test_chance_is_no_shift() -> None:
    """Twelve comparisons of three losses: three standard errors of the normal law would be passed by 0.1 of 36."""
    warned = 0
    for seed in range(12):
        rng = np.random.default_rng([1, seed])
        warned += sum(o.suspicious for o in compare_losses(imported(10, rng), history(16, rng), load_surrogate("log-linear")))
    assert warned <= 1


def test_only_what_both_sides_have_is_compared() -> None:
    rng = np.random.default_rng(2)
    runs = [ImportedRun(run.name, run.weights, {"b": run.losses["b"]}) for run in imported(12, rng)]
    own = history(9, rng)
    (offset,) = compare_losses(runs, own, load_surrogate("gp"))
    assert (offset.loss, offset.fitted, offset.predicted) == ("b", 12, 9)
    few = History(SPACE, own.target, own.mixtures[:7], own.losses[:7], own.slots[:7])
    assert compare_losses(runs[:7], few, load_surrogate("gp")) == [], "seven runs are too few to fit"
    assert compare_losses(runs, few, load_surrogate("gp")) != []
    assert compare_losses([], own, load_surrogate("gp")) == []


def test_runs_that_were_imported_before_are_not_the_studys_own() -> None:
    rng = np.random.default_rng(3)
    own = history(12, rng)
    before = History(SPACE, own.target, own.mixtures, own.losses, np.arange(-12, 0))
    assert compare_losses(imported(5, rng), before, load_surrogate("gp")) == []


def test_a_difference_must_be_large_and_certain() -> None:
    assert Offset("a", 0.1, 0.03, 8, 8).suspicious
    assert Offset("a", -0.1, 0.03, 8, 8).suspicious
    assert not Offset("a", 0.1, 0.04, 8, 8).suspicious, "chance explains it"
    assert not Offset("a", 0.019, 0.001, 8, 8).suspicious, "it hardly matters"
    assert not Offset("a", math.nan, 0.1, 8, 8).suspicious
    assert offset_warning([Offset("a", 0.0, 0.1, 8, 8)]) is None
    assert offset_table([Offset(f"l{i}", 0.1, 0.1, 8, 8) for i in range(20)]).row_count == 13

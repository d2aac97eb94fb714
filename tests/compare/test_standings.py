"""Medians, intervals and wins, also where a search never got there."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from regmix_active.compare.replay import REGMIX, Answer, Chase
from regmix_active.compare.standings import EmulatorStanding, PoolStanding, Spread


def test_median_and_interval() -> None:
    spread = Spread.of([3.0, 1.0, 2.0, 10.0])
    assert (spread.median, spread.worst, spread.seeds) == (2.5, 10.0, 4)
    assert 1.0 <= spread.low < 2.5 < spread.high <= 10.0
    assert Spread.of([1.0, 2.0]) == Spread.of([1.0, 2.0])
    one = Spread.of([4.0])
    assert (one.median, one.low, one.high, one.worst) == (4.0, 4.0, 4.0, 4.0)


def test_interval_covers_the_median_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    intervals = [Spread.of(rng.normal(size=11).tolist()) for _ in range(150)]
    covered = np.mean([spread.low <= 0 <= spread.high for spread in intervals])
    assert 0.82 <= covered <= 0.99


@pytest.mark.parametrize(
    ("values", "median"),
    [
        ([1.0, math.inf, 2.0], 2.0),
        ([1.0, math.inf], math.inf),
        ([math.inf] * 3, math.inf),
        ([1.0, 3.0, math.inf, math.inf], math.inf),
    ],
)
def test_what_was_never_reached(values: list[float], median: float) -> None:
    spread = Spread.of(values)
    assert spread.median == median
    assert spread.worst == math.inf
    json.dumps(spread.as_dict(), allow_nan=False)


def test_pool_standing() -> None:
    standing = PoolStanding("tpe", "mean")
    standing.chases = {0: Chase([4, 2, 1], 3, 3, [0.4, 0.2, 0.0]), 1: Chase([4, 2, 0, 3], None, None, [0.4, 0.2, 0.2, 0.1])}
    assert standing.found_in == 1
    assert standing.needed.median == math.inf
    # What has been found stays found.
    assert standing.regret(4).median == pytest.approx(0.05)
    assert standing.regret(100).worst == pytest.approx(0.1)


def test_emulator_standing_is_paired_by_seed() -> None:
    answers = {seed: [Answer(16, 5.0 + seed, [1.0]), Answer(24, 4.0, [1.0])] for seed in range(3)}
    standing = EmulatorStanding("tpe", "mean", answers, reference={0: 5.1, 1: 5.1, 2: 6.9})
    assert standing.checkpoints == [16, 24]
    assert list(standing.differences(16).values()) == pytest.approx([-0.1, 0.9, 0.1])
    assert (standing.wins(16), standing.wins(24)) == (1, 3)
    difference = standing.difference(16)
    assert difference is not None
    assert difference.worst == pytest.approx(0.9)
    assert EmulatorStanding("tpe", "mean", answers).difference(16) is None
    assert EmulatorStanding(REGMIX, "mean", answers, reference={0: 5.0}).difference(16) is None

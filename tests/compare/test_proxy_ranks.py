"""Rank correlations with intervals, and the noise between seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from regmix_active.compare.proxy_ranks import Losses, measures, rank, rank_all
from regmix_active.compare.seed_noise import OURS, PLAIN, WAYS, Way, seed_noise, squared_residuals


def test_rank_is_spearman_averaged_over_seeds() -> None:
    rng = np.random.default_rng(1)
    reference = rng.normal(size=30)
    tested = reference + 0.5 * rng.normal(size=(3, 30))
    found = rank(tested, reference)
    assert found.spearman == pytest.approx(np.mean([spearmanr(row, reference).statistic for row in tested]))
    assert found.low < found.spearman < found.high
    assert found == rank(tested, reference), "seeded"
    assert found.mixtures == 30


def test_rank_of_nothing_is_nan() -> None:
    assert math.isnan(rank(np.zeros((1, 3)), np.arange(3.0)).spearman)
    constant = rank(np.zeros((1, 8)), np.arange(8.0))
    assert math.isnan(constant.spearman)
    assert constant.as_dict() == {"spearman": None, "low": None, "high": None, "mixtures": 8}


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    # 60 samples of 40 pairs whose population Spearman is 6/pi asin(rho/2). An exact 90 % interval would hold it fewer than 45 times
    # about once in 1,000 trials; the percentile bootstrap is a little short, so 43.
    rho, held = 0.8, 0
    truth = 6 / np.pi * np.arcsin(rho / 2)
    for seed in range(60):
        x, y = np.random.default_rng(seed).multivariate_normal([0, 0], [[1, rho], [rho, 1]], size=40).T
        found = rank(x[None], y)
        held += found.low <= truth <= found.high
    assert held >= 43


def test_failed_proxies_are_left_out_and_units_weigh_domains_differently() -> None:
    rng = np.random.default_rng(2)
    nats = rng.normal(size=(2, 12, 2)) + 3
    bits = nats * np.array([1.0, 100.0])
    reference = Losses(nats[:1], bits[:1])
    broken = nats.copy()
    broken[1, 5] = np.nan
    wanted = measures(["a", "b"], ["b"])
    assert [m.name for m in wanted] == ["mean of all losses", "mean of all, bits per byte", "held-out b", "a", "b"]
    parts = {"all": np.ones(12, dtype=bool), "first": np.arange(12) < 6}
    found = rank_all(Losses(broken, bits), reference, wanted, parts)
    assert found["mean of all losses"]["all"].mixtures == 11
    assert found["mean of all losses"]["first"].mixtures == 5
    assert found["mean of all, bits per byte"]["all"].mixtures == 12, "the bits are whole"
    one = rank_all(Losses(nats[:1], bits[:1]), reference, wanted, parts)
    assert {name: by["all"].spearman for name, by in one.items()} == pytest.approx(dict.fromkeys(one, 1.0))


def noise_tables(rng: np.random.Generator, m: int, s: int) -> dict[Way, np.ndarray]:
    """Targets with var(e) = 1 for low-discrepancy draws and 2 for independent ones, and an offset of variance 3 per seed."""
    tables = {}
    for way in WAYS:
        offset = np.sqrt(3) * rng.normal(size=(1, s) if way.common else (m, s))
        rest = np.sqrt(1 if way.draws == "low-discrepancy" else 2) * rng.normal(size=(m, s))
        tables[way] = 10 * rng.normal(size=(m, 1)) + offset + rest
    return tables


def test_noise_is_unbiased_in_every_way() -> None:
    expected = {OURS: 1, Way(True, "independent"): 2, Way(False, "low-discrepancy"): 4, PLAIN: 5}
    rng = np.random.default_rng(3)
    means = dict.fromkeys(WAYS, 0.0)
    for _ in range(300):
        for way, table in noise_tables(rng, 8, 8).items():
            means[way] += float(squared_residuals(table, way.common).mean()) / 300
    # Standard error of each mean below 1.3 %.
    assert means == pytest.approx(expected, rel=0.05)


def test_common_offsets_and_mixtures_values_do_not_count() -> None:
    rng = np.random.default_rng(4)
    residuals = rng.normal(size=(5, 6))
    shifted = residuals + 7 * rng.normal(size=(5, 1)) + 9 * rng.normal(size=(1, 6))
    np.testing.assert_allclose(squared_residuals(residuals, True), squared_residuals(shifted, True), atol=1e-9)


def test_ratios_come_with_an_interval() -> None:
    found = seed_noise(noise_tables(np.random.default_rng(5), 8, 8))
    assert list(found) == list(WAYS)
    assert found[PLAIN].ratio == found[PLAIN].low == found[PLAIN].high == 1
    ours = found[OURS]
    assert ours.low < ours.ratio < ours.high
    assert ours.low < 0.2 < ours.high
    assert ours.std == pytest.approx(math.sqrt(ours.variance))
    assert str(OURS) == "common seeds, low-discrepancy draws"

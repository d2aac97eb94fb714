"""The initial design is distributed as the draws of RegMix's published generator, written out here draw by draw.

Seeds are fixed, so the tests cannot flicker; with random ones, each comparison would fail by chance once in a thousand times.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from regmix_active.mixture.designs import regmix_design
from regmix_active.mixture.space import MixtureSpace

NATURAL = np.array([0.36, 0.22, 0.15, 0.12, 0.08, 0.04, 0.02, 0.01])
FALSE_ALARM = 1e-3


def drawn_one_by_one(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    prior = NATURAL**0.5 / (NATURAL**0.5).sum()
    strengths = np.logspace(np.log10(0.1), np.log10(5.0), 15)
    kept = []
    for _ in range(100 * n):
        draw = rng.dirichlet(prior * rng.choice(strengths))
        if (draw > np.minimum(15 * NATURAL, 1.0)).any():
            continue
        draw = np.where(draw < 2e-4, 0.0, draw)
        kept.append(np.round(draw / draw.sum() / 2e-4) * 2e-4)
    rows = np.unique(np.round(kept, 6), axis=0)
    return rows[rng.choice(len(rows), size=n, replace=False)]


@pytest.fixture(scope="module")
def samples() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    space = MixtureSpace(tuple("abcdefgh"), NATURAL)
    return regmix_design(space, 300, np.random.default_rng(1)), drawn_one_by_one(300, np.random.default_rng(2))


@pytest.mark.parametrize("domain", range(len(NATURAL)))
def test_weight_of_each_domain(domain: int, samples: tuple[NDArray[np.float64], NDArray[np.float64]]) -> None:
    ours, reference = samples
    assert ks_2samp(ours[:, domain], reference[:, domain]).pvalue > FALSE_ALARM


def test_concentration(samples: tuple[NDArray[np.float64], NDArray[np.float64]]) -> None:
    ours, reference = samples
    assert ks_2samp(ours.max(axis=1), reference.max(axis=1)).pvalue > FALSE_ALARM
    assert ks_2samp((ours > 0).sum(axis=1), (reference > 0).sum(axis=1)).pvalue > FALSE_ALARM

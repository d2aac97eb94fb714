"""Optuna's published sampler suite, as far as it applies to a fixed joint space.

Left out:

- ``RelativeSamplerTestCase`` but for its last case: it hands `sample_relative` a search space of its own (``x``, ``y``), and
  expects values for that. Ours is fixed by the domains. Its last case is here: when relative parameters are asked for.
- ``MultiObjectiveSamplerTestCase``: one target is minimised; ``SingleOnlySamplerTestCase`` examines that.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from optuna.samplers import BaseSampler

from regmix_active.optuna import MixtureSampler
from tests.optuna_side.studies import DOMAINS

suite = pytest.importorskip("optuna.testing.pytest_samplers", reason="this Optuna publishes no sampler suite")


class TestMixtureSampler(suite.BasicSamplerTestCase, suite.SingleOnlySamplerTestCase):  # type: ignore[name-defined]
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: MixtureSampler(DOMAINS, initial=4)

    test_trial_relative_params = suite.RelativeSamplerTestCase.test_trial_relative_params

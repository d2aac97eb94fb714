"""Some random feasible sets through strategies, simulation and export; ``make feasibility`` tries hundreds, with all strategies."""

from __future__ import annotations

import pytest

from regmix_active.strategies.registry import BUILT_IN
from tests.feasibility.checks import check_answer, check_export, check_strategy_batch
from tests.feasibility.sets import feasible_set


@pytest.mark.parametrize(("seed", "name"), list(enumerate(BUILT_IN, start=300)))
def test_batches_answers_and_exports_stay_inside(seed: int, name: str) -> None:
    space, _ = feasible_set(seed, largest=60)
    check_strategy_batch(space, seed, name)
    check_answer(space, seed)
    check_export(space, seed)

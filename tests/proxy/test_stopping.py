"""Optuna's pruners judge learning curves, from a job file alone."""

from __future__ import annotations

import json

import pytest

from regmix_active.config.schema import ProxyConfig
from regmix_active.proxy.training.stack import Curve
from regmix_active.proxy.training.stopping import EarlyStopping

FINISHED = [{10: 5.0 + i / 10, 20: 4.0 + i / 10, 40: 3.0 + i / 10} for i in range(10)]


def curve(at_10: float, at_20: float | None = None) -> Curve:
    points = {10: {"a": at_10, "b": 99.0}}
    return points if at_20 is None else {**points, 20: {"a": at_20, "b": 99.0}}


def stopping(pruner: str, finished: list[dict[int, float]] = FINISHED) -> EarlyStopping:
    return EarlyStopping(pruner, {"a": 1.0, "b": 0.0}, 80, finished)


@pytest.mark.parametrize("pruner", ["median", "asha"])
def test_the_hopeless_are_stopped_and_the_best_never(pruner: str) -> None:
    stack = {3: curve(4.9), 4: curve(9.0), 5: curve(5.0), 6: curve(8.5)}
    stopped = stopping(pruner).hopeless(stack, 10)
    assert {4, 6} <= stopped
    assert 3 not in stopped


def test_hyperband_decides_and_repeats_itself() -> None:
    stack = {slot: curve(4.9 + slot, 3.9 + slot) for slot in range(8)}
    stopped = stopping("hyperband").hopeless(stack, 20)
    assert stopped == stopping("hyperband").hopeless(stack, 20)
    assert 0 not in stopped


def test_without_a_past_the_median_stops_nobody() -> None:
    assert stopping("median", []).hopeless({1: curve(5.0), 2: curve(50.0)}, 10) == set()


def test_a_loss_that_is_not_a_number_is_hopeless() -> None:
    assert stopping("median").hopeless({1: curve(float("nan")), 2: curve(5.0)}, 10) == {1}


def test_a_job_file_holds_all_of_it() -> None:
    first = stopping("asha")
    again = EarlyStopping.from_json(json.loads(json.dumps(first.to_json())))
    assert again == first


def test_curves_by_tokens_become_curves_by_steps() -> None:
    config = ProxyConfig(tokens=80 * 512)
    made = EarlyStopping.of_curves("median", {"a": 0.5, "b": 0.5}, [{"5120": {"a": 1.0, "b": 3.0}}, {}], config)
    assert made.finished == [{10: 2.0}]
    assert made.n_steps == 80

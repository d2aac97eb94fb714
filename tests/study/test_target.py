"""The target: what it accepts, what it says of itself, what it computes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from regmix_active.errors import ConfigError
from regmix_active.study.target import Target

NAMES = ("books", "code", "web")


@pytest.mark.parametrize(
    ("spec", "weights", "words"),
    [
        ("mean", [1 / 3, 1 / 3, 1 / 3], "mean of 3 losses"),
        ("code", [0, 1, 0], "code"),
        ({"web": 5}, [0, 0, 1], "web"),
        ({"web": 1, "books": 3}, [0.75, 0, 0.25], "0.75 books + 0.25 web"),
        ({"web": 0, "books": 3}, [1, 0, 0], "books"),
        ({"web": 2, "books": 2, "code": 2}, [1 / 3, 1 / 3, 1 / 3], "mean of 3 losses"),
        ({"web": "7/52", "books": "45 / 52"}, [45 / 52, 0, 7 / 52], "0.865 books + 0.135 web"),
        ({"weights": {"web": 5}}, [0, 0, 1], "web"),
        ({"weights": "mean"}, [1 / 3, 1 / 3, 1 / 3], "mean of 3 losses"),
    ],
)
def test_targets(spec: Any, weights: list[float], words: str) -> None:
    target = Target.parse(spec, NAMES)
    np.testing.assert_allclose(target.weights, weights)
    assert target.describe() == words
    losses = np.array([[1.0, 2.0, 4.0], [3.0, 3.0, 3.0]])
    np.testing.assert_allclose(target(losses), [np.dot(weights, losses[0]), 3.0])


def test_one_loss_is_called_by_its_name() -> None:
    assert Target.parse("mean", ("books",)).describe() == "books"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("bokos", "target: unknown loss 'bokos'; did you mean 'books'?"),
        ({"zzz": 1}, "target: unknown loss 'zzz'; the losses are: books, code, web"),
        ({"books": -1}, "target: the weight of 'books' is -1; weights are finite and >= 0"),
        ({"books": float("nan")}, "weights are finite"),
        ({"books": float("inf")}, "weights are finite"),
        ({"books": 0}, "at least one weight above zero"),
        ({}, "at least one weight above zero"),
        ({"books": "1/0"}, "target: the weight of 'books' is 1/0; a fraction is not divided by zero"),
        ({"books": "many"}, "target: the weight of 'books' is 'many'; write a number, or a fraction such as 7/52"),
        ({"books": True}, "the weight of 'books' is True; write a number"),
        (3, "target: write mean, the name of a loss, or weights such as {books: 2, code: 1}, got 3"),
        ({"weights": "mean", "wosrt": True}, "target: unknown key 'wosrt' beside weights; did you mean 'worst'?"),
        ({"worst": True, "zzz": 1}, "unknown key 'zzz' beside worst; the keys are: weights, worst, excess_over, relative, limits"),
        ({"weights": {"bokos": 1}}, "unknown loss 'bokos'; did you mean 'books'?"),
        ({"relative": True}, "relative: true needs excess_over, of which the excess is a share; add excess_over: natural"),
        ({"excess_over": {"books": 3.0}}, "target: excess_over has no reference for 'code', which the target weighs; add it"),
        ({"excess_over": {"cod": 3.0}}, "target: excess_over: unknown loss 'cod'; did you mean 'code'?"),
        (
            {"weights": {"code": 1}, "excess_over": {"code": 0}, "relative": True},
            "target: excess_over.code is 0; a reference is finite and above 0",
        ),
        ({"excess_over": [1]}, "excess_over: write natural, or a loss for each name such as {books: 3.1}, got [1]"),
        ({"limits": {"cod": {"at_most": 3}}}, "target: limits: unknown loss 'cod'; did you mean 'code'?"),
        ({"limits": {"code": {}}}, "target: limits.code: needs exactly one of at_most (nats per token) and above_natural"),
        ({"limits": {"code": {"at_most": 3, "above_natural": 0}}}, "needs exactly one of at_most"),
        ({"limits": {"code": {"most": 3}}}, "target: limits.code: unknown key 'most'; the keys are at_most"),
        ({"limits": {"code": {"at_most": float("nan")}}}, "limits.code.at_most: must be a finite number of nats"),
        ({"limits": {"all": {"above_natural": -1}}}, "limits.all.above_natural: must be a share above -1"),
        ({"limits": {"code": {"at_most": 3, "probability": 1.0}}}, "limits.code.probability: must be between 0 and 1"),
        ({"limits": {"code": 3}}, "target: limits.code: write {above_natural: 0.01} or {at_most: 3.2}, got 3"),
        ({"limits": [3]}, "target: limits: write them by loss, such as {code: {above_natural: 0.01}}, got [3]"),
    ],
)
def test_wrong_targets(spec: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Target.parse(spec, NAMES)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


LOSSES = np.array([[2.0, 3.0, 4.0], [3.0, 3.0, 1.0], [np.nan, 3.0, 5.0]])
NATURAL = np.array([2.5, 3.0, 2.0])


@pytest.mark.parametrize(
    ("spec", "values", "words"),
    [
        ({"worst": True}, [4, 3, np.nan], "worst of books, code, web"),
        ({"weights": {"code": 1, "web": 1}, "worst": True}, [4, 3, 5], "worst of code, web"),
        ({"weights": {"code": 2, "web": 1}, "worst": True}, [3, 3, 3], "worst of code, 0.5 web"),
        ({"weights": {"web": 4}, "worst": True}, [4, 1, 5], "web"),
        ({"excess_over": "natural"}, [0.5, -1 / 6, np.nan], "mean of 3 losses over natural"),
        ({"weights": {"web": 1}, "excess_over": "natural", "relative": True}, [1, -0.5, 1.5], "web over natural, relative"),
        ({"worst": True, "excess_over": "natural"}, [2, 0.5, np.nan], "worst of books, code, web over natural"),
        ({"worst": True, "excess_over": "natural", "relative": True}, [1, 0.2, np.nan], None),
        ({"weights": {"code": 3, "web": 1}, "excess_over": {"code": 2, "web": "1/2"}}, [1.625, 0.875, 1.875], None),
        ({"weights": {"code": 1}, "excess_over": {"code": 2, "books": 9}}, [1, 1, 1], "code over given losses"),
        (
            {"weights": {"code": 1}, "limits": {"all": {"above_natural": 0.01}, "web": {"at_most": 3.2, "probability": 0.95}}},
            [3, 3, 3],
            "code, every loss at most natural + 1 % (90 %), web at most 3.2 (95 %)",
        ),
        ({"limits": {"code": {"above_natural": 0.0}}}, [3, 7 / 3, np.nan], "mean of 3 losses, code at most natural (90 %)"),
        ({"limits": {"code": {"above_natural": -0.05}}}, [3, 7 / 3, np.nan], "mean of 3 losses, code at most natural - 5 % (90 %)"),
    ],
)
def test_structured_targets(spec: Any, values: list[float], words: str | None) -> None:
    target = Target.parse(spec, NAMES)
    np.testing.assert_allclose(target(LOSSES, NATURAL), values)
    again = Target.parse(target.spec(), NAMES)
    np.testing.assert_allclose(again(LOSSES, NATURAL), values)
    assert again.spec() == target.spec()
    assert again.describe() == target.describe()
    assert words is None or target.describe() == words
    assert json.loads(json.dumps(target.spec())) == target.spec()
    narrow = target.narrowed()
    np.testing.assert_allclose(narrow(LOSSES[:, target.needed], NATURAL[target.needed]), values)


def test_many_losses_are_counted_not_listed() -> None:
    target = Target.parse({"worst": True, "excess_over": "natural"}, [f"l{j}" for j in range(12)])
    assert target.describe() == "worst of 12 losses over natural"


@pytest.mark.parametrize("spec", ["mean", {"books": 0.5, "web": 0.5}, "web"])
def test_plain_targets_have_a_plain_form(spec: Any) -> None:
    target = Target.parse(spec, NAMES)
    assert target.spec() in ("mean", {"books": 0.5, "web": 0.5}, {"web": 1.0})
    np.testing.assert_array_equal(Target.parse(target.spec(), NAMES).weights, target.weights)


def test_losses_may_be_called_as_the_keys_are() -> None:
    names = ("weights", "worst", "limits")
    np.testing.assert_allclose(Target.parse({"weights": 1, "worst": 3}, names).weights, [0.25, 0.75, 0])
    np.testing.assert_allclose(Target.parse({"weights": "1/2", "limits": 0.5}, names).weights, [0.5, 0, 0.5])
    assert Target.parse({"weights": {"weights": 1, "worst": 3}, "worst": True}, names).worst


def test_without_references_an_excess_counts_the_losses() -> None:
    """As Optuna's value of a trial, which is written before anything is known of the natural mixture."""
    target = Target.parse({"worst": True, "excess_over": "natural"}, NAMES)
    np.testing.assert_allclose(target(LOSSES), [4, 3, np.nan])
    with pytest.raises(ValueError, match="limits above the natural mixture need its losses"):
        Target.parse({"limits": {"all": {"above_natural": 0.1}}}, NAMES).ceilings()


def test_limits_and_what_breaks_them() -> None:
    """A limit of its own stands instead of that for all."""
    spec = {"weights": {"code": 1}, "limits": {"all": {"above_natural": 0.1}, "web": {"at_most": 3.9}}}
    target = Target.parse(spec, NAMES)
    np.testing.assert_allclose(target.ceilings(NATURAL), [2.75, 3.3, 3.9])
    np.testing.assert_allclose(target.violations(LOSSES, NATURAL), [0.1, 0.25, np.inf])
    assert target.needed.all()
    assert target.needs_natural
    one = Target.parse({"weights": {"code": 1}, "limits": {"web": {"at_most": 3.9}}}, NAMES)
    assert one.needed.tolist() == [False, True, True]
    assert not one.needs_natural
    np.testing.assert_allclose(one.violations(LOSSES), [0.1, 0, 1.1])
    np.testing.assert_allclose(Target.parse("mean", NAMES).violations(LOSSES), 0)

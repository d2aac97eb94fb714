"""The target: what it accepts, what it says of itself, what it computes."""

from __future__ import annotations

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
    ],
)
def test_wrong_targets(spec: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Target.parse(spec, NAMES)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2

"""Studies that say nothing."""

from __future__ import annotations

from collections.abc import Iterator

import optuna
import pytest

from tests.optuna_side.studies import Remembering


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(verbosity)


@pytest.fixture
def remembering() -> Remembering:
    return Remembering()

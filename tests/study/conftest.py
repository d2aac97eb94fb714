"""Studies on disk and in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from regmix_active.study.meaning import Meaning
from regmix_active.study.record import StudyRecord
from regmix_active.study.storage import open_storage, open_study

DOMAINS = ("books", "code", "日本 1")
MEANING = Meaning(DOMAINS, (0.5, 0.3, 0.2), DOMAINS, {"seed": 0, "proxy.layers": 2})


@pytest.fixture
def meaning() -> Meaning:
    return MEANING


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(study_name="s", direction="minimize")


@pytest.fixture
def record(study: optuna.Study) -> StudyRecord:
    """Claimed, in memory."""
    record = StudyRecord(study)
    record.claim(MEANING, {"seed": 0}, "mean")
    return record


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[StudyRecord]:
    """Claimed, in an SQLite file."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    storage = open_storage(url)
    record = StudyRecord(open_study(storage, url, "s", create=True))
    record.claim(MEANING, {"seed": 0}, "mean")
    yield record
    storage.engine.dispose()  # type: ignore[attr-defined]

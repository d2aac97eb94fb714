"""Trackers: every proxy and the answer reach them, by Accelerate's classes and names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking
from accelerate.tracking import GeneralTracker

from regmix_active.config.schema import RunConfig
from regmix_active.errors import ConfigError
from regmix_active.observer import Observer
from regmix_active.proxy.base import ProxyResult
from regmix_active.recommend.simulate import Recommendation
from regmix_active.report.trackers import Observers, TrackedSearch, flat, make_trackers

RESULT = ProxyResult(4, {"books": 2.5, "code [x]": 3.0}, tokens=640, seconds=1.5, shares={"books": 0.25, "code [x]": 0.75})


class Notes(GeneralTracker):
    """Keeps what it is told."""

    name = "notes"
    requires_logging_directory = True

    def __init__(self, run_name: str, logging_dir: str) -> None:
        super().__init__()
        self.place = (run_name, logging_dir)
        self.said: list[Any] = []

    @property
    def tracker(self) -> list[Any]:
        return self.said

    def start(self) -> None:
        self.said.append("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.said.append(values)

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        self.said.append((step, values))

    def finish(self) -> None:
        self.said.append("finish")


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "LOGGER_TYPE_TO_CLASS", {**tracking.LOGGER_TYPE_TO_CLASS, "notes": Notes})


@pytest.fixture
def notes(tmp_path: Path) -> Iterator[Notes]:
    (made,) = make_trackers(["notes", "notes"], "search", tmp_path)
    assert isinstance(made, Notes)
    assert made.place == ("search", str(tmp_path))
    return made


def test_everything_is_sent_in_order(notes: Notes, found: Recommendation) -> None:
    with TrackedSearch([notes], {"seed": 3, "proxy": {"width": 8}}) as tracked:
        tracked.on_start(10, 64, 2.25)
        tracked.on_result(RESULT, 2.75)
        tracked.on_result(ProxyResult(5, {}, failure="diverged"), None)
        tracked.on_result(ProxyResult(6, {}, stopped=True), None)
        tracked.on_result(RESULT, 2.0)
        tracked.on_recommendation(found)
        tracked.on_result(RESULT, 2.5)
    start, config, first, failed, stopped, second, answer, verified, finish = notes.said
    assert (start, finish) == ("start", "finish")
    assert config == {"seed": 3, "proxy.width": 8}
    values = {
        "target": 2.75,
        "best": 2.25,
        "slot": 4,
        "tokens": 640,
        "seconds": 1.5,
        "loss/books": 2.5,
        "loss/code [x]": 3.0,
        "weight/books": 0.25,
        "weight/code [x]": 0.75,
    }
    assert first == (11, values)
    assert failed == (11, {"failed": 1})
    assert stopped == (11, {"stopped": 1})
    assert second == (12, {**values, "target": 2.0, "best": 2.0})
    step, said = answer
    assert step == 12
    assert said["predicted/found"] == 2.5
    assert said["predicted/natural"] == 3.0
    assert said["found/books"] == pytest.approx(1 / 3)
    assert said["natural/日本: 1"] == pytest.approx(0.2)
    assert verified[0] == 13
    assert verified[1]["verification/target"] == 2.5


def test_a_search_that_breaks_still_ends(notes: Notes) -> None:
    with pytest.raises(KeyboardInterrupt), TrackedSearch([notes], {}):
        raise KeyboardInterrupt
    assert notes.said[-1] == "finish"


def test_names_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_trackers([], "search", tmp_path) == []
    with pytest.raises(ConfigError, match=r"unknown tracker 'tensorbord'; the trackers are: aim, .*, notes, .*, wandb"):
        make_trackers(["tensorbord"], "search", tmp_path)
    monkeypatch.setattr(tracking, "get_available_trackers", list)
    with pytest.raises(ConfigError, match=r"'wandb' is not installed \(pip install wandb\); installed here: notes"):
        make_trackers(["wandb"], "search", tmp_path)


def test_a_configuration_is_sent_flat() -> None:
    values = flat(RunConfig().model_dump(mode="json"))
    assert values["proxy.width"] == RunConfig().proxy.width
    assert values["execution.log_with"] == "[]"
    assert all(value is None or isinstance(value, str | int | float) for value in values.values())


def test_several_observers_hear_the_same(found: Recommendation) -> None:
    heard: list[tuple[int, str, tuple[Any, ...]]] = []

    def listener(number: int) -> Observer:
        observer = Observer()
        for name in (name for name in dir(Observer) if name.startswith("on_")):
            setattr(observer, name, lambda *given, name=name: heard.append((number, name, given)))
        return observer

    both = Observers(listener(1), listener(2))
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("on_stage", ("reading",)),
        ("on_warning", ("skipped",)),
        ("on_start", (1, 2, 3.0)),
        ("on_round", (0, 8, 8, "design")),
        ("on_result", (RESULT, 2.0)),
        ("on_recommendation", (found,)),
    ]
    for name, given in calls:
        getattr(both, name)(*given)
    assert heard == [(number, name, given) for name, given in calls for number in (1, 2)]
    assert {name for name in dir(Observer) if name.startswith("on_")} == {name for name, _ in calls}


def test_tensorboard(tmp_path: Path, found: Recommendation) -> None:
    pytest.importorskip("tensorboard")
    with TrackedSearch(make_trackers(["tensorboard"], "search", tmp_path), {"seed": 3}) as tracked:
        tracked.on_start(0, 64, None)
        tracked.on_result(RESULT, 2.75)
        tracked.on_recommendation(found)
    assert list((tmp_path / "search").rglob("events.out.tfevents.*"))

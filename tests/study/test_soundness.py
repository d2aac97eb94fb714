"""A study that somebody edited is refused by trial, slot and key; what others, or we, have written passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from regmix_active.errors import StudyError
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.study.imported import ImportedRun
from regmix_active.study.meaning import Meaning
from regmix_active.study.record import StudyRecord
from regmix_active.study.target import Target

LOSSES = {"books": 1.0, "code": 2.0, "日本 1": 3.0}


@pytest.fixture
def study(record: StudyRecord) -> optuna.Study:
    """An imported run, a finished, a diverged and a planned proxy."""
    record.add_imported([ImportedRun("theirs", np.array([0.5, 0.25, 0.25]), {"books": 1.5})], "elsewhere")
    requests = [ProxyRequest(slot, np.array([0.2, 0.3, 0.5]), 7, 8 + slot) for slot in range(3)]
    record.plan(requests, 0, 3, "initial design")
    record.finish(ProxyResult(0, LOSSES, curve={"64": LOSSES}))
    record.finish(ProxyResult(1, {}, failure="diverged", diverged=True))
    return record.study


def reread(study: optuna.Study) -> StudyRecord:
    record = StudyRecord(study)
    record.history(Target.parse("mean", record.meaning.loss_names))
    record.rounds()
    return record


def put(study: optuna.Study, number: int, key: str, value: Any) -> None:
    """As somebody with a database's client would."""
    trials = study._storage._studies[study._study_id].trials  # type: ignore[attr-defined]
    attributes = trials[number].user_attrs
    trials[number].user_attrs = {k: v for k, v in {**attributes, key: value}.items() if v is not GONE}


GONE = object()
CHANGES: list[tuple[int, str, Any, str]] = [
    *[(number, key, GONE, f"'{key}' is missing") for number in (1, 3) for key in ("round", "round_size", "init_seed", "proposer")],
    *[(number, "slot", value, "slot") for number in (1, 2, 3) for value in (GONE, "1", 1.0, True, None, 17, -5)],
    *[
        (1, "losses", value, "its losses are")
        for value in (GONE, None, [1.0], {}, {**LOSSES, "code": "2.0"}, {**LOSSES, "code": True})
    ],
    *[(1, "losses", {**LOSSES, "code": value}, "its losses are") for value in (float("nan"), float("inf"), None, [2.0])],
    *[(1, "curve", value, "learning curve") for value in ("x", {"64": 3}, {"x": LOSSES}, {"64": {**LOSSES, "code": "2"}})],
    (0, "losses", {"books": 1.4}, "its weights or losses no longer fit its key"),
    (0, "losses", {"books": "1.5"}, "its losses are"),
    (0, "source", GONE, "'source' is missing"),
    (3, "data_seed", 99, "no longer fit its key"),
    (3, "key", "0" * 32, "no longer fit its key"),
    (3, "init_seed", "7", "'init_seed' is '7'"),
]


def test_what_we_write_is_sound(study: optuna.Study) -> None:
    record = reread(study)
    assert [trial.state for trial in record.trials()] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING]
    record.finish(ProxyResult(2, {**LOSSES, "more": float("nan")}))
    assert len(reread(study).history(Target.parse("mean", tuple(LOSSES)))) == 3


@pytest.mark.parametrize(("number", "key", "value", "part"), CHANGES)
def test_changed_attributes_are_refused_by_name(study: optuna.Study, number: int, key: str, value: Any, part: str) -> None:
    put(study, number, key, value)
    with pytest.raises(
        StudyError, match=rf"study 's': trial {number} \(slot .*(was changed).*; restore the study from a copy"
    ) as caught:
        reread(study)
    assert part in str(caught.value)


@pytest.mark.parametrize("number", [0, 1, 2, 3])
@pytest.mark.parametrize("change", [{"w/books": 0.3}, {"w/books": None}, {"w/books": float("nan")}, {"w/books": -0.2}, {}])
def test_changed_weights_are_refused_by_slot(study: optuna.Study, number: int, change: dict[str, Any]) -> None:
    trial = study._storage._studies[study._study_id].trials[number]  # type: ignore[attr-defined]
    kept = {name: weight for name, weight in trial._params.items() if change or name != "w/books"}
    trial._params = {**kept, **change}
    with pytest.raises(StudyError, match=rf"trial {number} \(slot"):
        reread(study)


@pytest.mark.parametrize(
    "change",
    [
        lambda header: "x",
        lambda header: {**header, "format": "1"},
        lambda header: {"format": 1},
        lambda header: {**header, "meaning": {**header["meaning"], "natural": [0.5, 0.5]}},
        lambda header: {**header, "meaning": {**header["meaning"], "natural": [0.5, 0.4, "x"]}},
        lambda header: {**header, "meaning": {**header["meaning"], "domains": [1, 2, 3]}},
        lambda header: {key: value for key, value in header.items() if key != "target"},
    ],
)
def test_a_changed_header_is_refused(study: optuna.Study, change: Callable[[dict[str, Any]], Any]) -> None:
    study.set_user_attr("regmix_active", change(study.user_attrs["regmix_active"]))
    with pytest.raises(StudyError, match="its attribute 'regmix_active' was changed"):
        reread(study)


def test_trials_of_others_pass(study: optuna.Study, meaning: Meaning) -> None:
    study.add_trial(optuna.trial.create_trial(value=1.0, user_attrs={"losses": "theirs"}))
    assert len(reread(study).trials()) == 3
    assert dataclasses.asdict(reread(study).meaning) == dataclasses.asdict(meaning)

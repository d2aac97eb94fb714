"""The record: planned before it trains, the same whoever ends first, refused when it means something else."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from regmix_active.errors import StudyBusyError, StudyError, StudyMismatchError
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.study.imported import ImportedRun
from regmix_active.study.meaning import Meaning
from regmix_active.study.record import StudyRecord
from regmix_active.study.target import Target
from regmix_active.study.trials import duration

DOMAINS = ("books", "code", "日本 1")
QUICK = settings(max_examples=15, derandomize=True, deadline=None)


def request_for(slot: int) -> ProxyRequest:
    """Weights that tell slots apart."""
    return ProxyRequest(slot, np.array([0.5, 0.5 - slot / 100, slot / 100]), 7, 8)


def result_for(slot: int, scale: float = 1.0) -> ProxyResult:
    """Losses that tell slots and domains apart."""
    losses = {name: scale * (slot + i) for i, name in enumerate(DOMAINS)}
    return ProxyResult(slot, losses, {name: value / 2 for name, value in losses.items()}, 100, 1.5, shares={"books": 1.0})


MEAN = Target.parse("mean", DOMAINS)


def plan(record: StudyRecord, n: int) -> None:
    record.plan([request_for(slot) for slot in range(n)], 0, n, "initial design")


@QUICK
@given(st.permutations(range(6)))
def test_the_history_does_not_depend_on_who_ends_first(order: list[int]) -> None:
    record = StudyRecord(optuna.create_study(direction="minimize"))
    record.claim(Meaning(DOMAINS, (0.5, 0.3, 0.2), DOMAINS, {}), {}, "mean")
    plan(record, 6)
    for slot in order:
        record.finish(result_for(slot))
    history = record.history(MEAN)
    assert history.slots.tolist() == list(range(6))
    np.testing.assert_array_equal(history.mixtures, [request_for(slot).weights for slot in range(6)])
    np.testing.assert_array_equal(history.losses, [[slot, slot + 1, slot + 2] for slot in range(6)])
    np.testing.assert_allclose(history.values, np.arange(6) + 1.0)
    assert history.best == 0
    assert history.before(4).slots.tolist() == [0, 1, 2, 3]
    assert len(history) == 6


def test_a_trial_holds_everything(on_disk: StudyRecord) -> None:
    record = on_disk
    plan(record, 2)
    assert record.count(TrialState.RUNNING) == 2
    record.finish(result_for(1))
    planned, done = record.trials()
    assert (planned.state, done.state) == (TrialState.RUNNING, TrialState.COMPLETE)
    assert done.value == 2.0
    assert done.user_attrs == {
        "slot": 1,
        "round": 0,
        "round_size": 2,
        "proposer": "initial design",
        "init_seed": 7,
        "data_seed": 8,
        "key": record.key(request_for(1)),
        "losses": {"books": 1.0, "code": 2.0, "日本 1": 3.0},
        "bits_per_byte": {"books": 0.5, "code": 1.0, "日本 1": 1.5},
        "shares": {"books": 1.0},
        "tokens": 100,
        "seconds": 1.5,
    }
    assert done.params == {"w/books": 0.5, "w/code": 0.49, "w/日本 1": 0.01}
    asked = record.request(planned)
    assert (asked.slot, asked.init_seed, asked.data_seed) == (0, 7, 8)
    np.testing.assert_array_equal(asked.weights, [0.5, 0.5, 0.0])
    assert duration(record.trials()).total_seconds() >= 0
    assert duration([]).total_seconds() == 0


@pytest.mark.skipif(importlib.util.find_spec("pandas") is None, reason="Optuna's table needs pandas")
def test_weights_are_parameters_of_optunas_table(record: StudyRecord) -> None:
    plan(record, 2)
    for slot in range(2):
        record.finish(result_for(slot))
    table = record.study.trials_dataframe()
    assert table["params_w/books"].tolist() == [0.5, 0.5]
    assert table["params_w/日本 1"].tolist() == [0.0, 0.01]
    assert table["value"].tolist() == [1.0, 2.0]


def test_planning_again_and_finishing_again_change_nothing(record: StudyRecord) -> None:
    plan(record, 2)
    plan(record, 3)
    assert record.count() == 3
    record.finish(result_for(0))
    record.finish(result_for(0, scale=9))
    record.finish(ProxyResult(0, {}, failure="late"))
    assert record.trials()[0].value == 1.0
    assert record.trials()[0].state == TrialState.COMPLETE
    assert "failure" not in record.trials()[0].user_attrs


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (ProxyResult(0, {}, failure="diverged"), "diverged"),
        (ProxyResult(0, {"books": 1.0, "code": float("nan"), "日本 1": 1.0}), "diverged: the loss code is nan"),
        (ProxyResult(0, {"books": 1.0, "code": float("inf"), "日本 1": 1.0}), "diverged: the loss code is inf"),
        (ProxyResult(0, {"books": 1.0, "code": 2e3, "日本 1": 1.0}), "diverged: the loss code is 2000"),
        (ProxyResult(0, {"books": 1.0}), "no loss called code, 日本 1"),
    ],
)
def test_failures_are_kept_out_of_the_history(record: StudyRecord, result: ProxyResult, reason: str) -> None:
    """Optuna alone would store an infinite loss as completed."""
    plan(record, 2)
    record.finish(result)
    record.finish(result_for(1))
    failed = record.trials()[0]
    assert failed.state == TrialState.FAIL
    assert failed.user_attrs["failure"] == reason
    assert record.history(MEAN).slots.tolist() == [1]
    assert record.count(TrialState.FAIL) == 1
    record.finish(result_for(0))
    assert record.count(TrialState.FAIL) == 1, "a failure is final"


def test_a_result_nobody_asked_for(record: StudyRecord) -> None:
    with pytest.raises(StudyError, match="no planned proxy in slot 3"):
        record.finish(result_for(3))


def test_rounds_and_strangers(record: StudyRecord) -> None:
    record.plan([request_for(slot) for slot in (0, 1)], 0, 2, "initial design")
    record.plan([request_for(slot) for slot in (3, 2)], 1, 2, "greedy")
    record.study.enqueue_trial({"w/books": 1.0})
    assert [[t.user_attrs["slot"] for t in trials] for trials in record.rounds()] == [[0, 1], [2, 3]]
    assert record.count() == 4, "what others enqueue is not ours"
    assert record.count(TrialState.WAITING) == 0


def test_an_empty_history_has_shapes(record: StudyRecord) -> None:
    history = record.history(MEAN)
    assert history.mixtures.shape == (0, 3)
    assert history.losses.shape == (0, 3)
    assert history.values.shape == (0,)


def test_values_are_in_the_first_target(study: optuna.Study, meaning: Meaning) -> None:
    StudyRecord(study).claim(meaning, {}, "mean")
    record = StudyRecord(study)
    plan(record, 2)
    record.finish(result_for(0))
    record.claim(meaning, {"target": {"books": 1}}, {"books": 1})
    record.finish(result_for(1))
    assert [t.value for t in record.trials()] == [1.0, 2.0]
    assert record.value_target == "mean"
    assert record.history(Target.parse({"books": 1}, DOMAINS)).values.tolist() == [0.0, 1.0]
    assert record.config == {"target": {"books": 1}}, "the configuration is the last one's"


def test_a_claim_is_remembered(study: optuna.Study, meaning: Meaning) -> None:
    record = StudyRecord(study)
    assert record.is_new
    with pytest.raises(StudyError, match="is empty; start it"):
        _ = record.meaning
    record.claim(meaning, {"a": 1}, {"books": 2.0})
    again = StudyRecord(study)
    assert not again.is_new
    assert again.meaning == meaning
    assert again.meaning.differences(meaning) == []
    assert again.space.domains == DOMAINS
    assert again.value_target == {"books": 2.0}
    again.claim(meaning, {"a": 2}, None)


DIFFERENCES: list[tuple[dict[str, Any], str]] = [
    ({"facts": {"seed": 1, "proxy.layers": 2}}, "seed: 0 → 1"),
    ({"facts": {"seed": 0, "proxy.layers": 3}}, "proxy.layers: 2 → 3"),
    ({"facts": {"seed": 0}}, "proxy.layers: 2 → (not set)"),
    ({"facts": {"seed": 0, "proxy.layers": 2, "new": 1}}, "new: (not set) → 1"),
    ({"natural": (0.4, 0.4, 0.2)}, "natural shares: books 0.5 → 0.4, code 0.3 → 0.4"),
    ({"domains": ("books", "code", "web")}, "domains: 3 → 3 (without 日本 1; with web)"),
    ({"domains": ("code", "books", "日本 1")}, "domains: 3 → 3 (in another order)"),
    ({"loss_names": ("books", "code")}, "loss_names: 3 → 2 (without 日本 1)"),
    ({"loss_names": (*DOMAINS, "wiki")}, "loss_names: 3 → 4 (with wiki)"),
]


@pytest.mark.parametrize(("change", "line"), DIFFERENCES, ids=[line for _, line in DIFFERENCES])
def test_another_meaning_is_refused(record: StudyRecord, meaning: Meaning, change: dict[str, Any], line: str) -> None:
    with pytest.raises(StudyMismatchError) as caught:
        record.claim(dataclasses.replace(meaning, **change), {"seed": 9}, "mean")
    first, *lines, remedy = str(caught.value).splitlines()
    assert "(study → configuration)" in first
    assert lines == [f"  {line}"]
    assert "new study" in remedy
    assert caught.value.exit_code == 2
    assert record.config == {"seed": 0}, "nothing was written"


def test_all_differences_are_listed(record: StudyRecord, meaning: Meaning) -> None:
    other = dataclasses.replace(meaning, natural=(0.2, 0.3, 0.5), facts={"seed": 3})
    with pytest.raises(StudyMismatchError) as caught:
        record.claim(other, {}, "mean")
    assert len(str(caught.value).splitlines()) == 5


def test_rounding_of_natural_shares_is_no_difference(record: StudyRecord, meaning: Meaning) -> None:
    record.claim(dataclasses.replace(meaning, natural=(0.5 + 1e-9, 0.3 - 1e-9, 0.2)), {}, "mean")


def test_foreign_and_newer_studies_are_refused(study: optuna.Study, meaning: Meaning) -> None:
    study.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(StudyError, match="trials of another program; give this search another name"):
        StudyRecord(study)
    newer = optuna.create_study(direction="minimize")
    for header in ({"format": 2}, {"version": 1}):
        newer.set_user_attr("regmix_active", header)
        with pytest.raises(StudyError, match="newer regmix-active; upgrade"):
            StudyRecord(newer)


def test_a_slot_that_is_there_twice_counts_once(record: StudyRecord) -> None:
    plan(record, 2)
    (_, planned) = record.study.get_trials()
    record.study.add_trial(planned)
    assert record.count() == 2
    record.finish(result_for(1))
    assert [t.number for t in record.trials(TrialState.COMPLETE)] == [1]
    assert record.count(TrialState.RUNNING) == 1


def test_clocks_may_be_set_while_a_study_runs(record: StudyRecord) -> None:
    plan(record, 1)
    record.finish(result_for(0))
    (trial,) = record.trials()
    assert trial.datetime_start is not None
    trial.datetime_complete = trial.datetime_start - datetime.timedelta(hours=1)
    assert duration([trial]) == datetime.timedelta()


def test_nothing_is_written_without_the_lock(study: optuna.Study, meaning: Meaning) -> None:
    allowed = True

    def guard() -> None:
        if not allowed:
            raise StudyBusyError("somebody else has it")

    record = StudyRecord(study, guard)
    record.claim(meaning, {"a": 1}, "mean")
    plan(record, 1)
    allowed = False
    writes: list[Callable[[], object]] = [
        lambda: plan(record, 2),
        lambda: record.finish(result_for(0)),
        lambda: record.claim(meaning, {"a": 2}, "mean"),
        lambda: record.add_imported([ImportedRun("1", np.array([0.5, 0.5, 0.0]), dict.fromkeys(DOMAINS, 1.0))], "test"),
    ]
    for write in writes:
        with pytest.raises(StudyBusyError):
            write()
    assert record.config == {"a": 1}
    assert [t.state for t in record.study.get_trials()] == [TrialState.RUNNING]


def test_a_study_on_disk_is_read_back(on_disk: StudyRecord, tmp_path: Path) -> None:
    plan(on_disk, 3)
    on_disk.finish(result_for(2))
    on_disk.finish(ProxyResult(0, {}, failure="diverged"))
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path / 'study.db'}")
    again = StudyRecord(study)
    assert again.meaning == on_disk.meaning
    np.testing.assert_array_equal(again.history(MEAN).mixtures, on_disk.history(MEAN).mixtures)
    assert [t.state for t in again.trials()] == [TrialState.FAIL, TrialState.RUNNING, TrialState.COMPLETE]
    study._storage._backend.engine.dispose()  # type: ignore[attr-defined]


def test_a_result_that_another_write_overtook(record: StudyRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(record, 1)
    look = record._in_slot

    def late(slot: int) -> optuna.trial.FrozenTrial | None:
        trial = look(slot)
        monkeypatch.undo()
        record.finish(result_for(0))
        return trial

    monkeypatch.setattr(record, "_in_slot", late)
    assert record.finish(result_for(0, scale=9)) is None
    assert record.trials()[0].value == 1.0

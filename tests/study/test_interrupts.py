"""Ctrl-C in the middle of a write: the write ends, the interrupt follows, and the storage is free."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState

from regmix_active.interrupts import held_back
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.study.meaning import Meaning
from regmix_active.study.record import StudyRecord
from regmix_active.study.storage import open_storage, open_study


def test_an_interrupt_waits_for_the_end_of_the_block() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), held_back():  # noqa: PT012 (what runs before it is raised is the point)
        signal.raise_signal(signal.SIGINT)
        steps.append("after the signal")
    assert steps == ["after the signal"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interrupt_does_not_wait() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), held_back():  # noqa: PT012 (what runs before it is raised is the point)
        signal.raise_signal(signal.SIGINT)
        steps.append("one")
        signal.raise_signal(signal.SIGINT)
        steps.append("two")
    assert steps == ["one"]


def test_blocks_in_blocks_end_with_the_outermost() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), held_back():  # noqa: PT012 (what runs before it is raised is the point)
        with held_back():
            signal.raise_signal(signal.SIGINT)
        steps.append("between")
    assert steps == ["between"]


def test_other_threads_are_let_alone() -> None:
    seen = []

    def work() -> None:
        with held_back():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


@pytest.mark.parametrize("scheme", ["sqlite", "journal"])
def test_a_result_is_written_whole_and_the_storage_is_free(tmp_path: Path, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{scheme}:///{tmp_path / 'study'}"
    record = StudyRecord(open_study(open_storage(url), url, "s", create=True))
    record.claim(Meaning(("a", "b"), (0.5, 0.5), ("a", "b"), {}), {}, "mean")
    record.plan([ProxyRequest(0, np.array([0.5, 0.5]), 1, 2)], 0, 1, "test")
    write = record.study._storage.set_trial_user_attr

    def interrupted(trial_id: int, key: str, value: object) -> None:
        if key == "losses":
            signal.raise_signal(signal.SIGINT)
        write(trial_id, key, value)

    monkeypatch.setattr(record.study._storage, "set_trial_user_attr", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record.finish(ProxyResult(0, {"a": 1.0, "b": 2.0}))
    (trial,) = record.trials(TrialState.COMPLETE)
    assert trial.user_attrs["losses"] == {"a": 1.0, "b": 2.0}

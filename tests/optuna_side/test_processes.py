"""Several processes on one study: no mixture twice, and on SQLite in turn or not at all."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

import regmix_active.optuna.claim as claiming
from regmix_active.errors import StudyBusyError
from regmix_active.optuna import MixtureSampler, suggest_mixture
from tests.optuna_side.crowd import close, crowd, start
from tests.optuna_side.mixture_worker import DOMAINS, opened
from tests.servers import postgresql

CORNER = {"w/books": 1.0}


@pytest.fixture(scope="module")
def server() -> Iterator[postgresql.Server]:
    pytest.importorskip("psycopg", reason="the PostgreSQL driver is not installed")
    if (reason := postgresql.why_not()) is not None:
        pytest.skip(reason)
    with postgresql.running() as running:
        yield running


def check(url: str, folder: Path, how: str, processes: int = 8, trials: int = 4) -> None:
    # The second half of the trials all want the same mixture.
    total = processes * trials
    outcome = crowd(url, folder, how=how, processes=processes, trials=trials, queued=6, initial=total // 2, contended=True)
    assert not outcome.errors, outcome.errors[0]
    assert len(outcome.trained) == total
    assert len({number for number, _ in outcome.trained}) == total
    assert (outcome.twice, outcome.queued_once, outcome.unfinished) == (0, 6, 0)


def test_eight_processes_on_a_journal(tmp_path: Path) -> None:
    check(f"journal:///{tmp_path}/study.journal", tmp_path, how="plain")


def test_processes_on_sqlite_take_turns(tmp_path: Path) -> None:
    check(f"sqlite:///{tmp_path}/study.db", tmp_path, how="ours", processes=3)


def test_eight_processes_on_postgresql(server: postgresql.Server, tmp_path: Path) -> None:
    check(server.url().replace("postgresql://", "postgresql+psycopg://"), tmp_path, how="plain")


class Held:
    """A process that trains one trial of an SQLite study, and does not end."""

    def __init__(self, folder: Path, how: str) -> None:
        self.folder, self.url = folder, f"sqlite:///{folder}/study.db"
        self.study = optuna.create_study(study_name="shared", storage=opened(self.url, how))
        (folder / "go").touch()
        self.process: subprocess.Popen[str] = start(self.url, folder, "holder", how=how, hold=True)
        out, end = folder / "holder.jsonl", time.monotonic() + 60
        while not (out.exists() and out.read_text()):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end
            time.sleep(0.02)

    def other(self, how: str) -> optuna.Study:
        return optuna.load_study(study_name="shared", storage=opened(self.url, how), sampler=MixtureSampler(DOMAINS))

    def states(self) -> list[TrialState]:
        return [t.state for t in self.study.get_trials(deepcopy=False)]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def held(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Held]:
    holder = Held(tmp_path, getattr(request, "param", "plain"))
    yield holder
    holder.close()


def test_a_second_process_on_a_plain_sqlite_file_is_refused(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claiming, "GRACE_SECONDS", 0.2)
    study = held.other("plain")
    with pytest.raises(StudyBusyError, match=rf"study 'shared' in .*study\.db .* process {held.process.pid} on .*open_storage"):
        study.ask()
    assert held.states() == [TrialState.RUNNING, TrialState.FAIL]
    # What it took out of the queue goes back there.
    study.enqueue_trial(CORNER)
    with pytest.raises(StudyBusyError):
        study.ask()
    assert held.states()[2:] == [TrialState.WAITING]
    # Unless the other process trains it too: then it is its own.
    study._storage.set_trial_system_attr(study.trials[2]._trial_id, claiming.OWNER, held.process.pid)
    with pytest.raises(StudyBusyError):
        study.ask()
    assert held.states()[2:] == [TrialState.RUNNING]
    # The lock is free as soon as its holder is dead.
    held.close()
    suggest_mixture(study.ask(), DOMAINS)


@pytest.mark.parametrize(("held", "how"), [("plain", "ours"), ("ours", "plain")], indirect=["held"])
def test_both_kinds_of_connection_are_not_mixed(held: Held, how: str) -> None:
    with pytest.raises(StudyBusyError, match="open_storage"):
        held.other(how).ask()
    assert held.states() == [TrialState.RUNNING, TrialState.FAIL]


def test_a_queued_trial_that_two_threads_got_trains_once(tmp_path: Path) -> None:
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db", sampler=MixtureSampler(DOMAINS))
    study.enqueue_trial(CORNER)
    trial = study.ask()
    with pytest.raises(StudyBusyError, match="trial 0 of the queue to two threads"):
        optuna.Trial(study, trial._trial_id)
    assert study.trials[0].state == TrialState.RUNNING
    assert suggest_mixture(trial, DOMAINS)["books"] == 1


def test_threads_on_sqlite_take_turns(tmp_path: Path) -> None:
    study = optuna.create_study(
        storage=opened(f"sqlite:///{tmp_path}/study.db", "ours"), sampler=MixtureSampler(DOMAINS), study_name="shared"
    )
    for i in range(8):
        study.enqueue_trial({"w/books": i / 8, "w/code": 1 - i / 8})
    trained: list[float] = []

    def objective(trial: optuna.Trial) -> float:
        trained.append(suggest_mixture(trial, DOMAINS)["code"])
        return 1.0

    study.optimize(objective, n_trials=8, n_jobs=4)
    assert sorted(trained) == [i / 8 for i in range(1, 9)]
    close(study)


def test_studies_in_memory_need_no_lock() -> None:
    study = optuna.create_study(storage="sqlite:///:memory:", sampler=MixtureSampler(DOMAINS))
    suggest_mixture(study.ask(), DOMAINS)
    assert not list(Path().glob(".*.sampler.lock"))

"""Driver, executor and study against a model, with faults as steps: whatever dies, each proxy is trained and recorded once.

The model is the search that nothing ever happened to. A machine lets a driver work through a list of events (a job ends well,
dies, leaves a torn file, fills the disk, reports twice; the driver is killed before a result, after it, or in the middle of a
write to the study), starts it again, and compares.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import optuna
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from regmix_active.config.execution import ExecutionConfig
from regmix_active.config.schema import ProxyConfig, SearchConfig
from regmix_active.errors import DiskError
from regmix_active.mixture.space import Mixtures
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.proxy.job import ProxyJob, write_results
from regmix_active.proxy.planning.planner import SwarmPlan
from regmix_active.proxy.runner import SwarmRunner
from regmix_active.search.loop import SearchLoop
from regmix_active.strategies import Strategy
from regmix_active.study.history import History
from regmix_active.study.meaning import Meaning
from regmix_active.study.record import StudyRecord
from regmix_active.study.target import Target

BUDGET = 22
DOMAINS = ("a", "b", "c")
STORE: Any = SimpleNamespace(domains=DOMAINS, path=Path("/store"), fingerprint="f", proxy_weights=lambda weights: weights)
KINDS = ("ok", "ok", "ok", "silent", "crash", "torn", "twice", "stranger", "full", "late", "kill", "write")
EVENTS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 7)), min_size=1, max_size=8)


class KilledError(BaseException):
    """The driver's end, which nothing may catch."""


class Mortal(InMemoryStorage):
    """A storage whose process dies after so many writes."""

    left: int | None = None

    def _count(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise KilledError

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._count()
        super().set_trial_user_attr(trial_id, key, value)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        self._count()
        return super().set_trial_state_values(trial_id, state, values)

    def create_new_trial(self, study_id: int, template_trial: Any = None) -> int:
        self._count()
        return super().create_new_trial(study_id, template_trial)


def truth(request: ProxyRequest) -> ProxyResult:
    """What a proxy shows: a function of its request; some mixtures diverge."""
    if request.weights[0] > 0.8:
        return ProxyResult(request.slot, {}, failure="diverged: as it always does", diverged=True)
    losses = 2 + (0.05 + request.weights) ** -0.3 + 1e-3 * (request.data_seed % 97)
    return ProxyResult(request.slot, dict(zip(DOMAINS, losses.tolist(), strict=True)))


class Faulty:
    """An executor that does what the list of events says; without an event left, its driver is killed."""

    def __init__(self, events: deque[tuple[str, int]] | None, storage: Mortal, trained: Counter[int]) -> None:
        self.events, self.storage, self.trained = events, storage, trained
        self.running: list[Path] = []
        self.crashes: Counter[Path] = Counter()

    def submit(self, job: Path) -> None:
        assert job not in self.running, "no job twice at a time"
        self.running.append(job)

    def poll(self, timeout: float | None = None) -> list[tuple[Path, str | None]]:
        if self.events is None:
            kind, number = "ok", 0
        elif self.events:
            kind, number = self.events.popleft()
        else:
            raise KilledError
        if kind == "kill":
            raise KilledError
        if kind == "stranger":
            return [(Path("/elsewhere/of-another-search.job.json"), None)]
        path = self.running[number % len(self.running)]
        if kind == "full":
            return self._end(path, "OSError: [Errno 28] No space left on device")
        if kind in ("crash", "torn") and self.crashes[path] < 2:  # within the cap
            self.crashes[path] += 1
            if kind == "torn":
                whole = self._train(path, keep=False)
                whole.write_bytes(whole.read_bytes()[:-3])
            return self._end(path, "its process died" if kind == "crash" else None)
        self._train(path)
        if kind == "late":
            raise KilledError
        if kind == "write":
            self.storage.left = number
        return self._end(path, "its process died" if kind == "silent" else None) * (1 + (kind == "twice"))

    def _train(self, path: Path, *, keep: bool = True) -> Path:
        job = ProxyJob.read(path)
        if keep:
            self.trained.update(request.slot for request in job.requests)
        result = job.result_path(path.parent)
        write_results(result, [truth(request) for request in job.requests])
        return result

    def _end(self, path: Path, reason: str | None) -> list[tuple[Path, str | None]]:
        self.running.remove(path)
        return [(path, reason)]

    def cancel(self, job: Path) -> None:
        if job in self.running:
            self.running.remove(job)

    def __enter__(self) -> Faulty:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class Follower(Strategy):
    """Proposes around the best so far, so that one wrong loss changes everything after it."""

    name = "follower"

    def propose(self, history: History, pending: Mixtures, n: int, rng: np.random.Generator) -> Mixtures:
        centre = history.mixtures[history.best] + 0.01 * float(history.losses.mean())
        return rng.dirichlet(20 * centre / centre.sum() + 0.2, size=n)


class Search:
    """One study and its folder; every drive is a driver of its own."""

    def __init__(self, *, asynchronous: bool) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.storage, self.trained = Mortal(), Counter[int]()
        self.asynchronous = asynchronous
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        optuna.create_study(study_name="s", storage=self.storage, direction="minimize")
        self.meaning = Meaning(DOMAINS, (0.5, 0.3, 0.2), DOMAINS, {"seed": 3})

    def record(self) -> StudyRecord:
        return StudyRecord(optuna.load_study(study_name="s", storage=self.storage))

    def drive(self, events: list[tuple[str, int]] | None) -> bool:
        """Let a driver work; whether it reached the budget."""
        self.storage.left = None
        executor = Faulty(None if events is None else deque(events), self.storage, self.trained)
        runner = SwarmRunner(STORE, ProxyConfig(), SwarmPlan(2, 2), executor, self.folder, execution=ExecutionConfig())
        chosen = SearchConfig(budget=BUDGET, initial=9, batch_size=5, failure_rate=1.0, asynchronous=self.asynchronous)
        target = Target.parse("mean", DOMAINS)
        try:
            record = self.record()
            record.claim(self.meaning, {}, "mean")
            SearchLoop(record, runner, Follower(), target, chosen, seed=3).run()
        except (KilledError, DiskError):
            return False
        finally:
            self.storage.left = None
        return True

    def table(self) -> dict[int, tuple[Any, ...]]:
        """All finished proxies by slot."""
        record = self.record()
        finished = record.trials(TrialState.COMPLETE, TrialState.FAIL)
        return {t.user_attrs["slot"]: (t.state, tuple(record.weights(t)), t.user_attrs.get("losses"), t.value) for t in finished}


def _unbroken() -> dict[int, tuple[Any, ...]]:
    search = Search(asynchronous=False)
    assert search.drive(None)
    table = search.table()
    assert {state for state, *_ in table.values()} == {TrialState.COMPLETE, TrialState.FAIL}, "some diverge"
    assert sum(state == TrialState.COMPLETE for state, *_ in table.values()) == BUDGET
    shutil.rmtree(search.folder)
    return table


class Rounds(RuleBasedStateMachine):
    """A search in rounds."""

    asynchronous = False
    steps = 0
    unbroken: ClassVar[dict[int, tuple[Any, ...]]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.search = Search(asynchronous=self.asynchronous)

    @rule(events=EVENTS)
    def drive(self, events: list[tuple[str, int]]) -> None:
        type(self).steps += len(events)
        self.search.drive(events)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        record = self.search.record()
        slots = [trial.user_attrs["slot"] for trial in record.trials()] if not record.is_new else []
        assert len(slots) == len(set(slots)), "no slot twice"
        assert all(count == 1 for count in self.search.trained.values()), "no proxy trained to its end twice"
        table = self.search.table() if slots else {}
        for slot, (state, weights, losses, _) in table.items():
            expected = truth(ProxyRequest(slot, np.array(weights), 0, self._data_seed(record, slot)))
            assert (state == TrialState.FAIL) == expected.diverged
            assert losses is None or losses == expected.losses
            if not self.asynchronous:
                assert table[slot] == self.unbroken[slot], "bit for bit"

    def _data_seed(self, record: StudyRecord, slot: int) -> int:
        return next(int(t.user_attrs["data_seed"]) for t in record.trials() if t.user_attrs["slot"] == slot)

    def teardown(self) -> None:
        assert self.search.drive(None)
        self.nothing_is_lost_or_doubled()
        table = self.search.table()
        assert sum(state == TrialState.COMPLETE for state, *_ in table.values()) == BUDGET
        assert sorted(table) == list(range(len(table)))
        assert self.search.record().count(TrialState.RUNNING) == 0
        if not self.asynchronous:
            assert table == self.unbroken
        shutil.rmtree(self.search.folder)


class Stream(Rounds):
    """An asynchronous search: its order is its own, but nothing else is."""

    asynchronous = True
    steps = 0


def _quick(examples: int) -> settings:
    return settings(max_examples=examples, stateful_step_count=10, derandomize=True, deadline=None)


def test_rounds_with_faults() -> None:
    Rounds.unbroken = _unbroken()
    run_state_machine_as_test(Rounds, settings=_quick(45))
    assert Rounds.steps >= 1000


def test_a_stream_with_faults() -> None:
    run_state_machine_as_test(Stream, settings=_quick(15))
    assert Stream.steps >= 300

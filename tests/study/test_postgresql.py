"""A study in a real PostgreSQL, whose server restarts, loses answers and ends connections; one driver at a time."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray
from optuna.trial import TrialState

from regmix_active import ActiveSearch, FunctionRunner, load_config
from regmix_active.errors import StudyBusyError, StudyError
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.study.durable import Durable, StorageError
from regmix_active.study.lock import study_lock
from regmix_active.study.meaning import Meaning
from regmix_active.study.record import StudyRecord
from regmix_active.study.storage import open_storage, open_study
from tests.servers.lossy import lossy
from tests.servers.postgresql import PASSWORD, Server, running, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
pytest.importorskip("psycopg", reason="the driver for PostgreSQL is not installed")

DOMAINS = ("books", "code", "talk")
MEANING = Meaning(DOMAINS, (0.5, 0.3, 0.2), DOMAINS, {})

DRIVER = """
import sys, time
from regmix_active.study.lock import study_lock

with study_lock(sys.argv[1], "s"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture
def url(server: Server, request: pytest.FixtureRequest) -> str:
    """An empty database of the test's own."""
    name = f"t{zlib.crc32(request.node.name.encode())}"
    server.sql(f"CREATE DATABASE {name}")
    return server.url(name)


def database(url: str) -> str:
    return url.rpartition("/")[2]


def opened(url: str, guard: Callable[[], None] | None = None) -> StudyRecord:
    record = StudyRecord(open_study(open_storage(url), url, "s", create=True), guard)
    record.claim(MEANING, {}, "mean")
    return record


def result(slot: int) -> ProxyResult:
    return ProxyResult(
        slot, {name: slot + i / 7 for i, name in enumerate(DOMAINS)}, tokens=10, curve={"5": dict.fromkeys(DOMAINS, 1.0)}
    )


def requests(n: int) -> list[ProxyRequest]:
    return [ProxyRequest(slot, np.array([0.5, 0.5 - slot / 100, slot / 100]), 1, 2) for slot in range(n)]


def losses(weights: NDArray[np.float64]) -> dict[str, float]:
    own = 2 + np.array([1.0, 2.0, 0.5]) * (0.02 + weights) ** -0.4
    return dict(zip(DOMAINS, own.tolist(), strict=True))


def search(url: str | None, out: Path, function: Callable[[NDArray[np.float64]], dict[str, float]]) -> ActiveSearch:
    overrides: dict[str, Any] = {"target": "mean", "score_only": [], "recommend.simulations": 1000, "search.budget": 12}
    overrides |= {"search.initial": 8, "search.batch_size": 4, "search.strategy_options": {"candidates": 64}, "study.storage": url}
    return ActiveSearch(load_config("embedded", overrides.items()), out=out, runner=FunctionRunner(DOMAINS, function))


def table(search: ActiveSearch) -> list[tuple[Any, ...]]:
    trials = search.open_record().trials()
    return [(t.number, t.state, t.user_attrs["slot"], t.params, t.value, t.user_attrs["losses"]) for t in trials]


def test_a_search_through_restarts_is_the_unbroken_one(
    server: Server, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained: list[bytes] = []
    restarts = 0

    def unlucky(weights: NDArray[np.float64]) -> dict[str, float]:
        nonlocal restarts
        trained.append(weights.tobytes())
        if len(trained) % 4 == 2:
            server.restart("immediate", pause=0.1)
            restarts += 1
        elif len(trained) % 3 == 0:
            server.end_connections()
        return losses(weights)

    broken, unbroken = search(url, tmp_path / "broken", unlucky), search(None, tmp_path / "unbroken", losses)
    with caplog.at_level(logging.WARNING, logger="regmix_active"):
        found = broken.run()
    expected = unbroken.run()
    np.testing.assert_array_equal(found.weights, expected.weights)
    assert table(broken) == table(unbroken)
    assert len(trained[1:]) == len(set(trained[1:])) == 12, "the first call asks for the names of the losses"
    assert restarts == 3
    assert caplog.text.count("the connection that held its lock is gone") >= restarts
    files = [file for file in (tmp_path / "broken").rglob("*") if file.is_file()]
    assert not [file for file in files if PASSWORD.encode() in file.read_bytes() or b"s3cret" in file.read_bytes()]
    assert PASSWORD not in caplog.text


def test_writes_while_the_server_restarts_all_the_time(server: Server, url: str) -> None:
    with study_lock(url, "s") as held:
        record = opened(url, held.ensure)
        with server.restarting(every=0.6, pause=0.2) as times:
            record.plan(requests(6), 0, 6, "initial design")
            for slot in range(6):
                record.finish(result(slot))
                time.sleep(0.1)
    assert times, "the server was never away"
    trials = opened(url).study.get_trials()
    assert [t.user_attrs["slot"] for t in trials] == list(range(6))
    assert [t.value for t in trials] == pytest.approx([slot + 1 / 7 for slot in range(6)])


@pytest.mark.parametrize(("planning", "finishing"), [(2, 31), (3, 17)])
def test_an_answer_that_got_lost_plans_nothing_twice(server: Server, url: str, planning: int, finishing: int) -> None:
    with lossy(server.port) as way:
        record = opened(server.url(database(url), port=way.port))
        way.lose(b"COMMIT", planning)
        record.plan(requests(10), 0, 10, "initial design")
        way.lose(b"COMMIT", finishing)
        for slot in range(10):
            record.finish(result(slot))
            record.finish(result(slot))
        way.lose(b"COMMIT", 0)
        assert way.lost >= 10
    trials = opened(url).study.get_trials()
    assert [(t.number, t.user_attrs["slot"], t.state) for t in trials] == [(i, i, TrialState.COMPLETE) for i in range(10)]
    assert [t.user_attrs["losses"] for t in trials] == [result(slot).losses for slot in range(10)]


def test_optuna_itself_would_plan_it_twice(server: Server, url: str) -> None:
    """Why our engines raise errors of our own: without them, the test above sees nothing."""
    with lossy(server.port) as way:
        storage = optuna.storages.RDBStorage(
            server.url(database(url), port=way.port).replace("://", "+psycopg://"), engine_kwargs={"pool_pre_ping": True}
        )
        study = optuna.create_study(storage=storage)
        way.lose(b"COMMIT", 3)
        for _ in range(3):
            study.add_trial(optuna.trial.create_trial(value=1.0))
        way.lose(b"COMMIT", 0)
        assert len(study.get_trials()) > 3
        storage.engine.dispose()


def test_a_server_that_stays_away_is_one_clear_error(server: Server, url: str) -> None:
    record = opened(url)
    record._durable = Durable("study 's'", seconds=0.5)
    record.plan(requests(1), 0, 2, "initial design")
    server.stop()
    try:
        with pytest.raises(
            StorageError, match=r"it cannot be reached \(.*\); start it, or mend the connection, then run"
        ) as caught:
            record.plan(requests(2), 0, 2, "initial design")
        assert "***" in str(caught.value)
        assert "s3cret" not in str(caught.value)
    finally:
        server.start()
    again = opened(url)
    again.plan(requests(2), 0, 2, "initial design")
    assert [t.user_attrs["slot"] for t in again.trials()] == [0, 1]


def test_a_full_disk_is_not_waited_for(server: Server, url: str) -> None:
    """The server says 53100; here a function says so in its place."""
    record = opened(url)
    server.sql(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$",
        "CREATE TRIGGER full_disk BEFORE INSERT ON trials EXECUTE FUNCTION full_disk()",
        database=database(url),
    )
    start = time.monotonic()
    with pytest.raises(StorageError, match="the disk is full; free some space"):
        record.plan(requests(1), 0, 1, "initial design")
    server.sql(f"ALTER DATABASE {database(url)} SET default_transaction_read_only = on")
    server.end_connections()
    with pytest.raises(StorageError, match="it is read-only here"):
        record.plan(requests(1), 0, 1, "initial design")
    assert time.monotonic() - start < 5
    assert open_storage(url, writing=False).get_all_studies()[0].study_name == "s"


def test_a_second_driver_is_told_who_holds_the_study_until_it_dies(url: str) -> None:
    with subprocess.Popen([sys.executable, "-c", DRIVER, url], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "held\n"
        for _ in range(3):
            with (
                pytest.raises(
                    StudyBusyError, match=rf"written by process {driver.pid} on .* \(since 20.*\); wait for it"
                ) as caught,
                study_lock(url, "s"),
            ):
                pass
            assert "s3cret" not in str(caught.value)
        with study_lock(url, "another study"):
            pass
        os.kill(driver.pid, signal.SIGKILL)
        killed = time.monotonic()
        driver.wait()
    while True:
        try:
            with study_lock(url, "s"):
                break
        except StudyBusyError:
            assert time.monotonic() - killed < 1
            time.sleep(0.02)
    assert time.monotonic() - killed < 1


def test_a_lost_lock_is_taken_again_unless_somebody_has_it(server: Server, url: str) -> None:
    with study_lock(url, "s") as held:
        server.end_connections("true")
        held.ensure()
        with pytest.raises(StudyBusyError), study_lock(url, "s"):
            pass
        server.restart("fast")
        with study_lock(url, "s"):
            with pytest.raises(StudyBusyError, match=f"process {os.getpid()}"):
                held.ensure()
            record = opened(url)
            guarded = StudyRecord(record.study, held.ensure)
            with pytest.raises(StudyBusyError):
                guarded.plan(requests(1), 0, 1, "initial design")
            assert not record.trials(), "a driver without its lock writes nothing"
        held.ensure()


def test_foreign_and_newer_databases_are_left_alone(server: Server, url: str) -> None:
    name = database(url)
    tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1"
    server.sql("CREATE TABLE users (a int)", database=name)
    for writing in (True, False):
        with pytest.raises(StudyError, match=r"belongs to another program .*the tables users.* a database of its own"):
            open_storage(url, writing=writing)
    assert server.sql(tables, database=name) == [("users",)]
    server.sql("DROP TABLE users", database=name)
    with pytest.raises(StudyError, match="is empty; start a study"):
        open_storage(url, writing=False)
    assert server.sql(tables, database=name) == []
    opened(url)
    server.sql("UPDATE alembic_version SET version_num = 'v99.0.0.a'", database=name)
    for writing in (True, False):
        with pytest.raises(StudyError, match="of a newer Optuna than the one here; upgrade it"):
            open_storage(url, writing=writing)
    assert server.sql("SELECT version_num FROM alembic_version", database=name) == [("v99.0.0.a",)]


def test_who_is_not_let_in_is_told_where_passwords_belong(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    remedy = r"it does not let us in \(.*\); check host, user, database and password: passwords come from ~/.pgpass, PGPASSWORD"
    for wrong in (server.url("nosuch"), server.url(password=False), server.url().replace("s3cret", "s3cret-and-wrong")):
        with pytest.raises(StorageError, match=remedy) as caught:
            open_storage(wrong)
        assert "s3cret" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
    # A run folder keeps the URL with stars; the password of the environment counts all the same.
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    for right in (server.url(password=False), server.url(password=False).replace("driver@", "driver:***@")):
        with study_lock(right, "s"):
            pass

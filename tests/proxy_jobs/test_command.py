"""A user's command as a proxy: what it is told, what is read of it, and that nothing of it outlives its worker."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from regmix_active.config.execution import ExecutionConfig
from regmix_active.config.schema import RunnerConfig
from regmix_active.errors import ConfigError, ProxyError
from regmix_active.execution.local import LocalExecutor
from regmix_active.proxy import command
from regmix_active.proxy.base import ProxyRequest, ProxyResult, ProxyRunner, StreamingRunner
from regmix_active.proxy.command import CommandJob, CommandRunner, check_command, filled, run_command_job
from regmix_active.proxy.job import read_results

REQUEST = ProxyRequest(3, np.array([0.25, 0.75]), 11, 12)
GOOD = """echo '{"losses": {"a": 1.5, "b": 2.5, "c": 9}, "tokens": 1e6, "bits_per_byte": {"a": 0.5}}' > {out}/metrics.json; """
GOOD += ": {mixture}"


def a_job(line: str, **changes: Any) -> CommandJob:
    job = CommandJob((REQUEST,), ("a", "b"), line, ("a", "b"), {"model": "30M"}, Path.cwd(), None)
    return dataclasses.replace(job, **changes)


def done(folder: Path, line: str, device: str = "cpu", **changes: Any) -> ProxyResult:
    job = a_job(line, **changes)
    run_command_job(str(job.write(folder)), device)
    (result,) = read_results(job.result_path(folder)) or []
    return result


def wait_for(happened: Callable[[], bool], seconds: float = 15.0) -> bool:
    end = time.monotonic() + seconds
    while not happened() and time.monotonic() < end:
        time.sleep(0.02)
    return happened()


def test_only_known_placeholders_are_replaced_and_quoted() -> None:
    values: dict[str, str | int] = {"mixture": "/my runs/m.json", "out": "/o", "seed": 1, "data_seed": 2, "device": "cuda:0"}
    shell = """A=${out} ${seed:-3} {{seed}} $(awk '{print}' x) {a,b} {1} {"""
    assert filled(f"t {{mixture}} --o={{out}} {{seed}}{{data_seed}} {{device}} {shell}", values) == (
        f"t '/my runs/m.json' --o=/o 12 cuda:0 {shell}"
    )


@pytest.mark.parametrize(
    ("wrong", "right"), [("mixtures", "mixture"), ("SEED", "seed"), ("dataseed", "data_seed"), ("ouput", "out")]
)
def test_a_misspelt_placeholder_is_refused_with_a_suggestion(wrong: str, right: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown placeholder \{{{wrong}\}}; did you mean \{{{right}\}}"):
        check_command(f"./t {{mixture}} {{out}} {{{wrong}}}")
    check_command(f"./t {{mixture}} {{out}} ${{{wrong}}} {{{{{wrong}}}}} | awk '{{print}}'")
    with pytest.raises(ConfigError, match=r"must name \{out\}"):
        check_command("./t {mixture} {{out}}")


def test_a_job_file_says_all_and_its_key_names_what_the_result_depends_on(tmp_path: Path) -> None:
    job = a_job(GOOD, timeout_minutes=2.0)
    read = CommandJob.read(job.write(tmp_path))
    assert (read.key, read.cwd, read.timeout_minutes, read.requests[0].weights.tolist()) == (job.key, Path.cwd(), 2.0, [0.25, 0.75])
    assert job.again(2) is job
    how: list[dict[str, Any]] = [{"cwd": tmp_path}, {"timeout_minutes": None}]
    what: list[dict[str, Any]] = [
        {"command": "x"},
        {"facts": {"model": "1B"}},
        {"losses": ("a",)},
        {"domains": ("a", "c")},
        *(
            {"requests": (dataclasses.replace(REQUEST, **dict[str, Any]([(name, 99)])),)}
            for name in ("slot", "init_seed", "data_seed")
        ),
        {"requests": (dataclasses.replace(REQUEST, weights=np.array([0.5, 0.5])),)},
    ]
    assert {dataclasses.replace(job, **change).key for change in how} == {job.key}
    assert len({dataclasses.replace(job, **change).key for change in what} | {job.key}) == len(what) + 1


def test_the_command_is_told_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "secret")
    monkeypatch.setenv("REGMIX_ACTIVE_STORAGE", "postgresql://me:secret@host/db")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    folder, home = tmp_path / "with blanks", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    tell = (
        GOOD + "; cp {mixture} {out}/copy.json; env -0 > {out}/env; pwd > {out}/pwd; echo {seed} {data_seed} {device} > {out}/said"
    )
    result = done(folder, tell, "cuda:1", cwd=home)
    assert (result.slot, result.losses, result.tokens) == (3, {"a": 1.5, "b": 2.5}, 1_000_000)
    assert result.bits_per_byte == {"a": 0.5}
    assert 0 < result.seconds < 10
    (out,) = [path for path in folder.iterdir() if path.is_dir()]
    told = json.loads((out / "copy.json").read_text())
    assert told == {"weights": {"a": 0.25, "b": 0.75}, "seed": 11, "data_seed": 12, "slot": 3}
    assert (out / "pwd").read_text().strip() == str(home)
    assert (out / "said").read_text() == "11 12 cuda:0\n"
    env = dict(line.split("=", 1) for line in (out / "env").read_text().split("\0") if line)
    assert (env["REGMIX_MIXTURE"], env["REGMIX_OUT"]) == (str(out / "mixture.json"), str(out))
    assert (env["REGMIX_SEED"], env["REGMIX_DATA_SEED"], env["REGMIX_DEVICE"]) == ("11", "12", "cuda:0")
    assert env["CUDA_VISIBLE_DEVICES"] == "7", "the second of those that the worker sees"
    assert "secret" not in (out / "env").read_text()
    for device in ("cpu", "cuda"):
        done(folder, f"{tell}; : {device}", device, cwd=home)
    seen = [(path / "env").read_text() for path in folder.iterdir() if path.is_dir() and path != out]
    assert len(seen) == 2
    assert all("CUDA_VISIBLE_DEVICES=4,7\0" in one for one in seen), "left as it is"


def test_a_command_that_fails_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(ProxyError, match=r"exit code 3; the end of .*log\.txt:\n(line \d+\n)+50%\noh no$") as raised:
        done(tmp_path, "for i in $(seq 100); do echo line $i; done; printf '0%%\\r50%%\\n'; echo oh no >&2; exit 3; {mixture}{out}")
    assert "line 1\n" not in str(raised.value)
    with pytest.raises(ProxyError, match="killed by signal 9"):
        done(tmp_path, "kill -9 $$; {mixture}{out}")
    with pytest.raises(ProxyError, match=r"/nowhere: the command cannot be started there"):
        done(tmp_path, GOOD, cwd=Path("/nowhere"))


def test_a_command_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(ProxyError, match=r"longer than runner\.timeout_minutes \(0\.005\)"):
        done(tmp_path, "sleep 100; {mixture}{out}", timeout_minutes=0.005)
    assert time.monotonic() - begin < 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"metrics\.json: the command ended well, but left no such file"),
        ("{", r"metrics\.json: not JSON"),
        ("[1]", "not a JSON object"),
        ('{"losses": {"a": 1, "x": 2}}', "has no loss 'b'; it has: a, x"),
        ('{"a": 1, "b": "2.0"}', "the loss 'b' is \"2.0\", not a number"),
        ('{"a": 1, "b": true}', "the loss 'b' is true"),
        ('{"a": 1, "b": null}', "the loss 'b' is null"),
        ('{"losses": {"a": 1, "b": 2}, "tokens": -1}', "'tokens' is -1"),
        ('{"losses": {"a": 1, "b": 2}, "bits_per_byte": 3}', "'bits_per_byte' must be"),
        ('{"losses": {"a": 1, "b": 2}, "bits_per_byte": {"a": "x"}}', "the number 'a' is \"x\""),
    ],
)
def test_metrics_that_cannot_be_read_are_refused_and_may_be_tried_again(tmp_path: Path, content: str | None, message: str) -> None:
    (tmp_path / "bad").write_text(content or "")
    copy = f"test -e {tmp_path}/mended && cp {tmp_path}/mended {{out}}/metrics.json || "
    copy += f"cp {tmp_path}/bad {{out}}/metrics.json" if content is not None else ": {out}"
    with pytest.raises(ProxyError, match=message):
        done(tmp_path, f"{copy}; : {{mixture}}")
    (tmp_path / "mended").write_text('{"a": 1, "b": 2}')
    assert done(tmp_path, f"{copy}; : {{mixture}}").losses == {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize("loss", ["NaN", "Infinity", "-Infinity", "1000.1", "1" + "0" * 400])
def test_a_diverged_loss_is_a_result(tmp_path: Path, loss: str) -> None:
    (tmp_path / "metrics").write_text(f'{{"a": 1.0, "b": {loss}}}')
    result = done(tmp_path, f"cp {tmp_path}/metrics {{out}}/metrics.json; : {{mixture}}")
    assert result.diverged
    assert result.losses == {}
    assert "the loss of b is" in str(result.failure)


def test_what_ended_well_is_collected_and_what_did_not_runs_again_in_its_folder(tmp_path: Path) -> None:
    counting = f"echo run >> {{out}}/runs; test -e {tmp_path}/hold && exit 1; " + GOOD
    (tmp_path / "hold").touch()
    job = a_job(counting)
    path, out = job.write(tmp_path), tmp_path / job.key
    for _ in range(2):
        with pytest.raises(ProxyError, match="exit code 1"):
            run_command_job(str(path), "cpu")
        (out / "metrics.json").write_text('{"a": 0, "b": 0}')  # of an attempt that was killed on its way
    (tmp_path / "hold").unlink()
    run_command_job(str(path), "cpu")
    first = job.result_path(tmp_path).read_bytes()
    assert (out / "runs").read_text() == "run\n" * 3, "its folder stays from attempt to attempt"
    assert (read_results(job.result_path(tmp_path)) or [])[0].losses["a"] == 1.5
    job.result_path(tmp_path).unlink()  # as if the worker had died before it wrote it
    run_command_job(str(path), "cpu")
    run_command_job(str(path), "cpu")
    assert job.result_path(tmp_path).read_bytes() == first
    assert (out / "runs").read_text() == "run\n" * 3, "not run again"


def test_two_workers_with_one_job_run_it_once(tmp_path: Path) -> None:
    job = a_job("echo run >> {out}/runs; sleep 0.5; " + GOOD)
    path = str(job.write(tmp_path))
    both = [threading.Thread(target=run_command_job, args=(path, "cpu")) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert (tmp_path / job.key / "runs").read_text() == "run\n"
    assert read_results(job.result_path(tmp_path)) is not None


TREE = """
import os, signal, subprocess, sys, time
from pathlib import Path
out = Path(sys.argv[1])
if len(sys.argv) == 2:  # a launcher that puts its worker into a session of its own, as torchrun does
    subprocess.Popen([sys.executable, __file__, str(out), "worker"], start_new_session=True)
else:
    signal.signal(signal.SIGTERM, lambda *_: None if (out / "ignores").exists() else ((out / "saved").touch(), sys.exit(0)))
(out / ("worker" if sys.argv[2:] else "launcher")).write_text(str(os.getpid()))
while True:
    time.sleep(0.1)
"""


def pids(out: Path) -> list[int]:
    files = [out / "launcher", out / "worker"]
    assert wait_for(lambda: all(file.exists() and file.read_text() for file in files))
    return [int(file.read_text()) for file in files]


def test_nothing_outlives_a_worker_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "tree.py").write_text(TREE)
    job = a_job(f"{sys.executable} {tmp_path}/tree.py {{out}}; : {{mixture}}")
    path = job.write(tmp_path)
    script = f"from regmix_active.proxy.command import run_command_job; run_command_job({str(path)!r}, 'cpu')"
    with subprocess.Popen([sys.executable, "-c", script]) as worker:
        alive = pids(tmp_path / job.key)
        worker.kill()
    assert wait_for(lambda: not any(map(psutil.pid_exists, alive)))
    assert (tmp_path / job.key / "saved").exists(), "it was given time to save"
    assert not (tmp_path / job.key / ".regmix-finished.json").exists()


def test_a_command_that_ignores_its_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "GRACE_SECONDS", 1.0)
    (tmp_path / "tree.py").write_text(TREE)
    job = a_job(f"touch {{out}}/ignores; {sys.executable} {tmp_path}/tree.py {{out}}; : {{mixture}}", timeout_minutes=0.02)
    path = job.write(tmp_path)
    begin = time.monotonic()
    with pytest.raises(ProxyError, match="took longer"):
        run_command_job(str(path), "cpu")
    assert 1 < time.monotonic() - begin < 8, "SIGTERM first, SIGKILL after the grace"
    assert not any(map(psutil.pid_exists, pids(tmp_path / job.key)))


class HereExecutor:
    """Runs jobs in this process, when it is polled."""

    def __init__(self) -> None:
        self.queue: list[Path] = []

    def submit(self, job: Path) -> None:
        self.queue.append(job)

    def poll(self, timeout: float | None = None) -> list[tuple[Path, str | None]]:
        if not self.queue:
            return []
        job = self.queue.pop(0)
        try:
            run_command_job(str(job), "cpu")
        except ProxyError as error:
            return [(job, str(error))]
        return [(job, None)]

    @property
    def running(self) -> Collection[Path]:
        return []

    def cancel(self, job: Path) -> None:
        if job in self.queue:
            self.queue.remove(job)

    def __enter__(self) -> HereExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def runner(folder: Path, line: str, executor: Any = None, **settings: Any) -> CommandRunner:
    config = RunnerConfig(command=line, domains={"a": 1e9, "b": 3e9}, **settings)
    return CommandRunner(config, executor or HereExecutor(), folder / "jobs", folder, ExecutionConfig(attempts=2))


def test_the_runner_tries_again_up_to_its_cap_and_never_what_diverged(tmp_path: Path) -> None:
    trainer = tmp_path / "train.sh"
    trainer.write_text("""#!/bin/sh
        echo run >> "$2/runs"
        case $3 in
          1) test $(wc -l < "$2/runs") -gt 1 || exit 1 ;;
          2) exit 1 ;;
          3) echo '{"b": NaN}' > "$2/metrics.json"; exit 0 ;;
        esac
        echo "{\\"b\\": $3}" > "$2/metrics.json"
    """)
    trainer.chmod(0o755)
    train = runner(tmp_path, "./train.sh {mixture} {out} {seed}", losses=("b",))
    assert isinstance(train, StreamingRunner)
    checked: ProxyRunner = train
    assert (checked.domains, checked.loss_names, train.natural.tolist()) == (("a", "b"), ("b",), [0.25, 0.75])
    asked = [ProxyRequest(slot, np.array([0.5, 0.5]), slot, slot) for slot in range(5)]
    results = {result.slot: result for result in train.run(asked, known={4})}
    assert sorted(results) == [0, 1, 2, 3]
    assert [results[slot].losses for slot in (0, 1)] == [{"b": 0.0}, {"b": 1.0}]
    assert "exit code 1" in str(results[2].failure)
    assert not results[2].diverged
    assert results[3].diverged
    runs = {slot: (tmp_path / "jobs" / train.jobs([asked[slot]])[0].key / "runs").read_text().count("run") for slot in range(4)}
    assert runs == {0: 1, 1: 2, 2: 2, 3: 1}
    more = iter([asked[4]])
    assert [result.slot for result in train.stream(lambda n: [one for one in [next(more, None)] if one])] == [4]


def test_without_a_command_there_is_no_runner(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"runner\.command: missing"):
        CommandRunner(RunnerConfig(), HereExecutor(), tmp_path, tmp_path)


def test_a_cancelled_job_ends_its_command(tmp_path: Path) -> None:
    (tmp_path / "tree.py").write_text(TREE)
    with LocalExecutor(run_command_job, ["cpu"]) as executor:
        train = runner(tmp_path, f"{sys.executable} tree.py {{out}}; : {{mixture}}", executor)
        (job,) = train.jobs([REQUEST])
        (tmp_path / "jobs").mkdir()
        path = job.write(tmp_path / "jobs")
        executor.submit(path)
        alive = pids(tmp_path / "jobs" / job.key)
        executor.cancel(path)
        assert wait_for(lambda: not any(map(psutil.pid_exists, alive)))

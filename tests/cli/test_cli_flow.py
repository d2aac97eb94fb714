"""The real flow, with real proxies on tiny text."""

from __future__ import annotations

import csv
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from ruamel.yaml import YAML

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def trials(out: Path) -> list[dict[str, str]]:
    """Rows of trials.csv without what a clock decides."""
    with (out / "trials.csv").open(encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def mixture(out: Path) -> dict[str, float]:
    content = YAML(typ="safe").load((out / "mixture.yaml").read_text(encoding="utf-8"))
    weights: dict[str, float] = content["weights"]
    return weights


def completed(out: Path) -> int:
    """Completed trials, seen from outside while the search writes."""
    if not (out / "study.db").exists():
        return 0
    with sqlite3.connect(f"file:{out / 'study.db'}?mode=ro", uri=True, timeout=30) as connection:
        try:
            (count,) = connection.execute("select count(*) from trials where state = 'COMPLETE'").fetchone()
        except sqlite3.OperationalError:
            return 0
    connection.close()
    return int(count)


@pytest.fixture(scope="module")
def finished(tiny: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished, verified run that nothing interrupted."""
    out = tmp_path_factory.mktemp("finished") / "run"
    line = [sys.executable, "-m", "regmix_active", "run", "--config", str(tiny), "--out", str(out), "--verify"]
    result = subprocess.run(
        line, capture_output=True, text=True, env={**os.environ, "REGMIX_ACTIVE_CACHE": str(cache)}, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (out / "stdout.txt").write_text(result.stdout, encoding="utf-8")
    return out


def test_run_leaves_its_files_and_tables(finished: Path) -> None:
    rows = trials(finished)
    assert len(rows) == 16
    assert {row["state"] for row in rows} == {"complete"}
    assert [int(row["slot"]) for row in rows] == list(range(16))
    weights = mixture(finished)
    assert set(weights) == {"books", "code", "talk"}
    assert sum(weights.values()) == pytest.approx(1, abs=1e-9)
    shown = (finished / "stdout.txt").read_text(encoding="utf-8")
    for text in ("natural share", "found share", "ratio", "best trained", "study.db", "mixture.yaml", "fresh seeds"):
        assert text in shown
    assert re.search(r"(PASSED|NOT PROVEN): the found mixture", shown)
    assert (finished / "verification.yaml").is_file()
    assert "<svg" in (finished / "summary.svg").read_text(encoding="utf-8")
    log = (finished / "run.log").read_text(encoding="utf-8")
    assert "round 2: 4 proxies by variance-reduction" in log


def test_optuna_reads_the_study(finished: Path) -> None:
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{finished / 'study.db'}")
    frame = study.trials_dataframe()
    assert len(frame) == 16
    assert {"params_w/books", "params_w/code", "params_w/talk", "user_attrs_losses"} <= set(frame.columns)
    assert study.best_value == pytest.approx(min(float(row["target"]) for row in trials(finished)))


def test_killed_run_goes_on_as_the_unbroken_one(
    finished: Path, tiny: Path, environment: dict[str, str], command: Command, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    line = [sys.executable, "-m", "regmix_active", "run", "--config", str(tiny), "--out", str(out)]
    process = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while completed(out) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = completed(out)
    assert 3 <= before < 16
    result = command("run", "--config", tiny, "--out", out)
    assert result.returncode == 0, result.stderr
    assert f"continuing: {before} proxies are in the study, the budget is 16" in result.stdout
    assert trials(out) == trials(finished)
    assert mixture(out) == mixture(finished)


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_stop_the_run_and_say_how_to_continue(
    stop: signal.Signals, code: int, tiny: Path, environment: dict[str, str], command: Command, tmp_path: Path
) -> None:
    out = tmp_path / "stopped"
    line = [sys.executable, "-m", "regmix_active", "run", "--config", str(tiny), "--out", str(out)]
    process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while completed(out) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(stop)
    shown, errors = process.communicate(timeout=30)
    assert process.returncode == code, errors
    assert "Continue with the same command" in shown
    # A worker that was still starting when its driver ended says so by itself, before any code of ours runs in it.
    assert "Traceback" not in errors or "spawn_main" in errors
    status = command("status", out)
    assert status.returncode == 0, status.stderr
    assert "proxies missing" in status.stdout


def test_status_recommend_and_verify_need_no_new_search(finished: Path, command: Command) -> None:
    status = command("status", finished)
    assert status.returncode == 0, status.stderr
    assert "16 completed, 0 planned, 0 failed" in status.stdout
    before = (finished / "mixture.yaml").read_text(encoding="utf-8")
    code = command("recommend", finished, "--target", "code", "--top-k", "16")
    assert code.returncode == 0, code.stderr
    assert mixture(finished)["code"] > 0.5
    again = command("recommend", finished)
    assert again.returncode == 0, again.stderr
    assert mixture(finished) == YAML(typ="safe").load(before)["weights"]
    verified = command("verify", finished, "--seeds", "2")
    assert verified.returncode == 0, verified.stderr
    assert "± se (paired)" in verified.stdout


def test_larger_budget_continues_and_other_meaning_is_refused(tiny: Path, command: Command, tmp_path: Path) -> None:
    out = tmp_path / "run"
    small = command("run", "--config", tiny, "--out", out, "--budget", "8")
    assert small.returncode == 0, small.stderr
    other = command("run", "--config", tiny, "--out", out, "--set", "proxy.width=32", "--seed", "5")
    assert other.returncode == 2
    assert "proxy.width: 16 → 32" in other.stderr
    assert "seed: 0 → 5" in other.stderr
    larger = command("run", "--config", tiny, "--out", out, "--budget", "10", "--surrogate", "lightgbm", "--strategy", "greedy")
    assert larger.returncode == 0, larger.stderr
    assert [row["proposer"] for row in trials(out)] == ["initial design"] * 8 + ["greedy"] * 2


def test_strategy_from_a_file(tiny: Path, command: Command, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from regmix_active import AcquisitionStrategy, strategy\n\n\n"
        '@strategy("bold")\n'
        "class Bold(AcquisitionStrategy):\n"
        "    def score(self, belief):\n"
        "        return belief.std\n",
        encoding="utf-8",
    )
    out = tmp_path / "run"
    result = command("run", "--config", tiny, "--out", out, "--budget", "10", "--strategy", f"{file}:Bold")
    assert result.returncode == 0, result.stderr
    assert [row["proposer"] for row in trials(out)][8:] == ["bold"] * 2


def test_init_writes_a_configuration_that_runs(texts: Path, command: Command, tmp_path: Path) -> None:
    written = command("init", texts, "-o", "mine.yaml")
    assert written.returncode == 0, written.stderr
    assert "3 domains (books, code, talk)" in written.stdout
    again = command("init", texts, "-o", "mine.yaml")
    assert again.returncode == 2
    assert "--force" in again.stderr
    quick = ["--set", "proxy.tokens=2560", "--set", "corpus.tokenizer.vocab_size=300", "--set", "recommend.simulations=1000"]
    result = command("run", "--config", "mine.yaml", "--budget", "6", *quick)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "runs" / "mine" / "mixture.yaml").is_file()


def test_doctor_says_what_a_run_costs(tiny: Path, command: Command) -> None:
    result = command("doctor", "--config", tiny, "--budget", "100")
    assert result.returncode == 0, result.stderr
    assert re.search(r"100 proxies on 2 workers: about [\d.]+ (minutes|seconds)", result.stdout)
    assert "talk" in result.stdout

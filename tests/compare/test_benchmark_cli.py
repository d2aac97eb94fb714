"""``regmix-active benchmark search`` on a few runs of a formula, and the ways to ask it for the wrong thing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from regmix_active.cli.benchmark_search import command as benchmark
from regmix_active.compare import methods
from regmix_active.config.recommend import RecommendConfig
from regmix_active.errors import ConfigError, RegmixActiveError
from regmix_active.strategies import registry
from regmix_active.study.table import RunTable
from tests.compare.replays import formula_table

QUICK = ["--methods", "regmix,random,tpe", "--regmix-runs", "24", "--budget", "24", "--seeds", "2", "--jobs", "1"]


def write(table: RunTable, folder: Path, split: str) -> None:
    """As RegMix publishes its runs."""
    rows = range(len(table))
    mixtures = [",".join([str(i), *(f"{w:.6f}" for w in table.mixtures[i])]) for i in rows]
    losses = [",".join([str(i), *map(str, table.losses[i])]) for i in rows]
    head = "index," + ",".join(f"train_{name}" for name in table.domains)
    (folder / f"{split}_mixture_1m.csv").write_text("\n".join([head, *mixtures]) + "\n", encoding="utf-8")
    head = "index," + ",".join(f"metric/{name}_val_loss" for name in table.loss_names)
    (folder / f"{split}_loss_1m.csv").write_text("\n".join([head, *losses]) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write(formula_table(60), folder, "train")
    write(formula_table(30, seed=1), folder, "test")
    (folder / "few").mkdir()
    write(formula_table(20), folder / "few", "train")
    (folder / "broken.py").write_text(
        "from regmix_active import AcquisitionStrategy, strategy\n\n\n@strategy('broken')\nclass Broken(AcquisitionStrategy):\n"
        "    def score(self, belief):\n        raise RuntimeError('no idea')\n",
        encoding="utf-8",
    )
    return folder


@pytest.fixture(autouse=True)
def _here(files: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    monkeypatch.setenv("REGMIX_ACTIVE_CACHE", str(cache))
    # A file's strategy registers itself; that must end with the test. The built-in ones register when they are first asked for.
    registry.available()
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    monkeypatch.setattr(methods, "RecommendConfig", lambda: RecommendConfig(simulations=2000))


def run(*arguments: str) -> str:
    result = CliRunner().invoke(benchmark, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_both_games_with_every_figure() -> None:
    shown = run(".", *QUICK, "--json", "replay.json", "--plots", "plots")
    assert "90 runs, 4 domains, 3 losses; 2 seeds, batches of 8; surrogate gp, initial design d-optimal" in shown
    assert "emulator: multilayer perceptrons" in shown
    assert "held-out R²" in shown
    assert "noise of a training" in shown
    assert "In the pool, mean of 3 losses: runs until" in shown
    assert "Recommended mixture on the emulator, mean of 3 losses" in shown
    plots = sorted(path.name for path in Path("plots").glob("*.png"))
    assert [name.partition("-")[0] for name in plots] == ["recommendation", "regret"]
    (content,) = json.loads(Path("replay.json").read_text(encoding="utf-8"))["benchmarks"]
    _check(content)


def _check(content: dict[str, Any]) -> None:
    mean, single = content["targets"]
    assert mean == "mean"
    assert {(s["target"], s["method"]) for s in content["pool"]} == {
        (target, method) for target in (mean, single) for method in ("variance-reduction", "random", "tpe")
    }
    for standing in content["pool"]:
        assert [search["seed"] for search in standing["searches"]] == [0, 1]
        for search in standing["searches"]:
            assert search["regret"][-1] == 0
            assert search["trained"][search["position"] - 1] == standing["best_run"]
            assert len(search["trained"]) == search["runs_needed"]
    assert set(content["emulator"]["held_out_r2"]) == {"books", "code", "talk"}
    assert all(r2 > 0.8 for r2 in content["emulator"]["held_out_r2"].values())
    by_method = {(s["target"], s["method"]): s for s in content["emulated"]}
    assert len(by_method) == 8
    reference = {answer["seed"]: answer["value"] for answer in by_method[mean, "regmix"]["answers"]}
    for (target, method), standing in by_method.items():
        runs = [point["runs"] for point in standing["checkpoints"]]
        assert runs == ([24] if method == "regmix" else [16, 24])
        assert len(standing["answers"]) == 2 * len(runs)
        for answer in standing["answers"]:
            assert sum(answer["weights"]) == pytest.approx(1)
            if target == mean:
                assert answer["difference"] == pytest.approx(answer["value"] - reference[answer["seed"]])
        last = standing["checkpoints"][-1]
        assert (last["wins"] is None) == (method == "regmix")
        assert last["value"]["low"] <= last["value"]["median"] <= last["value"]["high"] <= last["value"]["worst"]
    assert content["failures"] == []
    assert content["settings"]["swarm"] == 24


def test_processes_give_the_same_figures() -> None:
    quick = [".", "--game", "pool", "--methods", "random", "--target", "mean", "--seeds", "2"]
    for jobs in ("1", "2"):
        run(*quick, "--jobs", jobs, "--json", f"jobs{jobs}.json")
    one, two = (json.loads(Path(f"jobs{jobs}.json").read_text(encoding="utf-8"))["benchmarks"][0] for jobs in (1, 2))
    assert one["pool"] == two["pool"]


def test_tables_with_the_same_columns_are_one_pool() -> None:
    pairs = [f"{split}_mixture_1m.csv:{split}_loss_1m.csv" for split in ("train", "test")]
    shown = run(*pairs, "--game", "pool", "--methods", "random", "--strategy", "dirichlet", "--target", "code", "--seeds", "1")
    assert "train 1m + test 1m: 90 runs" in shown
    assert "In the pool, code: runs until" in shown
    assert "dirichlet" in shown
    assert "emulator" not in shown


def test_a_strategy_that_fails_is_named_and_the_others_play_on() -> None:
    shown = run(".", *QUICK, "--game", "pool", "--strategy", "broken.py:Broken", "--methods", "random", "--target", "mean")
    assert "broken.py:Broken, 2 seeds: not played: RuntimeError: no idea" in shown
    assert "random" in shown


def test_nothing_played_is_an_error() -> None:
    with pytest.raises(RegmixActiveError, match="no search could be played: RuntimeError: no idea"):
        run(".", *QUICK, "--game", "pool", "--strategy", "broken.py:Broken", "--methods", "none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        ([".", "--json", "absent/replay.json"], "there is no folder absent; make it"),
        ([".", "--json", "."], "is a folder; name a file"),
        ([".", "--plots", "broken.py"], r"--plots broken\.py: cannot be made"),
        ([".", "--methods", "regmix,clim"], "unknown rival 'clim'; did you mean 'climb'"),
        ([".", "--target", "book"], "unknown loss 'book'"),
        ([".", "--surrogate", "gpp"], "unknown surrogate 'gpp'"),
        ([".", "--strategy", "thomson"], "unknown strategy 'thomson'; did you mean 'thompson'"),
        (["few"], "20 runs of 4 domains; a benchmark needs 24 runs or more"),
    ],
)
def test_wrong_input_is_refused_before_any_search(arguments: list[str], message: str) -> None:
    with pytest.raises(RegmixActiveError, match=message):
        CliRunner().invoke(benchmark, [*arguments, *QUICK] if "--methods" not in arguments else arguments, catch_exceptions=False)


def test_a_pool_too_small_for_a_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"only 90 runs have every loss of the target mean; .* a batch of 80"):
        run(".", "--game", "pool", "--batch", "80", "--target", "mean")


def test_ctrl_c_stops_at_once_and_leaves_nothing(files: Path) -> None:
    line = [sys.executable, "-m", "regmix_active", "benchmark", "search", ".", "--game", "pool", "--seeds", "300", "--jobs", "2"]
    process = subprocess.Popen(
        [*line, "--json", "never.json"],
        env={**os.environ, "COLUMNS": "120"},
        cwd=files,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "90 runs" in process.stdout.readline()
    assert "searches" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    shown, errors = process.communicate(timeout=60)
    # An interrupt during an import ends CPython by the signal itself; a shell shows 130 for both.
    assert process.returncode in {130, -signal.SIGINT}
    assert "stopped. Nothing was written" in shown
    assert "Traceback" not in errors
    assert not (files / "never.json").exists()

"""``regmix-active evaluate`` on files of a few runs, and the ways to give it the wrong ones."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from regmix_active.cli.evaluate import command as evaluate
from regmix_active.errors import ConfigError

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Training and test runs in RegMix's format; 24 and 12 of them."""
    rng = np.random.default_rng(3)
    for split, n in (("train", 24), ("test", 12)):
        X = rng.dirichlet(np.ones(3), n)
        Y = np.column_stack([4 - X[:, 0] ** 0.5, 3 - X[:, 1] ** 0.5]) + rng.normal(0, 0.01, (n, 2))
        weights = "".join(f"{i},{a:.4f},{b:.4f},{1 - round(a, 4) - round(b, 4):.4f}\n" for i, (a, b, _) in enumerate(X))
        losses = "".join(f"{i},{a},{b}\n" for i, (a, b) in enumerate(Y))
        (tmp_path / f"{split}_mixture_1m.csv").write_text("index,train_books,train_code,train_talk\n" + weights, encoding="utf-8")
        (tmp_path / f"{split}_loss_1m.csv").write_text(
            "index,metric/books_val_loss,metric/code_val_loss\n" + losses, encoding="utf-8"
        )
    return tmp_path


TRAIN = ["--mixtures", "train_mixture_1m.csv", "--losses", "train_loss_1m.csv"]
TEST = ["--test-mixtures", "test_mixture_1m.csv", "--test-losses", "test_loss_1m.csv"]


def test_files_to_tables_plots_and_json(files: Path, command: Command) -> None:
    asked = ["--surrogate", "gp", "--sizes", "8,24", "--seeds", "2", "--jobs", "2", "--json", "scores.json", "--plots", "plots"]
    result = command("evaluate", *TRAIN, *TEST, *asked, cwd=files)
    assert result.returncode == 0, result.stderr
    assert "train 1m: 24 runs, 3 domains, 2 losses; scored on test 1m; 3 fits" in result.stdout
    assert "mean of 2 losses of test 1m" in result.stdout
    assert "single losses of test 1m, from 24 runs" in result.stdout
    content = json.loads((files / "scores.json").read_text(encoding="utf-8"))
    assert len(content["scores"]) == 3 * 3
    assert all(row["spearman"] > 0.5 for row in content["scores"] if row["runs"] == 24)
    assert content["versions"]["regmix-active"]
    assert {path.name for path in (files / "plots").glob("*.png")} == {"learning-curves-test-1m.png", "predicted-mean-test-1m.png"}


def test_folder_by_cross_validation_with_targets(files: Path) -> None:
    arguments = [str(files), "--surrogate", "gp", "--sizes", "12", "--seeds", "1", "--folds", "3", "--jobs", "1"]
    targets = ["--target", "books=3,metric/code_val_loss=1", "--target", "code"]
    result = CliRunner().invoke(evaluate, [*arguments, *targets], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "36 runs" in result.output
    assert "3-fold cross-validation (training runs are drawn from the training folds); 3 fits" in result.output
    assert "0.75 books + 0.25 code of held-out folds" in result.output
    assert "code of held-out folds" in result.output
    assert "mean of 2" not in result.output


def test_ctrl_c_stops_at_once_and_leaves_nothing(files: Path, environment: dict[str, str]) -> None:
    line = [sys.executable, "-m", "regmix_active", "evaluate", *TRAIN, "--seeds", "400", "--jobs", "2", "--json", "scores.json"]
    process = subprocess.Popen(line, env=environment, cwd=files, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "fits" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    shown, errors = process.communicate(timeout=30)
    # An interrupt during an import ends CPython by the signal itself; a shell shows 130 for both.
    assert process.returncode in {130, -signal.SIGINT}
    assert "stopped. Nothing was written" in shown
    assert "Traceback" not in errors
    assert not (files / "scores.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give the runs once"),
        (["folder", *TRAIN], "give the runs once"),
        (TRAIN[:2], "--mixtures and --losses belong together"),
        ([*TRAIN, *TEST[:2]], "come in pairs; 1 and 0"),
        ([*TRAIN, "--scale", "1m"], "--scale chooses from a TABLE"),
        ([*TRAIN, "--sizes", "16,many"], "write numbers with commas, for example 16,32,64"),
        ([*TRAIN, "--target", "books=much"], "write NAME or NAME=WEIGHT"),
    ],
)
def test_wrong_options(arguments: list[str], message: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    result = CliRunner().invoke(evaluate, arguments)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such file or folder; a table is"),
        ([*TRAIN, "--json", "absent/scores.json"], r"--json absent/scores\.json: there is no folder absent; make it"),
        ([*TRAIN, "--json", "."], r"--json \.: is a folder; name a file"),
        ([*TRAIN, "--plots", "train_loss_1m.csv"], r"--plots train_loss_1m\.csv: cannot be made"),
        ([*TRAIN, "--target", "book"], r"train 1m: unknown loss 'book' \(did you mean 'books'\?\)"),
        ([*TRAIN, "--surrogate", "gpp"], "unknown surrogate 'gpp'; did you mean 'gp'"),
        ([*TRAIN, "--sizes", "25", *TEST], "sizes: 25 training runs asked for; train 1m can train on 2 to 24"),
        ([*TRAIN, "--test", "train_loss_1m.csv:test_loss_1m.csv"], "the weight 'metric/books_val_loss'|the weights sum to"),
    ],
)
def test_wrong_input_is_refused_before_any_fit(
    arguments: list[str], message: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(evaluate, arguments, catch_exceptions=False)

"""Runs of others through the front door: import, fork, and what status says; no proxy is trained."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import optuna
import pytest
from click.testing import CliRunner, Result

from regmix_active.cli import cli
from regmix_active.errors import ConfigError, RegmixActiveError, StudyError, StudyMismatchError
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.search.active import ActiveSearch

Call = Callable[..., Result]


@pytest.fixture
def call(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """The command line, in this process and in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path, fails: type[RegmixActiveError] | None = None) -> Result:
        environment = {"REGMIX_ACTIVE_CACHE": str(cache), "COLUMNS": "200"}
        result = CliRunner().invoke(cli, list(map(str, arguments)), env=environment)
        if fails is None:
            assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
        else:
            assert isinstance(result.exception, fails), f"{result.output}\n{result.exception!r}"
        return result

    return run


def losses_of(weights: np.ndarray) -> np.ndarray:
    """Smooth, and lower where there is more of a domain."""
    return 2 + np.exp(-3 * weights)


def write_runs(folder: Path, domains: Sequence[str], rows: Sequence[Sequence[float]], losses: Sequence[str] | None = None) -> Path:
    """A table as Olmix publishes them."""
    folder.mkdir()
    scored = domains if losses is None else losses
    values = [losses_of(np.array(row))[: len(scored)] for row in rows]
    for name, columns, table in (("ratios", domains, rows), ("metrics", scored, values)):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["run", *columns], *([i, *row] for i, row in enumerate(table))])
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Twelve runs of the three tiny domains, called otherwise; four of them without chatting."""
    rows = np.random.default_rng(0).dirichlet(np.ones(3), 12)
    rows[:4, 2] = 0
    rows /= rows.sum(axis=1, keepdims=True)
    return write_runs(tmp_path / "theirs", ["books", "code", "chat"], rows.tolist())


def test_runs_enter_once_and_status_tells_them_apart(call: Call, tiny: Path, runs: Path, tmp_path: Path) -> None:
    line = ["import", runs, "--config", tiny, "--out", tmp_path / "run", "--map", "chat=talk"]
    dry = call(*line, "--dry-run")
    assert "12 of 12 runs would be imported" in dry.output
    assert not (tmp_path / "run").exists()
    first = call(*line)
    assert "12 runs added" in first.output
    assert f"next: regmix-active run --config {tmp_path / 'run' / 'config.yaml'}" in first.output
    assert "0 runs added; 12 were there already" in call(*line).output
    status = call("status", tmp_path / "run")
    assert "0 completed, 0 planned, 0 failed; the budget is 16" in status.output
    assert "12 runs of theirs (sha256 " in status.output
    assert "(imported run " in status.output
    found = call("recommend", tmp_path / "run")
    assert "mixture.yaml" in found.output, "the surrogate has learnt from them"
    listed = call("study", "list", tmp_path)
    assert [line.split()[-4:] for line in listed.output.splitlines()[1:]] == [["tiny", "3", "0", "12"]]


def test_losses_are_compared_with_the_studys_own(call: Call, tiny: Path, runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    call("import", runs, "--config", tiny, "--out", out, "--map", "chat=talk")
    record = ActiveSearch(out / "config.yaml", out=out).open_record(create=True)
    rows = np.random.default_rng(1).dirichlet(np.ones(3), 9)
    record.plan([ProxyRequest(slot, row, 1, 2) for slot, row in enumerate(rows)], 0, 9, "initial design")
    for slot, row in enumerate(rows):
        values = losses_of(row) + np.array([0.5, 0.0, 0.0])
        record.finish(ProxyResult(slot, dict(zip(record.meaning.domains, values.tolist(), strict=True))))
    shown = call("import", runs, "--config", out, "--map", "chat=talk").output
    assert "warning: 1 of 3 losses of the imported runs lie elsewhere than this study's own, 'books' by -0.5" in shown
    status = call("status", out).output
    assert "9 completed" in status
    assert "12 runs of theirs" in status
    again = call("import", out, "--config", out).output
    assert "9 runs: is a proxy of this study" in again
    assert "0 runs added" in again


def test_wrong_input_is_one_message_and_leaves_nothing(call: Call, tiny: Path, runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    base = ["--config", tiny, "--out", out]
    foreign = f"sqlite:///{tmp_path / 'up.db'}"
    optuna.create_study(study_name="up", storage=foreign, direction="maximize")
    other = write_runs(tmp_path / "other", ["books", "code", "talk", "law"], [[0.2, 0.2, 0.2, 0.4]])
    cases: list[tuple[list[str | Path], type[RegmixActiveError], str]] = [
        ([tmp_path / "absent"], ConfigError, "no such file or folder"),
        ([f"sqlite:///{tmp_path / 'absent.db'}"], ConfigError, "there is no file"),
        ([foreign], StudyError, "has the direction maximize"),
        ([runs], ConfigError, "lacks the study's domain 'talk' (it has: books, code, chat); .*--map chat=talk"),
        ([runs, "--map", "caht=talk"], ConfigError, "has no 'caht'; did you mean 'chat'"),
        ([runs, "--map", "chat"], ConfigError, "write THEIRS=OURS"),
        ([other], StudyError, "none of its runs can be imported: 1 run: spent 40 % on 'law', which the study does not have"),
        ([runs, "--map", "chat=talk", "--set", "target=law"], ConfigError, "target: unknown loss 'law'"),
        (["postgresql://me:secret@nowhere/studies"], ConfigError, "password"),
    ]
    for arguments, error, message in cases:
        result = call("import", *arguments, *base, fails=error)
        for part in message.split(".*"):
            assert part in str(result.exception)
        assert "secret" not in result.output + str(result.exception)
        assert not out.exists(), arguments
    call("import", runs, *base, "--map", "chat=talk")
    mismatch = call("import", runs, *base, "--map", "chat=talk", "--set", "proxy.width=32", fails=StudyMismatchError)
    assert "proxy.width: 16 → 32" in str(mismatch.exception)


@pytest.fixture
def old(call: Call, tiny: Path, runs: Path, tmp_path: Path) -> Path:
    """A study of three domains that holds twelve runs."""
    call("import", runs, "--config", tiny, "--out", tmp_path / "old", "--map", "chat=talk")
    return tmp_path / "old"


def changed(tiny: Path, texts: Path, tmp_path: Path, domains: dict[str, str], tokenizer: Path | None = None) -> Path:
    """The tiny configuration with other domains."""
    head = tiny.read_text(encoding="utf-8").partition("  domains:")[0]
    if tokenizer is not None:
        head = head.replace("{vocab_size: 300}", f"{{file: {tokenizer}}}")
    lines = "".join(f"    {name}: {{path: {paths}}}\n" for name, paths in domains.items())
    file = tmp_path / "new.yaml"
    file.write_text(f"{head}  domains:\n{lines}".replace("name: tiny", "name: new"), encoding="utf-8")
    return file


def test_a_fork_keeps_the_tokenizer_and_what_means_the_same(call: Call, tiny: Path, texts: Path, old: Path, tmp_path: Path) -> None:
    line = ["study", "fork", old, "--out", tmp_path / "new", "--config"]
    two = {"books": str(texts / "books"), "code": str(texts / "code")}
    refused = call(*line, changed(tiny, texts, tmp_path, two), fails=StudyMismatchError)
    assert "corpus.tokenizer: it is trained on the text of all domains" in str(refused.exception)
    tokenizer = Path(str(refused.exception).partition("corpus.tokenizer.file: ")[2].splitlines()[0])
    assert tokenizer.is_file(), "the remedy names the file"
    kept = changed(tiny, texts, tmp_path, two, tokenizer)
    dry = call(*line, kept, "--dry-run")
    assert "4 of 12 runs would be imported" in dry.output
    assert "gone: 'talk'" in dry.output
    assert "left out, 8 runs: spent" in dry.output
    assert not (tmp_path / "new").exists()
    assert "4 runs added" in call(*line, kept).output
    assert "0 runs added; 4 were there already" in call(*line, kept).output
    assert "4 runs of fork of tiny" in call("status", tmp_path / "new").output
    record = ActiveSearch(tmp_path / "new" / "config.yaml", out=tmp_path / "new").open_record()
    trials = record.imported()
    for trial in trials:
        weights = record.weights(trial)
        np.testing.assert_allclose([trial.user_attrs["losses"][name] for name in two], losses_of(weights))
    merged = {"books": str(texts / "books"), "rest": f"[{texts / 'code'}, {texts / 'talk'}]"}
    config = changed(tiny, texts, tmp_path, merged, tokenizer)
    shown = call("study", "fork", old, "--config", config, "--merge", "rest=code,talk", "--dry-run")
    assert "merged: code + talk → rest" in shown.output
    assert "otherwise than their union 'rest' does" in shown.output


def test_wrong_forks(call: Call, tiny: Path, texts: Path, old: Path, tmp_path: Path) -> None:
    config = changed(tiny, texts, tmp_path, {"books": str(texts / "books"), "code": str(texts / "code")})
    cases: list[tuple[list[str | Path], type[RegmixActiveError], str]] = [
        ([tmp_path / "absent", "--config", config], StudyError, "is not a run folder"),
        ([old, "--config", tmp_path / "absent.yaml"], ConfigError, "no such configuration file"),
        ([old, "--config", tiny, "--out", old], ConfigError, "is the old study's folder"),
        ([old, "--config", config, "--merge", "rest"], ConfigError, "--merge rest: write WHOLE=PART,PART"),
        ([old, "--config", config, "--merge", "code=code,tlk"], ConfigError, "did you mean 'talk'"),
        ([old, "--config", tiny, "--out", "x", "--set", "seed=3"], StudyMismatchError, "seed: 0 → 3"),
    ]
    for arguments, error, message in cases:
        result = call("study", "fork", *arguments, fails=error)
        assert message in str(result.exception), arguments
    assert not (tmp_path / "runs").exists()

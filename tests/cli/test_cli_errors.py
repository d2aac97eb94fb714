"""Wrong input: exit code 2, one message with the place and the remedy, no traceback, nothing trained."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., "subprocess.CompletedProcess[str]"]

TWO = "corpus:\n  domains:\n    a: {path: a.jsonl}\n    b: {path: b.jsonl}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two healthy domains."""
    for name in ("a", "b"):
        lines = "".join(json.dumps({"text": f"{name} says {i} " * 40}) + "\n" for i in range(30))
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        ("serch: {}\n", ["bad.yaml:1", "unknown key 'serch'", "did you mean 'search'"]),
        ("search:\n  budgt: 4\n", ["bad.yaml:2", "search.budgt", "did you mean 'budget'"]),
        ("search: {budget: 0}\n", ["bad.yaml:1", "search.budget", "greater than 0"]),
        (TWO.replace("b.jsonl", "empty.jsonl"), ["domain", "b", "empty.jsonl"]),
        (TWO.replace("b.jsonl", "absent.jsonl"), ["absent.jsonl"]),
        (
            TWO.replace("a.jsonl}", "a.jsonl, natural_share: 0.5}").replace("b.jsonl}", "b.jsonl, natural_share: 0.3}"),
            ["bad.yaml:2", "sum to 0.8, not to 1", "divide each by"],
        ),
        (TWO.replace("b.jsonl", "broken.jsonl"), ["broken.jsonl:2", "on_bad_line"]),
        (TWO.replace("b.jsonl", "latin.jsonl"), ["latin.jsonl:1", "UTF-8"]),
        (TWO.replace("b.jsonl}", "b.jsonl, text_key: body}"), ["b.jsonl:1", "body", "text"]),
        ("target: {c: 1}\n" + TWO, ["target: unknown loss 'c'", "a, b"]),
        ("search: {surrogate: gpp}\n" + TWO, ["unknown surrogate 'gpp'", "did you mean 'gp'"]),
        ("search: {strategy: greedi}\n" + TWO, ["unknown strategy 'greedi'", "did you mean 'greedy'"]),
        ("search: {strategy: nowhere.py:Name}\n" + TWO, ["nowhere.py", "no such file"]),
        ("proxy: {width: 30}\n" + TWO, ["bad.yaml:1", "proxy", "multiple of 2 x heads"]),
        ("study: {storage: 'nonsense'}\n" + TWO, ["nonsense", "sqlite:///"]),
    ],
)
def test_bad_configuration(config: str, parts: list[str], folder: Path, command: Command) -> None:
    (folder / "empty.jsonl").write_text("", encoding="utf-8")
    (folder / "broken.jsonl").write_text('{"text": "fine"}\n{"text": "no end\n', encoding="utf-8")
    (folder / "latin.jsonl").write_bytes('{"text": "caf\xe9"}\n'.encode("latin-1"))
    (folder / "bad.yaml").write_text(config, encoding="utf-8")
    result = command("run", "--config", "bad.yaml", "--out", "out", cwd=folder)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr
    assert not (folder / "out" / "study.db").exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["run", "--config", "absent.yaml"], ["absent.yaml", "no such configuration file"]),
        (["run", "--config", "embeded"], ["did you mean the preset 'embedded'"]),
        (["run", "--set", "budget"], ["KEY=VALUE"]),
        (["run", "--set", "search.budget=many"], ["command line", "search.budget"]),
        (["run", "--budget", "0"], ["--budget", "0"]),
        (["run", "--target", "a=x"], ["NAME=WEIGHT"]),
        (["rnu"], ["No such command"]),
        (["init", "absent"], ["no such folder"]),
    ],
)
def test_bad_arguments(arguments: list[str], parts: list[str], command: Command) -> None:
    result = command(*arguments)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr


@pytest.mark.parametrize("verb", ["status", "recommend", "verify"])
def test_verbs_about_a_run_that_is_not_there(verb: str, command: Command) -> None:
    result = command(verb, "runs/none")
    assert result.returncode == 1
    assert "runs/none is not a run folder" in result.stderr
    assert "regmix-active run" in result.stderr


def test_skipped_lines_are_counted_and_reported(folder: Path, command: Command) -> None:
    with (folder / "b.jsonl").open("ab") as file:
        file.write(b'{"text": "no end\n{"text": "caf\xe9"}\n')
    (folder / "skip.yaml").write_text(
        TWO + "  on_bad_line: skip\n  tokenizer: {vocab_size: 300}\n"
        "proxy: {layers: 1, width: 16, heads: 2, ffn: 16, context: 16, tokens: 1280, validation_tokens: 128}\n"
        "recommend: {simulations: 1000}\nexecution: {workers: 1}\n",
        encoding="utf-8",
    )
    result = command("run", "--config", "skip.yaml", "--out", "out", "--budget", "4", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "2 lines skipped" in result.stdout
    assert "b.jsonl:31" in result.stdout


def test_init_makes_names_that_fit(folder: Path, command: Command) -> None:
    result = command("init", folder, "-o", folder / "my own texts.yaml", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "name: my-own-texts" in (folder / "my own texts.yaml").read_text(encoding="utf-8")
    (folder / " x").mkdir()
    (folder / " x" / "a.txt").write_text("text", encoding="utf-8")
    refused = command("init", folder, "-o", "other.yaml", cwd=folder)
    assert refused.returncode == 2
    assert "domain name ' x'" in refused.stderr


def test_nothing_is_left_where_nothing_ran(folder: Path, command: Command) -> None:
    (folder / "bad.yaml").write_text("target: c\n" + TWO, encoding="utf-8")
    assert command("run", "--config", "bad.yaml", "--out", "out", cwd=folder).returncode == 2
    assert not (folder / "out").exists()

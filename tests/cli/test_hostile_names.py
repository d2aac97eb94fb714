"""Names that mean harm, and run folders that were changed: one message with the place; nothing is executed or written elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import regmix_active.cli
from regmix_active.config.load import load_config
from regmix_active.proxy.runner import FunctionRunner
from regmix_active.search.active import ActiveSearch

Run = Callable[..., tuple[int, str]]

DOMAINS = ("books", "code", "talk")
QUICK = {
    "name": "mine",
    "target": "mean",
    "score_only": [],
    "search.budget": 8,
    "search.initial": 8,
    "recommend.simulations": 1000,
    "recommend.top_k": 8,
}


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """The command line in this process, in an empty folder; returns exit code and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(regmix_active.cli, "answer_signals", lambda: None)

    def run(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["regmix-active", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            regmix_active.cli.main()
        return int(ended.value.code or 0), capsys.readouterr().err

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search with its answer."""
    out = tmp_path_factory.mktemp("finished") / "run"

    def losses(weights: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(DOMAINS, (3 - np.sqrt(weights)).tolist(), strict=True))

    ActiveSearch(load_config("embedded", QUICK.items()).config, out=out, runner=FunctionRunner(DOMAINS, losses)).run()
    return out


@pytest.fixture
def run_folder(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


NAMES = ["../../x", "/tmp/x", "a/b", "..", ".", "", "-x", "--out", "a b", "a\nb", "a\x07", "a\\b", "~", "é", "*", "\u202ex"]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_studies_stay_below_the_folder(cli: Run, tmp_path: Path, name: str) -> None:
    beside = set(tmp_path.parent.iterdir())
    for option in (f"--name={name}", f"--set=name='{name}'"):
        code, error = cli("run", option)
        assert code == 2
        assert re.match(r"error: (command line: key 'name': |--set name=)", error)
    assert not list(tmp_path.iterdir())
    assert set(tmp_path.parent.iterdir()) == beside


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "..", "", "a\x00b", "-x", "x" * 300])
def test_presets_are_names(cli: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "texts").mkdir()
    code, error = cli("init", "texts", f"--preset={name}", "-o", "out.yaml")
    assert code == 2
    assert "no such preset" in error
    assert not (tmp_path / "out.yaml").exists()


def test_a_configuration_may_be_no_folder_and_no_pipe(cli: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (".", "pipe", "/dev/zero", "x" * 300, ""):
        code, error = cli("run", f"--config={name}")
        assert code == 2
        assert "cannot be read" in error


def test_a_pickle_is_no_configuration(cli: Run, tmp_path: Path) -> None:
    planted = b"cos\nmkdir\n(S'%s'\ntR." % str(tmp_path / "mark").encode()
    (tmp_path / "pickle.yaml").write_bytes(planted)
    (tmp_path / "binary.yaml").write_bytes(b"\x80\x04" + planted)
    (tmp_path / "tag.yaml").write_text(f"name: !!python/object/apply:os.mkdir ['{tmp_path / 'mark'}']\n")
    for file in ("pickle.yaml", "binary.yaml", "tag.yaml"):
        code, error = cli("run", "--config", file)
        assert code == 2
        assert error.startswith(f"error: {file}:")
    assert not (tmp_path / "mark").exists()


MIXTURES = [
    (r"\nweights:\n  books: [\d.]+", "\nweights:\n  books: .nan", "weights.books is nan"),
    (r"\nweights:\n  books: [\d.]+", "\nweights:\n  books: much", "weights.books is 'much'"),
    (r"\nweights:\n  books: [\d.]+", "\nweights:\n  books: '0.5'", "weights.books is '0.5'"),
    (r"\nweights:\n  books: [\d.]+", "\nweights:\n  books: true", "weights.books is True"),
    (r"\nweights:\n  books: [\d.]+", "\nweights:\n  books: -0.5", "weights.books is -0.5"),
    (r"\nweights:\n  books: [\d.]+", "\nweights:\n  books: 0.99999", "weights sum to"),
    (r"\nweights:\n  books: [\d.]+", "\nweights:", "weights sum to"),
    (r"\nweights:\n", "\nweights:\n  pile: 0.0\n", "unknown domain 'pile'"),
    (r"\nweights:\n", "\nweights:\n  code: 0.0\n", "key 'weights.code': duplicate key"),
    (r"\nweights:\n(  .*\n)+", "\nweights: 3\n", "weights has another form"),
    (r"\nweights:\n(  .*\n)+", "\n", "the key 'weights' is missing"),
    (r"\nweights:\n", "\nweights: !!python/object/apply:os.abort\n", "key 'weights': the tag !!python/object/apply:os.abort"),
    (r"target_weights:\n  books: [\d.]+", "target_weights:\n  books: .inf", "target_weights.books is inf"),
    (r"simulated: \d+", "simulated: many", "simulated is 'many'"),
    (r"(?s).*", "", "it holds no keys"),
    (r"(?s).*", "[1, 2]", "it holds no keys"),
    (r"(?s).*", "a: {", "not a valid configuration"),
]


@pytest.mark.parametrize(("pattern", "replacement", "part"), MIXTURES)
def test_a_changed_answer_is_not_verified(cli: Run, run_folder: Path, pattern: str, replacement: str, part: str) -> None:
    file = run_folder / "mixture.yaml"
    text = re.sub(pattern, replacement, file.read_text(encoding="utf-8"), count=1)
    file.write_text(text, encoding="utf-8")
    before = sorted(path.name for path in run_folder.iterdir())
    code, error = cli("verify", "run")
    assert code == 2
    assert error.startswith("error: run/mixture.yaml")
    assert part in error
    assert "write it anew with: regmix-active recommend run" in error
    assert sorted(path.name for path in run_folder.iterdir()) == before, "nothing trained"


def test_a_pickle_is_no_answer(cli: Run, run_folder: Path) -> None:
    (run_folder / "mixture.yaml").write_bytes(b"\x80\x04cos\nabort\n(tR.")
    code, error = cli("verify", "run")
    assert code == 2
    assert error.startswith("error: run/mixture.yaml: cannot be read")


CONFIGS = [
    (r"\nname: mine", "\nname: ../../x", r"run/config\.yaml:\d+: key 'name': "),
    (r"\nname: mine", "\nname: !!python/name:os.abort", r"run/config\.yaml:\d+: key 'name': the tag "),
    (r"\nname: mine", "\nname: mine\nname: other", r"run/config\.yaml:\d+: key 'name': duplicate key"),
    (r"  clip: 1\.0", "  clip: .nan", r"run/config\.yaml:\d+: key 'proxy\.clip': .*finite"),
    (r"  budget: 8", "  budget: '8'", r"run/config\.yaml:\d+: key 'search\.budget': text where a number belongs"),
    (r"  budget: 8", "  budget: true", r"run/config\.yaml:\d+: key 'search\.budget': true or false"),
    (r"  budget: 8", "  budgt: 8", r"run/config\.yaml:\d+: unknown key 'search\.budgt'"),
]


@pytest.mark.parametrize(("pattern", "replacement", "expected"), CONFIGS)
@pytest.mark.parametrize("verb", ["status", "recommend", "verify"])
def test_a_changed_configuration_is_refused_by_line_and_key(
    cli: Run, run_folder: Path, verb: str, pattern: str, replacement: str, expected: str
) -> None:
    file = run_folder / "config.yaml"
    text, count = re.subn(pattern, replacement, file.read_text(encoding="utf-8"), count=1)
    assert count == 1
    file.write_text(text, encoding="utf-8")
    code, error = cli(verb, "run")
    assert code == 2
    assert re.match(f"error: {expected}", error), error


def test_the_folder_itself_is_sound(cli: Run, run_folder: Path) -> None:
    """What the changes above are measured against."""
    for verb in ("status", "recommend"):
        assert cli(verb, "run") == (0, "")

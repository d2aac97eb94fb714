"""``regmix-active export``: from a run folder, or from a file, to the trainer's files."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

import regmix_active.cli
from regmix_active.config.load import load_config
from regmix_active.config.schema import RunConfig
from regmix_active.corpus.build import build_store
from regmix_active.report.folder import RunFolder
from tests.export import parsers

Run = Callable[..., tuple[int, str, str]]

WEIGHTS = {"books": 0.5, "code": 0.3, "talk": 0.2}


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, cache: Path) -> Run:
    """The command line in this process, in an empty folder; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REGMIX_ACTIVE_CACHE", str(cache))
    monkeypatch.setattr(regmix_active.cli, "answer_signals", lambda: None)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["regmix-active", "export", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            regmix_active.cli.main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return run


def run_folder(path: Path, config: RunConfig, weights: dict[str, float] = WEIGHTS, **more: Any) -> Path:
    """A run's configuration and answer, as the search leaves them."""
    folder = RunFolder(path)
    folder.create()
    folder.write_config(config)
    content = {
        "study": config.name,
        "weights": weights,
        "target_weights": {"books": 1.0},
        "simulated": 1000,
        "averaged": 64,
        **more,
    }
    with folder.mixture.open("w", encoding="utf-8") as file:
        YAML().dump(content, file)
    return path


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def commanded(tmp_path: Path) -> Path:
    """The folder of a run whose proxies somebody's own trainer trained."""
    runner = {"command": "true {mixture} {out}", "domains": {"books": 4e9, "code": 2e9, "talk": 1e8}}
    return run_folder(tmp_path / "run", RunConfig.model_validate({"name": "mine", "runner": runner}))


def test_formats_are_listed(cli: Run) -> None:
    code, out, _ = cli("--format", "list")
    assert code == 0
    assert all(f" {name} " in out for name in parsers.PARSERS)
    assert all(unit in out for unit in ("tokens", "sequences", "examples"))
    for others in (["--target-tokens", "5"], ["-o", "x"], ["--force"]):
        code, out, err = cli("--format", "list", *others)
        assert (code, out) == (2, "")
        assert "--format list: shows the formats, and makes nothing of --" in err


def test_without_a_format_they_are_listed_and_it_is_an_error(cli: Run, commanded: Path) -> None:
    for arguments in ([], [commanded], ["--format", ""], [commanded, "-o", "x"]):
        code, out, err = cli(*arguments)
        assert (code, out) == (2, "")
        assert all(f" {name} " in err for name in parsers.PARSERS)
        assert "name a format with --format" in err


def test_a_run_or_a_file_has_the_weights(cli: Run, commanded: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "m.json", WEIGHTS)
    code, out, err = cli(commanded, "--mixture", file, "--format", "json")
    assert (code, out) == (2, "")
    assert f"{commanded} and --mixture {file}: each has weights; give one of them" in err


def test_a_file_goes_to_standard_output_and_the_table_beside_it(cli: Run, commanded: Path) -> None:
    code, out, err = cli(commanded, "--format", "olmix", "--target-tokens", "1e10")
    assert code == 0, err
    assert parsers.olmix({"olmix.yaml": out}) == WEIGHTS
    assert out.startswith("# Mixture of the study mine, for 10,000,000,000 training tokens")
    rows = {line.split()[1]: line.split("│")[2:5] for line in err.splitlines() if line.startswith("│")}
    assert [cell.strip() for cell in rows["books"]] == ["50.0000%", "4,000,000,000", "1.25"]
    assert [cell.strip() for cell in rows["talk"]] == ["20.0000%", "100,000,000", "20.00 !"]
    assert "note: talk would be repeated 20.0 times; beyond 4 epochs" in err
    assert "the proxies were trained on" not in err, "whose runner says how many tokens there are"


def test_several_files_go_into_a_folder_and_nothing_is_overwritten(cli: Run, commanded: Path, tmp_path: Path) -> None:
    paths = write(tmp_path / "paths.json", {name: f"/data/{name}" for name in WEIGHTS})
    arguments = (commanded, "--format", "megatron", "--paths", paths)
    code, _, err = cli(*arguments)
    assert code == 2
    assert "writes 3 files (data-path.txt, data-args.txt, per-split.json); name a folder for them with -o" in err
    code, out, err = cli(*arguments, "-o", "blend")
    assert code == 0, err
    assert "wrote blend/per-split.json" in out
    assert "50.0000%" in out
    files = {path.name: path.read_text(encoding="utf-8") for path in Path("blend").iterdir()}
    assert parsers.megatron(files) == {f"/data/{name}": weight for name, weight in WEIGHTS.items()}
    (tmp_path / "blend" / "data-args.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "blend" / "per-split.json").unlink()
    code, _, err = cli(*arguments, "-o", "blend")
    assert code == 2
    assert "blend/data-args.txt: exists already; name another place with -o, or overwrite with --force" in err.replace("\n", "")
    assert not (tmp_path / "blend" / "per-split.json").exists(), "all or nothing"
    assert cli(*arguments, "-o", "blend", "--force")[0] == 0
    assert (tmp_path / "blend" / "data-args.txt").read_text(encoding="utf-8").startswith("0.5 /data/books\n")
    assert "is a file, and this format writes 3" in cli(*arguments, "-o", paths)[2]


def test_one_file_by_name_or_into_a_folder(cli: Run, commanded: Path, tmp_path: Path) -> None:
    assert cli(commanded, "--format", "json", "-o", "a.json")[0] == 0
    assert cli(commanded, "--format", "json", "-o", tmp_path)[0] == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "mixture.json").read_bytes()
    code, _, err = cli(commanded, "--format", "json", "-o", "no/such/a.json")
    assert code == 2
    assert "-o no/such/a.json: cannot be written (No such file or directory)" in err


def test_a_path_with_a_separator_is_a_folder_and_a_dash_is_standard_output(cli: Run, commanded: Path, tmp_path: Path) -> None:
    code, out, err = cli(commanded, "--format", "json", "-o", "new/deep/")
    assert code == 0, err
    assert "wrote new/deep/mixture.json" in out
    assert (tmp_path / "new" / "deep" / "mixture.json").is_file()
    code, out, err = cli(commanded, "--format", "json", "-o", "-")
    assert code == 0, err
    assert out == (tmp_path / "new" / "deep" / "mixture.json").read_text(encoding="utf-8")
    assert not (tmp_path / "-").exists()
    paths = write(tmp_path / "paths.json", {name: f"/data/{name}" for name in WEIGHTS})
    assert "name a folder for them with -o" in cli(commanded, "--format", "megatron", "--paths", paths, "-o", "-")[2]


def test_what_is_overwritten_keeps_its_place_and_its_permissions(cli: Run, commanded: Path, tmp_path: Path) -> None:
    target = write(tmp_path / "target.json", "old")
    target.chmod(0o640)
    (tmp_path / "link.json").symlink_to(target)
    (tmp_path / "dangling.json").symlink_to(tmp_path / "made.json")
    for link in ("link.json", "dangling.json"):
        code, _, err = cli(commanded, "--format", "json", "-o", link)
        assert code == 2
        assert "exists already" in err
        assert cli(commanded, "--format", "json", "-o", link, "--force")[0] == 0
        assert (tmp_path / link).is_symlink()
    assert json.loads(target.read_text(encoding="utf-8"))["weights"] == WEIGHTS
    assert target.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "made.json").is_file()


def test_pipes_and_devices_are_not_replaced(cli: Run, commanded: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/null")):
        for more in ([], ["--force"]):
            code, _, err = cli(commanded, "--format", "json", "-o", place, *more)
            assert code == 2
            assert f"{place}: is there and is no regular file; name another place, or - for standard output" in err
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


CONSTRAINED: list[tuple[dict[str, Any], str]] = [
    ({"caps": {"books": 0.4}}, "books at most 0.4 (mixture.caps.books); it is off by 0.1"),
    ({"floors": {"talk": 0.25}}, "talk at least 0.25 (mixture.floors.talk)"),
    ({"groups": {"all": {"members": ["books", "code"], "max": 0.7}}}, "all at most 0.7 (mixture.groups.all.max)"),
    ({"max_ratio": 5}, "(mixture.max_ratio.talk)"),
    ({"target_tokens": 1e10, "max_epochs": 2.0}, "talk at most 0.02 (2 epochs in 1e+10 tokens) (mixture.max_epochs.talk)"),
    ({"active": {"at_most": 2}}, "it uses 3 domains"),
]


@pytest.mark.parametrize(("mixture", "message"), CONSTRAINED)
def test_a_mixture_that_breaks_a_constraint_is_not_handed_over(
    mixture: dict[str, Any], message: str, cli: Run, commanded: Path, tmp_path: Path
) -> None:
    """As after an edited configuration; the weights are those of 0.5, 0.3 and 0.2."""
    content = load_config(commanded / "config.yaml").config.model_dump(mode="json", exclude_unset=True)
    folder = run_folder(tmp_path / "other", RunConfig.model_validate({**content, "mixture": mixture}))
    for more in ([], ["--force"]):
        code, out, err = cli(folder, "--format", "json", *more)
        assert (code, out) == (2, "")
        assert "the mixture breaks a constraint of the run: " in err
        assert message in err
        assert f"regmix-active recommend {folder}" in err


def test_a_mixture_at_its_limits_is_handed_over(cli: Run, commanded: Path, tmp_path: Path) -> None:
    config = load_config(
        commanded / "config.yaml",
        [
            ("mixture.caps", {"books": 0.5}),
            ("mixture.target_tokens", 2e9),
            ("mixture.tokens", {"talk": 1e8}),
            ("mixture.max_epochs", 4),
        ],
    ).config
    assert cli(run_folder(tmp_path / "limits", config), "--format", "json")[0] == 0


def test_constraints_that_cannot_be_known_are_said(cli: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGMIX_ACTIVE_CACHE", str(tmp_path / "empty"))
    capped = load_config(tiny, [("mixture.max_ratio", 2.0)]).config
    code, _, err = cli(run_folder(tmp_path / "unknown", capped), "--format", "json")
    assert code == 0, err
    assert "note: the run's constraints were not checked, for lack of its natural shares" in err
    natural = {"books": 0.4, "code": 0.5, "talk": 0.1}
    code, _, err = cli(run_folder(tmp_path / "known", capped, natural_weights=natural), "--format", "json")
    assert code == 0, err
    natural = {"books": 0.2, "code": 0.7, "talk": 0.1}
    code, _, err = cli(run_folder(tmp_path / "broken", capped, natural_weights=natural), "--format", "json")
    assert code == 2
    assert "books at most 0.4 (2 times its natural share)" in err
    finite = load_config(tiny, [("mixture.target_tokens", 1e9), ("mixture.caps", {"books": 0.4})]).config
    code, _, err = cli(run_folder(tmp_path / "finite", finite), "--format", "json")
    assert code == 2
    assert "books at most 0.4 (mixture.caps.books)" in err, "what is known is checked"
    finite = load_config(tiny, [("mixture.target_tokens", 1e9)]).config
    code, _, err = cli(run_folder(tmp_path / "uncounted", finite), "--format", "json")
    assert code == 0, err
    assert "note: the run's limit on epochs was not checked" in err


def test_dust_is_dropped_where_the_constraints_allow_it(cli: Run, commanded: Path, tmp_path: Path) -> None:
    dusty = {"books": 0.5, "code": 0.4999997, "talk": 0.0000003}
    config = load_config(commanded / "config.yaml").config
    folder = run_folder(tmp_path / "dusty", config, weights=dusty)
    code, out, err = cli(folder, "--format", "json")
    assert code == 0, err
    assert "note: so small a share may come to nothing in the target run: talk (3e-07)" in err
    code, out, err = cli(folder, "--format", "json", "--drop-below", "1e-4")
    assert code == 0, err
    assert json.loads(out)["weights"]["talk"] == 0
    assert "note: left out, below 0.0001: talk, together 3e-07 of the tokens" in err
    assert "may come to nothing" not in err
    floor = load_config(commanded / "config.yaml", [("mixture.floors", {"talk": 1e-7})]).config
    code, _, err = cli(run_folder(tmp_path / "floor", floor, weights=dusty), "--format", "json", "--drop-below", "1e-4")
    assert code == 2
    assert "talk at least 1e-07 (mixture.floors.talk)" in err
    assert "leave out less than --drop-below 0.0001 does" in err
    assert cli("--mixture", write(tmp_path / "m.json", dusty), "--format", "json", "--drop-below", "0.9")[0] == 2
    assert cli(folder, "--format", "json", "--drop-below", "1")[0] == 2


def test_fields_and_splits_come_from_the_configuration(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"content": "x"}\n', encoding="utf-8")
    domains = {
        "books": {"path": str(tmp_path / "b.jsonl"), "text_key": "content"},
        "code": {"dataset": "org/code", "subset": "py", "split": "validation", "text_key": "code"},
        "talk": {"dataset": "org/talk"},
    }
    folder = run_folder(tmp_path / "run", RunConfig.model_validate({"corpus": {"domains": domains}}))
    lengths = write(tmp_path / "lengths.json", dict.fromkeys(WEIGHTS, 10))
    arguments = (folder, "--format", "hf-interleave", "--lengths", lengths)
    code, out, err = cli(*arguments)
    assert code == 0, err
    read = {"b": ("json", None, (str(tmp_path / "b.jsonl"),), "train", "content")}
    assert [source[1:] for source in parsers.executed_sources(out)] == [
        read["b"],
        ("org/code", "py", (), "validation", "code"),
        ("org/talk", None, (), "train", "text"),
    ]
    paths = write(tmp_path / "paths.json", {"code": "/d/code.jsonl"})
    code, out, err = cli(*arguments, "--paths", paths)
    assert [source[3:] for source in parsers.executed_sources(out)][1] == (("/d/code.jsonl",), "train", "text"), "other files"
    code, out, err = cli(*arguments, "--paths", paths, "--option", "text_key={code: body}")
    assert [source[5] for source in parsers.executed_sources(out)] == ["content", "body", "text"]
    assert "the split 'validation' of org/code" in cli(folder, "--format", "levanter")[2]


def test_csv_is_read_again(cli: Run, commanded: Path, tmp_path: Path) -> None:
    assert cli(commanded, "--format", "csv", "-o", "mixture.csv")[0] == 0
    code, out, err = cli("--mixture", "mixture.csv", "--format", "json", "--target-tokens", "4e9")
    assert code == 0, err
    again = json.loads(out)
    assert again["weights"] == WEIGHTS
    assert again["epochs"] == {"books": 0.5, "code": 0.6, "talk": 8.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,share\nbooks,1\n", "needs the columns domain and weight"),
        ("domain,weight\nbooks,0.5\nbooks,0.5\n", "'books' is there twice"),
        ("domain,weight\nbooks,half\n", "weight of 'books' is 'half', not a number"),
        ("domain,weight\nbooks,1\ncode,\n", "'code' has no weight"),
        ("domain,weight\nbooks,nan\n", "the weight of 'books' is nan"),
    ],
)
def test_csv_that_holds_no_mixture(text: str, message: str, cli: Run, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(text, encoding="utf-8")
    code, out, err = cli("--mixture", "m.csv", "--format", "json")
    assert (code, out) == (2, "")
    assert message in err


def test_a_corpus_knows_its_tokens_lengths_and_text(cli: Run, tiny: Path, cache: Path, tmp_path: Path) -> None:
    """Read from the cache; counted here from the tokens themselves."""
    config = load_config(tiny).config
    assert config.corpus.domains is not None
    folder = run_folder(tmp_path / "run", config)
    store = build_store(config.corpus, cache_dir=cache / "corpora")
    code, out, err = cli(folder, "--format", "hf-interleave", "--target-tokens", "1e6")
    assert code == 0, err
    assert "note: tokens and epochs count the corpus that the proxies were trained on" in err
    sources = parsers.executed(out)["SOURCES"]
    lengths = []
    for index, record in enumerate(store.manifest.domains):
        tokens = store.train(index)
        assert f"{record.train.tokens:,}" in err
        lengths.append(tokens.size / np.count_nonzero(tokens == store.manifest.end_of_document))
    drawn = np.array(list(WEIGHTS.values())) / lengths
    assert [probability for probability, *_ in sources] == pytest.approx(drawn / drawn.sum(), rel=1e-12)
    globs = [
        (f"{config.corpus.domains[name].path}/**/*{ending}",)
        for name, ending in (("books", ".jsonl"), ("code", ".jsonl"), ("talk", ".txt"))
    ]
    assert [files for _, _, _, files, *_ in sources] == globs
    code, _, err = cli(folder, "--format", "nanotron")
    assert "--format nanotron needs paths of books, code, talk; give --paths FILE" in err, "its text is not nanotron's data"


def test_a_corpus_that_is_not_in_the_cache_is_not_built(
    cli: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run_folder(tmp_path / "run", load_config(tiny).config)
    monkeypatch.setenv("REGMIX_ACTIVE_CACHE", str(tmp_path / "empty"))
    code, _, err = cli(folder, "--format", "hf-interleave")
    assert code == 2
    assert "needs lengths of books, code, talk; give --lengths FILE" in err
    assert not (tmp_path / "empty").exists()
    lengths = write(tmp_path / "lengths.json", {"books": 10, "code": 20, "talk": 40})
    code, out, err = cli(folder, "--format", "hf-interleave", "--lengths", lengths)
    assert code == 0, err
    assert [source[0] for source in parsers.executed(out)["SOURCES"]] == pytest.approx([0.05 / 0.07, 0.015 / 0.07, 0.005 / 0.07])


def test_what_the_run_recorded_and_what_the_user_says(cli: Run, commanded: Path, tmp_path: Path) -> None:
    """``mixture.yaml`` may hold the target run's tokens; the command line wins over it, and it over the configuration."""
    config = load_config(commanded / "config.yaml", [("mixture.tokens", {"books": 5e9}), ("mixture.target_tokens", 1e9)]).config
    epochs = json.loads(cli(run_folder(tmp_path / "told", config), "--format", "json")[1])["epochs"]
    assert epochs == {"books": 0.1, "code": 0.15, "talk": 2.0}
    folder = run_folder(tmp_path / "other", config, target_tokens=10**10, tokens={"books": 1e10, "code": 1e10})
    assert json.loads(cli(folder, "--format", "json")[1])["epochs"] == {"books": 0.5, "code": 0.3, "talk": 20.0}
    tokens = write(tmp_path / "tokens.json", {"talk": 1e9})
    arguments = ("--format", "json", "--tokens", tokens, "--target-tokens", "2e10")
    assert json.loads(cli(folder, *arguments)[1])["epochs"] == {"books": 1.0, "code": 0.6, "talk": 4.0}


def test_proportions_are_no_tokens(cli: Run, tmp_path: Path) -> None:
    runner = {"command": "true {mixture} {out}", "domains": {"books": 0.5, "code": 0.3, "talk": 0.2}}
    folder = run_folder(tmp_path / "run", RunConfig.model_validate({"runner": runner}))
    assert "needs tokens of books, code, talk" in cli(folder, "--format", "olmix", "--target-tokens", "1e9")[2]


def test_a_mixture_of_a_file(cli: Run, tmp_path: Path) -> None:
    file = tmp_path / "found.yaml"
    file.write_text("books: 0.333333\ncode: 0.333333\ntalk: 0.333333\n", encoding="utf-8")
    code, out, err = cli("--mixture", file, "--format", "json")
    assert code == 0, err
    first = json.loads(out)
    assert first["study"] == "found"
    assert sum(first["weights"].values()) == pytest.approx(1, abs=1e-12), "rounded shares are renormalised"
    assert "note: the weights summed to 0.999999, as rounded ones do: each was divided by it" in err
    again = write(tmp_path / "again.json", {**first, "target_tokens": 9, "tokens": {"books": 3}})
    assert json.loads(cli("--mixture", again, "--format", "json")[1])["epochs"] == pytest.approx({"books": 1.0})


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ("books: 0.5\ncode: 0.4\n", "the weights are no mixture: they sum to 0.9, not to 1; divide each by 0.9"),
        ("books: 1.5\ncode: -0.5\n", "the weight of 'code' is -0.5"),
        ("books: half\ncode: 0.5\n", "the weight of 'books' is 'half', not a number"),
        ("books: true\n", "the weight of 'books' is True, not a number"),
        ("books: .nan\n", "the weight of 'books' is nan"),
        ("- books\n", "write name: value, one line per domain"),
        ("books: 1.0\nbooks: 0.0\n", "duplicate key"),
        ("weights: {books: 1.0}\ntarget_tokens: many\n", "target_tokens is 'many'; write a number of tokens"),
        ("weights: {books: 1.0}\ntokens: {code: 5}\n", "there is no domain 'code' in the mixture"),
        ("", "write name: value"),
    ],
)
def test_files_that_hold_no_mixture(mixture: str, message: str, cli: Run, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(mixture, encoding="utf-8")
    code, out, err = cli("--mixture", "m.yaml", "--format", "json")
    assert (code, out) == (2, "")
    assert "m.yaml" in err
    assert message in err


@pytest.mark.parametrize(
    ("option", "content", "message"),
    [
        ("--tokens", {"bookz": 1}, "there is no domain 'bookz' in the mixture; did you mean 'books'?"),
        ("--tokens", {"books": "many"}, "'books' has 'many'; write a number of tokens, above 0"),
        ("--lengths", {"books": 0}, "'books' has 0; write a mean number of tokens, above 0"),
        ("--paths", {"books": 5}, "the path of 'books' is 5; write text, or a list of it"),
        ("--paths", {"books": []}, "the path of 'books' is []"),
        ("--paths", {"train": {"books": "x"}, "valid": {"bookz": "x"}}, "there is no domain 'bookz'"),
        ("--paths", {"books": "a\u0085b"}, "control character"),
    ],
)
def test_files_of_facts_that_are_wrong(
    option: str, content: object, message: str, cli: Run, commanded: Path, tmp_path: Path
) -> None:
    code, _, err = cli(commanded, "--format", "json", option, write(tmp_path / "facts.json", content))
    assert code == 2
    assert f"{option} {tmp_path / 'facts.json'}" in err
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "megatrom"), "--format megatrom: unknown format; did you mean 'megatron'?"),
        (("--format", "json", "--tokens", "none.yaml"), "--tokens none.yaml: cannot be read (No such file or directory)"),
        (("--format", "json", "--target-tokens", "lots"), "'lots': write a number of tokens, such as 2e12"),
        (("--format", "json", "--target-tokens", "1.5"), "'1.5': write a number of tokens"),
        (("--format", "json", "--target-tokens", "1e999"), "'1e999': write a number of tokens"),
        (("--format", "nanotron", "--option", "seed"), "--option seed: write KEY=VALUE"),
        (("--format", "nanotron", "--option", "seed=x"), "--format nanotron, option 'seed' = 'x': Input should be a valid integer"),
    ],
)
def test_options_that_are_wrong(arguments: tuple[str, ...], message: str, cli: Run, commanded: Path) -> None:
    code, _, err = cli(commanded, *arguments)
    assert code == 2
    assert message in err


def test_options_reach_the_format(cli: Run, commanded: Path, tmp_path: Path) -> None:
    paths = write(tmp_path / "paths.json", {name: f"/data/{name}" for name in WEIGHTS})
    arguments = ("--format", "llm-foundry", "--paths", paths, "--option", "weighting=choose", "--option", "split=small")
    code, out, err = cli(commanded, *arguments, "--target-tokens", "4_096_000", "--sequence-length", "4096")
    assert code == 0, err
    assert "choose: 500  # " in out
    assert 'split: "small"' in out


def test_a_folder_that_is_no_runs(cli: Run, tmp_path: Path) -> None:
    code, _, err = cli(tmp_path, "--format", "json")
    assert code == 1
    assert "is not a run folder" in err

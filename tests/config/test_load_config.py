"""Every wrong configuration is refused with file, line, key and remedy; every right one means what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from regmix_active.config.load import dump_config, load_config, parse_override, preset_text, presets
from regmix_active.config.schema import CorpusConfig, DomainConfig, RunConfig
from regmix_active.errors import ConfigError

TWO = "corpus:\n  domains:\n    a: {path: a.txt}\n    b: {path: b.txt}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


WRONG = [
    ("unknown key", "seed: 1\nserach:\n  budget: 3\n", 2, ["'serach'", "did you mean 'search'?"]),
    ("unknown nested key", "search:\n  initial: 8\n  budgt: 3\n", 3, ["'search.budgt'", "did you mean 'budget'?"]),
    ("nothing close", "seed: 1\nzzzzzz: 3\n", 2, ["'zzzzzz'", "known keys here: name, seed, target, targets, score_only"]),
    (
        "unknown key of a domain",
        "corpus:\n  domains:\n    a[1]: {path: x}\n    b: {path: x, txt_key: y}\n",
        4,
        ["'corpus.domains.b.txt_key'", "'text_key'?"],
    ),
    (
        "unknown key of a bracketed domain",
        "corpus:\n  domains:\n    b: {path: x}\n    a[1]: {pth: x}\n",
        4,
        ["'corpus.domains.a[1].pth'", "did you mean 'path'?"],
    ),
    ("no budget", "search:\n\n  budget: 0\n", 3, ["'search.budget'", "greater than 0", "got 0"]),
    ("word for a number", "seed: many\n", 1, ["'seed'", "valid integer", "got 'many'"]),
    (
        "neither number nor auto",
        "search: {batch_size: some}\n",
        1,
        ["'search.batch_size'", "valid integer", "or: input should be 'auto'"],
    ),
    (
        "number for a path",
        "corpus:\n  domains:\n    a: {path: 3}\n    b: {path: x}\n",
        3,
        ["'corpus.domains.a.path'", "valid string"],
    ),
    (
        "number in a list of paths",
        "corpus: {domains: {a: {path: [x, 3]}, b: {path: x}}}\n",
        1,
        ["'corpus.domains.a.path.1'", "got 3"],
    ),
    ("a target that is no number", "target:\n  a: x\n", 2, ["'target.a'", "valid number"]),
    ("a target of zeros", "target: {a: 0}\n", 1, ["'target", "at least one weight above zero"]),
    ("section without keys", "seed: 1\nsearch:\n", 2, ["'search'", "leave it out"]),
    ("not a number", "proxy:\n  learning_rate: .nan\n", 2, ["'proxy.learning_rate'", "finite"]),
    ("infinite", "proxy:\n  weight_decay: .inf\n", 2, ["'proxy.weight_decay'", "finite"]),
    ("infinite target", "target: {a: .inf}\n", 1, ["'target.a'", "finite"]),
    ("odd head size", "seed: 1\nproxy: {width: 63, heads: 4}\n", 2, ["'proxy'", "width 63 must be a multiple of 2 x heads (8)"]),
    ("less than one step", "proxy: {tokens: 100}\n", 1, ["'proxy'", "less than one step"]),
    ("two sources", "corpus: {domains: {a: {path: x, dataset: y}, b: {path: x}}}\n", 1, ["'corpus.domains.a'", "exactly one of"]),
    ("no source", "corpus: {domains: {a: {}, b: {path: x}}}\n", 1, ["'corpus.domains.a'", "exactly one of"]),
    ("one domain", "corpus: {domains: {a: {path: x}}}\n", 1, ["'corpus.domains'", "at least two domains"]),
    ("slash in a domain", "corpus: {domains: {a/b: {path: x}, b: {path: x}}}\n", 1, ["'corpus.domains'", "'a/b'", "without '/'"]),
    (
        "shares that do not sum to one",
        "corpus:\n  domains:\n    a: {path: x, natural_share: 0.5}\n    b: {path: x, natural_share: 0.25}\n",
        2,
        ["'corpus.domains'", "sum to 0.75", "divide each by 0.75"],
    ),
    (
        "shares partly given",
        "corpus: {domains: {a: {path: x, natural_share: 1}, b: {path: x}}}\n",
        1,
        ["'corpus.domains'", "some domains only", "add it for b"],
    ),
    ("negative share", "corpus: {domains: {a: {path: x, natural_share: -1}, b: {path: x}}}\n", 1, ["a.natural_share'", "got -1"]),
    ("bad name", "name: a b\n", 1, ["'name'", "got 'a b'"]),
    ("number as a domain", "corpus: {domains: {1: {path: x}, b: {path: x}}}\n", 1, ["'corpus.domains.1'", "string"]),
    ("duplicate key", "seed: 1\nname: a\nseed: 2\n", 3, ["duplicate key", "seed"]),
    ("custom tag", "seed: 1\nname: !python/object:os.system x\n", 2, ["tag"]),
    ("two documents", "seed: 1\n---\nseed: 2\n", 2, ["another document"]),
    ("broken syntax", "seed: 1\nname: a: b\n", 2, ["not a valid configuration"]),
    ("control character", "name: \x07\n", 1, ["not valid YAML"]),
    ("list at the top", "- seed\n", None, ["keys and values", "not list"]),
    ("text at the top", "seed", None, ["keys and values", "not str"]),
]


@pytest.mark.parametrize(("text", "line", "parts"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_wrong_files_are_refused_by_name(file: Path, text: str, line: int | None, parts: list[str]) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert message.startswith(f"{file}:{line}: " if line else f"{file}: ")
    assert len(message.splitlines()) == 1, "one fault, one line"
    for part in parts:
        assert part in message


def test_every_fault_has_its_line(file: Path) -> None:
    file.write_text("seed: -1\nsearch:\n  budget: 0\n  initial: 1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert [line.split(": key")[0] for line in str(caught.value).splitlines()] == [f"{file}:{n}" for n in (1, 3, 4)]


def test_a_file_that_is_not_text(file: Path) -> None:
    file.write_bytes(b"name: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"not UTF-8 text \(byte 9\); save it as UTF-8"):
        load_config(file)


def test_a_missing_file_points_at_the_presets(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="embeded: no such configuration file; did you mean the preset 'embedded'"):
        load_config("embeded")
    with pytest.raises(ConfigError, match=r"presets are: .*embedded"):
        load_config(tmp_path / "other.yaml")


def test_a_folder_is_not_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


def test_an_empty_file_is_the_defaults(file: Path) -> None:
    for text in ("", "# nothing\n", "---\n"):
        file.write_text(text)
        assert load_config(file).config == RunConfig()


def test_yaml_1_2(file: Path) -> None:
    """``no`` is a name and ``1e-3`` a number, unlike in YAML 1.1."""
    file.write_text(
        "proxy: {learning_rate: 1e-3, tokens: 1e6}\ncorpus: {domains: {no: {path: x}, yes: {path: x}, off: {path: x}}}\n"
    )
    config = load_config(file).config
    assert config.proxy.learning_rate == 1e-3
    assert config.proxy.tokens == 1_000_000
    assert list(config.corpus.domains or ()) == ["no", "yes", "off"]


def test_overrides_win(file: Path) -> None:
    file.write_text("search: {budget: 3, initial: 4}\n")
    config = load_config(file, [("search.budget", 5), ("proxy.layers", 1), ("name", "mine")]).config
    assert (config.search.budget, config.search.initial, config.proxy.layers, config.name) == (5, 4, 1, "mine")


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("search.budget", 0, "'search.budget'"),
        ("search.budgt", 5, "did you mean 'budget'?"),
        ("target", {"a": -1}, "'target.a'"),
        ("search", 3, "'search'"),
        ("proxy.width", 63, "width 63"),
        ("seed.x", 3, "'seed'"),
    ],
)
def test_wrong_overrides_are_the_command_lines(file: Path, key: str, value: object, part: str) -> None:
    file.write_text("seed: 1\nsearch: {budget: 3}\nproxy: {layers: 1}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file, [(key, value)])
    message = str(caught.value)
    assert message.startswith("command line: ")
    assert part in message
    assert str(file) not in message


def test_faults_of_file_and_command_line_are_told_apart(file: Path) -> None:
    file.write_text("seed: -1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file, [("search.budget", 0)])
    assert sorted(line.split(": key")[0] for line in str(caught.value).splitlines()) == sorted([f"{file}:1", "command line"])


def test_override_text() -> None:
    assert parse_override("search.budget=512") == ("search.budget", 512)
    assert parse_override(" target = {a: 1} ") == ("target", {"a": 1})
    assert parse_override("name=a=b") == ("name", "a=b")
    assert parse_override("study.storage=") == ("study.storage", None)
    for wrong in ("search.budget", "=3", "a={b", "a=!x y"):
        with pytest.raises(ConfigError, match="--set"):
            parse_override(wrong)


def test_paths_start_from_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    file.write_text(
        "corpus:\n  tokenizer: {file: tokenizer.json}\n  domains:\n"
        "    a: {path: texts/*.txt}\n    b: {path: [b.txt, /data/b.txt]}\n    c: {path: ~/c}\n    d: {dataset: some/thing}\n"
    )
    corpus = load_config(file).config.corpus
    assert corpus.tokenizer.file == str(file.parent / "tokenizer.json")
    assert {name: domain.path for name, domain in (corpus.domains or {}).items()} == {
        "a": str(file.parent / "texts/*.txt"),
        "b": (str(file.parent / "b.txt"), "/data/b.txt"),
        "c": "/home/someone/c",
        "d": None,
    }


def test_home_in_the_tokenizers_path(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    file.write_text("corpus: {tokenizer: {file: ~/tokenizer.json}}\n")
    assert load_config(file).config.corpus.tokenizer.file == "/home/someone/tokenizer.json"


def test_a_dumped_configuration_loads_as_itself(file: Path) -> None:
    domains = {name: DomainConfig(path=("/x/a", "/x/b"), natural_share=0.25) for name in ("no", "1e-3", "日本語: #1", "null")}
    config = RunConfig(
        name="mine",
        target={"no": 1.0, "1e-3": 2.0},
        corpus=CorpusConfig(domains=domains),
        search=RunConfig().search.model_copy(update={"strategy_options": {"beta": 2.0, "candidates": 64, "x": "1", "y": True}}),
    )
    file.write_text(dump_config(config), encoding="utf-8")
    assert load_config(file).config == config
    file.write_text(dump_config(RunConfig()))
    assert load_config(file).config == RunConfig()


def test_a_preset_is_found_by_its_name_unless_a_file_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "embedded" in presets()
    assert load_config("embedded").origin == "preset embedded"
    assert "layers" in preset_text("embedded")
    monkeypatch.chdir(tmp_path)
    Path("embedded").write_text("seed: 7\n")
    assert load_config("embedded").config.seed == 7


def test_messages_about_presets_name_them() -> None:
    with pytest.raises(ConfigError, match="command line: key 'seed'"):
        load_config("embedded", [("seed", -1)])

"""Configurations that mean harm, or were hurt: refused with file, line and key; nothing is executed, nothing hangs."""

from __future__ import annotations

import os
import time
import typing
from pathlib import Path

import pytest

from regmix_active.config.load import load_config, parse_override
from regmix_active.config.plain_yaml import DEEPEST, LONGEST, parse_yaml
from regmix_active.errors import ConfigError
from tests.config.schema_fields import FIELDS, kinds

COMMAND = "runner: {command: 'x {mixture} {out}', domains: {a: 1, b: 1}}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


def refusal(file: Path, text: str | bytes) -> str:
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert caught.value.exit_code == 2
    return str(caught.value)


TAGS = [
    "!!python/object/apply:os.system ['touch {mark}']",
    "!!python/object/new:os.system ['touch {mark}']",
    "!!python/name:os.system ''",
    "!!python/module:os ''",
    "!include {mark}",
    "!ENV '$HOME'",
    "!!binary aGVsbG8=",
    "!!set {{a, b}}",
    "!!omap [a: 1]",
    "!!timestamp nope",
    "!!int '3'",
    "!!bool maybe",
    "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch {mark}']",
    "! x",
]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize(
    ("place", "line", "key"),
    [
        ("seed: 1\nname: %s\n", 2, "'name'"),
        ("search:\n  strategy_options:\n    x: %s\n", 3, "'search.strategy_options.x'"),
        ("score_only:\n- a\n- %s\n", 3, "'score_only.1'"),
        ("seed: 1\n? %s\n: 1\n", 2, "tag"),
        ("target:\n  ? %s\n  : 1\n", 2, "key 'target"),
        ("%s", 1, "tag"),
    ],
)
def test_tags_are_refused_everywhere(file: Path, tag: str, place: str, line: int, key: str) -> None:
    mark = file.parent / "mark"
    message = refusal(file, place % tag.format(mark=mark))
    assert message.startswith(f"{file}:{line}: ")
    assert "the tag" in message
    assert key in message
    assert not mark.exists(), "nothing was executed"


def test_tags_of_the_command_line(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for value in (f"!!python/object/apply:os.system ['touch {mark}']", "{a: !x 1}", "[!x 1]", "{!x a: 1}"):
        with pytest.raises(ConfigError, match=r"--set target=.*the tag .* is not allowed"):
            parse_override(f"target={value}")
    assert not mark.exists()
    with pytest.raises(ConfigError, match=r"--set 'x\\x1b\[2J=1': control characters") as caught:
        parse_override("x\x1b[2J=1")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("head", ["%YAML 1.1\n---\n", "%TAG ! tag:yaml.org,2002:\n---\n", "%YAML 3.0\n---\n"])
def test_directives_are_refused(file: Path, head: str) -> None:
    """YAML 1.1 would make ``no`` a false, and a %TAG hides what a tag is."""
    assert refusal(file, f"{head}corpus: {{domains: {{no: {{path: x}}, b: {{path: x}}}}}}\n").startswith(f"{file}:")


@pytest.mark.parametrize(
    ("text", "line", "key", "first"),
    [
        ("seed: 1\nname: x\nseed: 2\n", 3, "seed", 1),
        ("search:\n  budget: 1\n  initial: 8\n  budget: 1\n", 4, "search.budget", 2),
        ("target:\n  no: 1\n  'no': 2\n", 3, "target.no", 2),
        ("target: {a: 1,\n  b: 2, a: 1}\n", 2, "target.a", 1),
        ("score_only: [a]\nrunner: {facts: {a: 1}, facts: {b: 1}}\n", 2, "runner.facts", 2),
    ],
)
def test_duplicate_keys_are_named_with_both_lines(file: Path, text: str, line: int, key: str, first: int) -> None:
    message = refusal(file, text)
    assert message == f"{file}:{line}: key '{key}': duplicate key: it is on line {first}, too; keep one of them"


def laughs(levels: int, indent: str = "") -> str:
    lines = [f"a0: &a0 [{', '.join(['lol'] * 9)}]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "".join(f"{indent}{line}\n" for line in lines)


BOMBS = {
    "laughs": laughs(40),
    "laughs of a key": "target:\n" + laughs(40, "  "),
    "merged laughs": "target:\n  m0: &m0 {a: 1}\n"
    + "".join(f"  m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}\n" for i in range(1, 40)),
    "a list in itself": "score_only: &a [*a]\n",
    "a mapping in itself": "target: &a {x: *a}\n",
    "the whole in itself": "&a\nname: x\nsearch: *a\n",
    "a merge of itself": "search: &a {<<: *a}\n",
    "brackets": "name: " + "[" * 100_000,
    "braces": "a: " + "{a: " * 3_000 + "}" * 3_000 + "\n",
    "blocks": "".join(f"{' ' * i}a:\n" for i in range(1_000)),
    "dashes": "name: \n" + "- " * 10_000 + "\n",
    "questions": "? " * 10_000 + "\n",
    "a huge number": f"seed: 1{'0' * 100_000}\n",
    "a huge file": f"name: {'a' * LONGEST}\n",
    "many errors": "".join(f"key{i}: 1\n" for i in range(1_000)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_do_not_go_off(file: Path, name: str) -> None:
    start = time.process_time()
    message = refusal(file, BOMBS[name])
    assert time.process_time() - start < 3
    assert message.startswith(str(file))
    assert len(message) < 1_000 or name == "many errors"


def test_aliases_that_are_no_bombs(file: Path) -> None:
    file.write_text(
        "corpus:\n  domains:\n    a: &a {path: x, text_key: body}\n    b: {<<: *a, path: y}\n    c: *a\n"
        "name: &n hello\nscore_only: [*n]\n"
    )
    config = load_config(file).config
    domains = config.corpus.domains or {}
    assert [(domain.path, domain.text_key) for domain in domains.values()] == [
        (str(file.parent / name), "body") for name in ("x", "y", "x")
    ]
    assert config.score_only == ("hello",)
    changed = load_config(file, [("corpus.domains.a.text_key", "other")]).config.corpus.domains or {}
    assert [domain.text_key for domain in changed.values()] == ["other", "body", "body"], "an override changes one place"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("name: *x\n", "'name': '*x' must name an '&x'"),
        ("name: &x a\nscore_only: [&x b]\n", "'score_only.0': '&x' is there twice"),
        ("search: {<<: 3}\n", "mapping"),
        ("verify: &a {seeds: 2}\nsearch: {<<: *a}\n", "unknown key 'search.seeds'"),
    ],
)
def test_wrong_aliases(file: Path, text: str, part: str) -> None:
    assert part in refusal(file, text)


SECTIONS = [
    "corpus: {domains: {%s: {path: x}, b: {path: x}}}\n",
    "target: {%s: 1}\n",
    "runner: {command: 'x {mixture} {out}', domains: {%s: 1, b: 1}}\n",
]


@pytest.mark.parametrize("section", SECTIONS)
def test_names_of_domains(file: Path, section: str) -> None:
    """YAML 1.2: these are text, numbers and nulls are not, and whoever means them as names writes quotes."""
    for name in ("no", "on", "yes", "y", "2024-01-01", "12:30:45", "1.2.3", "-", "=", "'1.0'", '"null"', "日本"):
        file.write_text(section % name, encoding="utf-8")
        config = load_config(file).config
        domains = config.corpus.domains or config.runner.domains or config.target
        assert str(next(iter(domains))) == name.strip("'\"")
    for name in ("1", "1.0", "1e3", "0x1f", "null", "~", "Null", "true", ".nan", "-.inf"):
        message = refusal(file, section % name)
        assert message.startswith(f"{file}:1: key '")
        assert f"{name}': a key must be a string; if it is meant as a name, write it in quotes: '{name}'" in message
    for name in (r'"a\x07"', r'"a\n"', r'"a\tb"', r'"\0"', r'"\e[2J"', r'"\ud800"', r'"\x9b"'):
        message = refusal(file, section % name)
        assert message.startswith(f"{file}:1: key '")
        assert "control characters" in message
        assert message.isprintable(), "the message itself does no harm to a terminal"
    for name in ("[a]", "{a: 1}", "? [a]"):
        assert "a key must be plain text" in refusal(file, section % name)


@pytest.mark.parametrize(
    "name", ["../../x", "a/b", "..", ".", ".x", '""', "-x", "--out", "a b", "'*'", "'~'", "a\\b", "ä", '"a\\n"']
)
def test_names_of_studies(file: Path, name: str) -> None:
    message = refusal(file, f"seed: 1\nname: {name}\n")
    assert message.startswith(f"{file}:2: key 'name': ")
    assert len(message.splitlines()) == 1


DICTS = [f"{key}.a" for key, kind in FIELDS if dict in {typing.get_origin(one) for one in (kind, *typing.get_args(kind))}]
NUMBERS = [key for key, kind in FIELDS if kinds(kind) & {int, float} and f"{key}.a" not in DICTS]
FLAGS = [key for key, kind in FIELDS if kinds(kind) == {bool}]


def written(key: str, value: str) -> tuple[str, int]:
    """A file with one key, in block style, and the key's line."""
    parts = key.split(".")
    lines = [f"{'  ' * depth}{part}:" for depth, part in enumerate(parts)]
    text = "\n".join(lines) + f" {value}\n"
    if key.startswith("corpus.domains.a."):
        return text.replace("    a:\n", "    a:\n      path: x\n") + "    b: {path: x}\n", len(lines) + 1
    return text, len(lines)


def test_the_fields_are_found() -> None:
    assert {"seed", "search.budget", "proxy.learning_rate", "execution.stack", "corpus.domains.a.natural_share"} <= set(NUMBERS)
    assert {"execution.slurm.memory_gb", "execution.ray.gpus", "execution.deadline_minutes"} <= set(NUMBERS)
    assert {"target.a", "runner.domains.a", "runner.facts.a", "search.strategy_options.a", "execution.slurm.options.a"} <= set(
        DICTS
    )
    assert "proxy.tied_embeddings" in FLAGS
    assert len(NUMBERS) > 45


@pytest.mark.parametrize(
    "value", [".nan", ".inf", "-.inf", "1e999", "-1e999", "true", "no", "'1e-3'", '"8"', "2024-01-01", "[]", "{}"]
)
def test_no_number_is_anything_else(file: Path, value: str) -> None:
    """Also where the schema knows words such as `auto`, or none at all."""
    for key in NUMBERS:
        text, line = written(key, value)
        message = refusal(file, text)
        assert len(message.splitlines()) == 1
        if message.startswith(f"{file}:{line}: key '{key}': "):
            continue
        # A section that as a whole makes no sense with the number that was meant says that first.
        section = key.rpartition(".")[0]
        assert value in ("true", "'1e-3'", '"8"'), message
        assert message.startswith((f"{file}:1: key '{section}': ", f"{file}:2: key 'corpus.domains': "))


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "1e999"])
def test_no_number_of_a_dictionary_is_infinite(file: Path, value: str) -> None:
    for key in [key for key in DICTS if key != "corpus.domains.a"]:
        message = refusal(file, written(key, value)[0])
        assert message.startswith(f"{file}:{len(key.split('.'))}: key '{key}': "), message


@pytest.mark.parametrize("value", ["1", "0", "1.0", "no", "yes", "on", "'true'", ".nan"])
def test_flags_are_true_or_false(file: Path, value: str) -> None:
    for key in FLAGS:
        text, line = written(key, value)
        message = refusal(file, text)
        # A section that as a whole makes no sense with what was meant says that first.
        whole = f"{file}:1: key '{key.rpartition('.')[0]}': {key.rpartition('.')[2]} needs "
        assert message.startswith((f"{file}:{line}: key '{key}': ", whole)), key


def test_numbers_are_numbers(file: Path) -> None:
    file.write_text("seed: 0\nsearch: {budget: 8.0, initial: 1e2}\nproxy: {learning_rate: 1e-3, clip: 2, tokens: 4e5}\n")
    config = load_config(file).config
    assert (config.search.budget, config.search.initial, config.proxy.tokens) == (8, 100, 400_000)
    assert (config.proxy.learning_rate, config.proxy.clip) == (1e-3, 2.0)


def test_text_that_a_dictionary_may_hold(file: Path) -> None:
    """Options and facts take words, numbers and flags: each stays what it is."""
    file.write_text("search: {strategy_options: {a: '1e-3', b: 1e-3, c: true, d: 1}}\n")
    options = load_config(file).config.search.strategy_options
    assert list(map(repr, options.values())) == ["'1e-3'", "0.001", "True", "1"]


def test_the_command_line_is_held_to_the_same(file: Path) -> None:
    file.write_text("seed: 1\n")
    for setting in ("search.budget=true", "search.budget='8'", "proxy.clip=.nan", "proxy.learning_rate='1e-3'", "target={a: '1'}"):
        with pytest.raises(ConfigError, match=r"^command line: key '"):
            load_config(file, [parse_override(setting)])


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"name: a\0b\n", [":1:", "control character"]),
        (b"seed: 1\nname: a\x1b[2Jb\n", [":2:", "control character"]),
        (b'seed: 1\nname: "a\\0b"\n', [":2:", "'name'", "control character"]),
        (b"\xff\xfen\0a\0m\0e\0", ["not UTF-8 text (byte 0)"]),
        (b"\x80\x04\x95\x1c\x00cos\nsystem\n(S'true'\ntR.", ["not UTF-8 text"]),  # a pickle
        (b"PK\x03\x04rest", [":1:"]),
        (b'{"text": "a"}\n{"text": "b"}\n', [":2:"]),
        (b"<html>\n</html>\n", ["keys and values"]),
        (b'execution: {accelerate_config: "a\\0"}\n', ["'execution.accelerate_config'"]),
    ],
)
def test_other_files_are_no_configurations(file: Path, content: bytes, parts: list[str]) -> None:
    message = refusal(file, content)
    assert message.isprintable()
    for part in parts:
        assert part in message


def test_a_byte_order_mark_is_no_part_of_a_key(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfseed: 3\n")
    assert load_config(file).config.seed == 3


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(ConfigError, match=r"cannot be read \(not a regular file\)"):
            load_config(path)


def test_a_home_that_nobody_has(file: Path) -> None:
    file.write_text("corpus: {domains: {a: {path: ~nobody-here/x}, b: {path: x}}}\n")
    assert load_config(file).config.corpus.domains is not None, "the file is missing later, by its name"


def test_depth_that_is_allowed() -> None:
    text = "a: " + "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1)
    assert parse_yaml(text, "x")[0]
    with pytest.raises(ConfigError, match=r"x:1: key 'a\.0\.0.*levels deep"):
        parse_yaml(text.replace("[", "[[", 1).replace("]", "]]", 1), "x")

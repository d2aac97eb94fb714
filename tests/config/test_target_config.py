"""The target in configurations: its forms, what is refused, and how the message helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from regmix_active.config.load import dump_config, load_config, parse_override
from regmix_active.config.schema import RunConfig
from regmix_active.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


LIMITS = {"all": {"above_natural": 0.01, "probability": 0.95}, "code": {"at_most": 3.0}}


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("mean", "mean"),
        ("books", {"books": 1.0}),
        ("{books: 2, code: 7/52}", {"books": 2.0, "code": "7/52"}),
        ("{weights: 2, code: 1}", {"weights": 2.0, "code": 1.0}),
        ("{worst: true}", {"weights": "mean", "worst": True}),
        ("{weights: mean, excess_over: natural}", {"weights": "mean", "excess_over": "natural"}),
        (
            "{weights: {books: 7/52}, excess_over: {books: 3}, relative: true}",
            {"weights": {"books": "7/52"}, "excess_over": {"books": 3.0}, "relative": True},
        ),
        (
            "\n  weights: mean\n  limits:\n    all: {above_natural: 0.01, probability: 0.95}\n    code: {at_most: 3}",
            {"weights": "mean", "limits": LIMITS},
        ),
    ],
)
def test_every_form_is_kept_plain_and_comes_back(file: Path, text: str, target: Any) -> None:
    """Plain, because the study keeps it as JSON."""
    file.write_text(f"target: {text}\n")
    config = load_config(file).config
    assert config.target == target
    file.write_text(dump_config(config))
    assert load_config(file).config == config
    assert load_config(file, [parse_override(f"target={text.strip()}")] if "\n" not in text else []).config == config


def test_several_targets(file: Path) -> None:
    file.write_text("targets:\n  books: books\n  worst: {worst: true}\n  some: {books: 1/3, code: 1}\n")
    targets = load_config(file).config.targets
    assert targets == {
        "books": {"books": 1.0},
        "worst": {"weights": "mean", "worst": True},
        "some": {"books": "1/3", "code": 1.0},
    }
    assert RunConfig().targets == {}
    file.write_text(dump_config(load_config(file).config))
    assert load_config(file).config.targets == targets


@pytest.mark.parametrize(
    ("text", "line", "parts"),
    [
        ("target: {books: 1/0}", 1, ["'target.books'", "not divided by zero"]),
        ("target: {books: -1/2}", 1, ["'target.books'", "weights are finite and >= 0"]),
        ("target:\n  books: a/b", 2, ["'target.books'", "write a number, or a fraction such as 7/52"]),
        ("target: {books: -1}", 1, ["'target.books'", "greater than or equal to 0"]),
        ("target: {books: 0/3}", 1, ["'target'", "at least one weight above zero"]),
        ("target: 3", 1, ["'target'", "dictionary"]),
        ("target:\n  weights: mean\n  wosrt: true", 1, ["unknown key 'wosrt'; did you mean 'worst'?"]),
        ("target:\n  weights:\n    books: 0", 1, ["'target'", "at least one weight above zero"]),
        ("target: {weights: mean, relative: true}", 1, ["relative needs excess_over", "add excess_over: natural"]),
        (
            "target:\n  limits:\n    code: {above_naturl: 1}",
            3,
            ["'target.limits.code'", "unknown key 'above_naturl'; did you mean 'above_natural'?"],
        ),
        ("target:\n  limits:\n    code: {}", 3, ["'target.limits.code'", "needs exactly one of at_most"]),
        ("target:\n  limits:\n    code: {at_most: 1, probability: 1}", 3, ["'target.limits.code.probability'", "less than 1"]),
        ("target:\n  limits:\n    code: {at_most: .inf}", 3, ["'target.limits.code.at_most'", "finite"]),
        ("target:\n  worst: true\n  excess_over:\n    books: x", 4, ["'target.excess_over.books'", "valid number"]),
        ("targets: {books: books}", 1, ["'targets'", "two or more targets; for one, use `target`"]),
        ("targets:\n  a: mean\n  b: {books: x}", 3, ["'targets.b.books'", "valid number"]),
    ],
)
def test_what_is_wrong_is_said_with_its_place(file: Path, text: str, line: int, parts: list[str]) -> None:
    file.write_text(text + "\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    message = str(caught.value)
    assert message.startswith(f"{file}:{line}: "), message
    assert len(message.splitlines()) == 1
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("targets: {mine: books, theirs: {books: 2}}", "mine and theirs are the same target; a trade-off needs different ones"),
        ("targets: {a: mean, b: books, c: {weights: mean}}", "a and c are the same target"),
        ("target: {limits: {code: {at_most: -1}}}", "greater than or equal to 0"),
    ],
)
def test_targets_that_make_no_sense(file: Path, text: str, message: str) -> None:
    file.write_text(text + "\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert message in str(caught.value)

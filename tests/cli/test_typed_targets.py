"""Targets as they are typed on a command line."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from regmix_active.cli.common import parse_target as shared
from regmix_active.cli.targets import parse_limit, parse_target, target_options
from regmix_active.config.schema import RunConfig
from regmix_active.errors import ConfigError
from regmix_active.study.target import Target

NAMES = ("books", "code", "web pages")


@click.command()
@target_options
def show(target: Any, targets: Any) -> None:
    click.echo(json.dumps([target, targets]))


def typed(*arguments: str) -> Any:
    result = CliRunner().invoke(show, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        (None, None),
        ("mean", "mean"),
        ("books", {"books": 1.0}),
        ("books=7/52,code=0.3", {"books": "7/52", "code": 0.3}),
        (" web pages = 1 / 3 , books ", {"web pages": "1 / 3", "books": 1.0}),
    ],
)
def test_targets(text: str | None, target: Any) -> None:
    assert parse_target(text, fractions=True) == target
    if isinstance(target, dict):
        assert shared(text) == {name: float(Fraction(str(w).replace(" ", ""))) for name, w in target.items()}
    if target is not None:
        Target.parse(RunConfig(target=target).target, NAMES)


@pytest.mark.parametrize("text", ["books=x", "books=1/0", "books=1/2/3"])
def test_wrong_weights(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"write NAME or NAME=WEIGHT, for example books=0\.7,code=0\.3 or books=7/52"):
        parse_target(text)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("code<=natural+1%@0.95", ("code", {"above_natural": 0.01, "probability": 0.95})),
        ("all<=natural+1%", ("all", {"above_natural": 0.01})),
        ("all <= natural", ("all", {"above_natural": 0.0})),
        ("code<=natural-0.5%", ("code", {"above_natural": -0.005})),
        ("web pages <= 3.2 @ 0.8", ("web pages", {"at_most": 3.2, "probability": 0.8})),
        ("code<=3.2e0", ("code", {"at_most": 3.2})),
    ],
)
def test_limits(text: str, limit: Any) -> None:
    assert parse_limit(text) == limit
    Target.parse({"limits": dict([limit])}, NAMES)


@pytest.mark.parametrize(
    "text",
    ["code", "code<3", "<=3", "code<=", "code<=natural+1", "code<=3%", "code<=1.2.3", "c<=natural+.%", "code<=-1"],
)
def test_wrong_limits(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"write code<=natural\+1%, code<=3\.2 or all<=natural\+1%@0\.95"):
        parse_limit(text)


@pytest.mark.parametrize("probability", ["95", "95%", "1", "0", "1.5", "0.95%"])
def test_probabilities_are_no_percents(probability: str) -> None:
    with pytest.raises(click.BadParameter, match=r"between 0 and 1; for 95 % write @0\.95, such as code<=natural\+1%@0\.95"):
        parse_limit(f"code<=natural@{probability}")


def test_every_loss_at_most_one_nat() -> None:
    assert parse_limit("all<=1") == ("all", {"at_most": 1.0})


def test_nothing_typed_leaves_the_configuration() -> None:
    assert typed() == [None, None]


def test_options_make_the_structured_form(tmp_path: Path) -> None:
    assert typed("--target", "books=1/3,code") == [{"books": "1/3", "code": 1.0}, None]
    assert typed("--worst") == [{"weights": "mean", "worst": True}, None]
    found = typed("--target", "code", "--excess-over", "natural", "--relative", "--limit", "all<=natural+1%", "--limit", "books<=3")
    assert found[0] == {
        "weights": {"code": 1.0},
        "excess_over": "natural",
        "relative": True,
        "limits": {"all": {"above_natural": 0.01}, "books": {"at_most": 3.0}},
    }
    Target.parse(RunConfig(target=found[0]).target, NAMES)
    file = tmp_path / "losses.yaml"
    file.write_text("books: 3\ncode: 2.5\n")
    assert typed("--worst", "--target", "books,code", "--excess-over", str(file))[0]["excess_over"] == {"books": 3.0, "code": 2.5}


def test_several_targets_are_a_trade_off() -> None:
    target, targets = typed("--target", "books", "--target", "mean", "--limit", "code<=3")
    assert target == targets["books"]
    assert targets["mean"] == {"weights": "mean", "limits": {"code": {"at_most": 3.0}}}
    assert RunConfig(targets=targets).targets == targets


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--relative"], "needs --excess-over"),
        (["--target", "books", "--target", "books"], "the same target twice"),
        (["--target", "books", "--target", "books=1"], "the same target twice"),
        (["--target", "books=2,code=2", "--target", "code=1/2,books=0.5"], "the same target twice"),
        (["--target", "books=2,code=2,books=1"], "two weights for books; give it one"),
        (["--limit", "code<=3", "--limit", "code<=natural"], "a second limit for code; give each loss one"),
        (["--limit", "code<=-3"], "a loss is never below 0 nats"),
        (["--limit", "code"], "write code<=natural"),
    ],
)
def test_options_that_make_no_sense(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(show, arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (No such file or directory); name a YAML file of losses by name, or natural"),
        (b"- 1\n", "write a loss by name in each line, such as 'books: 3.1'"),
        (b"books: many\n", ": books is 'many'; write a number"),
        (b"\xff\xfe", "not UTF-8 text"),
    ],
)
def test_wrong_files_of_references(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "losses.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        CliRunner().invoke(show, ["--excess-over", str(file)], catch_exceptions=False)
    assert str(caught.value).startswith(f"--excess-over {file}: ")
    assert message in str(caught.value)

"""The commented template says everything, and loads as what it was made from."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from ruamel.yaml import YAML

from regmix_active.config.load import load_config, preset_text, presets
from regmix_active.config.schema import CorpusConfig, DomainConfig, RunConfig
from regmix_active.config.template import commented

QUICK = settings(max_examples=60, derandomize=True, deadline=None)


def _leaves(section: type[BaseModel], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, field in section.model_fields.items():
        kind = field.annotation
        nested = isinstance(kind, type) and issubclass(kind, BaseModel)
        found |= _leaves(kind, f"{prefix}{name}.") if nested else {prefix + name}  # type: ignore[arg-type]
    return found


def _load(text: str) -> RunConfig:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.yaml"
        file.write_text(text, encoding="utf-8")
        return load_config(file).config


NAMED = ("floors", "caps", "fixed", "groups", "tokens")
VALUES = {"target", "targets", "search.strategy_options", *(f"mixture.{key}" for key in NAMED)}


@pytest.mark.parametrize("name", presets())
def test_presets_load_and_say_every_key(name: str) -> None:
    data = YAML(typ="safe", pure=True).load(preset_text(name))

    def keys(value: dict[str, Any], prefix: str = "") -> set[str]:
        found: set[str] = set()
        for key, inner in value.items():
            # Domains, targets and options are values, not sections.
            nested = isinstance(inner, dict) and f"{prefix}{key}" not in VALUES and key not in {"domains", "options", "facts"}
            found |= keys(inner, f"{prefix}{key}.") if nested else {prefix + key}
        return found

    assert keys(data) == _leaves(RunConfig)


@pytest.mark.parametrize("name", presets())
def test_every_key_of_a_preset_is_commented(name: str) -> None:
    lines = preset_text(name).splitlines()
    for before, line in itertools.pairwise(lines):
        if line and not line.lstrip().startswith("#"):
            assert before.lstrip().startswith("#"), f"no comment above {line!r}"


@pytest.mark.parametrize("name", presets())
def test_presets_are_what_the_template_writes(name: str) -> None:
    text = preset_text(name)
    # The title is what stands above the first key's own comment.
    body = text[text.index("# Name of the study") :]
    assert body == commented(load_config(name).config, ""), "the schema changed: paste the right side below the preset's title"


def test_the_embedded_preset_differs_from_the_defaults_in_its_question_alone() -> None:
    question = {"name": "embedded", "target": {"library_docs": 1.0}, "score_only": ("library_docs",)}
    assert load_config("embedded").config == RunConfig.model_validate(question)


def test_a_title_is_commented() -> None:
    assert commented(RunConfig(), "One\n\nTwo").startswith("# One\n#\n# Two\n# Name of the study")


def test_long_documentation_is_wrapped() -> None:
    assert max(map(len, commented(RunConfig(), "").splitlines())) <= 120


names = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="/\x85\ufeff\ufffe\uffff"),
    min_size=1,
    max_size=200,
)


@QUICK
@given(st.lists(names.map(str.strip).filter(bool), min_size=2, max_size=6, unique=True), st.data())
def test_any_domain_name_survives_the_template(domains: list[str], data: st.DataObject) -> None:
    config = RunConfig(
        target={domains[0]: data.draw(st.floats(1e-6, 1e6))},
        corpus=CorpusConfig(domains={name: DomainConfig(path=f"/data/{i}", text_key=name) for i, name in enumerate(domains)}),
    )
    assert _load(commented(config, "T")) == config


@pytest.mark.parametrize(
    "name",
    [
        "no",
        "null",
        "~",
        "1",
        "1e-3",
        "a: b",
        "#x",
        "- y",
        "[z]",
        "{q}",
        "!t",
        "&a",
        "*a",
        "'",
        '"',
        "été",
        "日本",
        "?",
        "%",
        "@",
        "|",
        "<<",
        "=",
        ":x",
        "a,b",
        "😀",
    ],
)
def test_odd_domain_names(name: str) -> None:
    config = RunConfig(
        corpus=CorpusConfig(
            domains={name: DomainConfig(path="/x", natural_share=0.5), "other": DomainConfig(path="/y", natural_share=0.5)}
        )
    )
    assert _load(commented(config, "T")) == config


def test_domains_show_only_what_is_set() -> None:
    config = RunConfig(corpus=CorpusConfig(domains={"a": DomainConfig(path="/x"), "b": DomainConfig(dataset="d", split="test")}))
    text = commented(config, "T")
    assert "    a:\n      path: /x\n    b:\n      dataset: d\n      split: test\n" in text

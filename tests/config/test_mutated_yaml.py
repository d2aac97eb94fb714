"""Configurations as chance writes them: they load or are refused, whatever they are."""

from __future__ import annotations

import random
import string
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regmix_active.config.load import load_config, preset_text, presets
from regmix_active.config.schema import RunConfig
from regmix_active.errors import ConfigError
from tests.config.schema_fields import FIELDS

HOSTILE = st.sampled_from(
    [*"&*!|>%@`\"'[]{}#:?-,\n\t \0\x07\x85\u2028\ud800é日", "<<: ", "&a ", "*a", "!!python/x ", "---\n", "...\n", "~"]
)
VALUES = st.sampled_from(
    [".nan", "-.inf", "true", "'1'", "null", "1e400", "9" * 50, "[]", "{}", "*a", "&a x", "!x 1", "-1", "0", "''", "auto", "mean"]
)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A preset's text with a few lines changed."""
    lines = preset_text(draw(st.sampled_from(presets()))).splitlines(keepends=True)
    lines = [line for line in lines if not line.lstrip().startswith("#")]
    for _ in range(draw(st.integers(1, 4))):
        i, how = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, 5))
        j = draw(st.integers(0, len(lines[i])))
        if how == 0:
            lines[i] = lines[i][:j] + draw(HOSTILE) + lines[i][j:]
        elif how == 1:
            lines[i] = lines[i][:j] + lines[i][j + 1 :]
        elif how == 2:
            lines[i] = f"{lines[i].partition(':')[0]}: {draw(VALUES)}\n"
        elif how == 3:
            lines.insert(draw(st.integers(0, len(lines))), lines[i])
        elif how == 4:
            lines[i] = "  " * draw(st.integers(0, 3)) + lines[i].lstrip()
        else:
            del lines[i : i + draw(st.integers(1, 5))]
            lines = lines or ["\n"]
    return "".join(lines)


KEYS = [part for key, _ in FIELDS for part in key.split(".")]
LEAVES = st.one_of(VALUES, st.integers(), st.floats(), st.text(alphabet=string.printable, max_size=8))
TREES = st.recursive(
    LEAVES.map(str),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(st.tuples(st.sampled_from(KEYS), inner), max_size=4).map(
            lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items) + "}"
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=300, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(mutated(), TREES, st.text(max_size=30), st.lists(HOSTILE, max_size=20).map("".join)))
def test_whatever_it_is_it_loads_or_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        config = load_config(file).config
    except ConfigError as error:
        assert str(error).startswith((str(file), "command line"))  # noqa: PT017 - both ends are fine
        return
    assert RunConfig.model_validate(config.model_dump()) == config


def test_every_byte_of_a_preset_may_flip(tmp_path: Path) -> None:
    content = "".join(line for line in preset_text("embedded").splitlines(keepends=True) if not line.lstrip().startswith("#"))
    rng, file = random.Random(5), tmp_path / "run.yaml"
    for _ in range(60):
        data = bytearray(content.encode())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
        try:
            load_config(file)
        except ConfigError as error:
            assert str(error).startswith(str(file))  # noqa: PT017

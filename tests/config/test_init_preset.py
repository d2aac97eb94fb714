"""``regmix-active init --preset``: a preset's proxy, the user's text."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from regmix_active.cli.init import command
from regmix_active.config.load import load_config, load_preset
from regmix_active.errors import ConfigError


@pytest.mark.parametrize("preset", ["regmix-1m", "embedded"])
def test_init_writes_the_presets_proxy_and_the_users_domains(preset: str, texts: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    result = CliRunner().invoke(command, [str(texts), "--preset", preset, "-o", str(file)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    written, base = load_config(file).config, load_preset(preset)
    assert (written.proxy, written.search, written.corpus.tokenizer) == (base.proxy, base.search, base.corpus.tokenizer)
    assert written.corpus.domains is not None
    assert list(written.corpus.domains) == ["books", "code", "talk"]
    assert (written.name, written.target, written.score_only) == ("mine", "mean", ())
    assert f"the preset {preset}" in file.read_text(encoding="utf-8")


def test_init_names_a_preset_that_is_close(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'tiny-4k'"):
        CliRunner().invoke(command, [str(texts), "--preset", "tiny4k", "-o", str(tmp_path / "a.yaml")], catch_exceptions=False)

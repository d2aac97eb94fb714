"""``regmix-active benchmark decision`` on a few runs of a formula."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from regmix_active.cli.benchmark_decision import command as decision
from regmix_active.compare import decision as decisions
from regmix_active.compare.decision import best_allowed
from regmix_active.compare.emulator import Emulator
from regmix_active.config.recommend import RecommendConfig
from regmix_active.errors import ConfigError
from regmix_active.mixture.constraints import Bound, Constraints
from regmix_active.mixture.space import MixtureSpace
from regmix_active.study.target import Target
from tests.compare.replays import formula_table
from tests.compare.test_benchmark_cli import write


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write(formula_table(60), folder, "train")
    return folder


@pytest.fixture(autouse=True)
def _here(files: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    monkeypatch.setenv("REGMIX_ACTIVE_CACHE", str(cache))
    monkeypatch.setattr(decisions, "RecommendConfig", lambda: RecommendConfig(simulations=1000))


def test_searches_and_studies_with_every_figure() -> None:
    asked = [".", "--runs", "17", "--study-runs", "24", "--seeds", "1", "--max-ratio", "2", "--jobs", "1", "--json", "found.json"]
    asked += ["--target", "mean", "--target", "books"]
    result = CliRunner().invoke(decision, asked, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "searches of 17 proxies, intervals of 90%" in result.output
    assert "studies for the first target of 24 proxies" in result.output
    assert "books: the study's answers are" in result.output
    content = json.loads(Path("found.json").read_text(encoding="utf-8"))
    assert set(content["studies"]) == {"books"}
    (one,) = content["searches"]["mean"]
    assert one["low"] < one["predicted"] < one["high"]
    assert one["value"] >= content["best"]["mean"] - 0.01
    assert 0 <= one["beats_natural"] <= 1


def test_the_best_allowed_mixture_is_at_the_cap() -> None:
    table = formula_table(60)
    emulator = Emulator.fit(table.mixtures, table.losses)
    target = Target.parse({table.loss_names[0]: 1}, table.loss_names)
    natural = np.full(len(table.domains), 1 / len(table.domains))
    free = MixtureSpace(table.domains, natural)
    capped = MixtureSpace(table.domains, natural, Constraints((Bound("cap", "", np.eye(len(natural))[0], high=0.3),)))
    loose, tight = (best_allowed(space, emulator, target, size=1000, rounds=4) for space in (free, capped))
    assert loose < tight
    grid = capped.sample(4000, np.random.default_rng(0))
    assert tight <= emulator.losses(grid)[:, 0].min() + 1e-6


def test_wrong_input(tmp_path: Path) -> None:
    shares = tmp_path / "natural.yaml"
    shares.write_text("train: {books: 0.5}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no share of"):
        CliRunner().invoke(decision, [".", "--natural", str(shares)], catch_exceptions=False)
    shares.write_text("books: much\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="books is 'much', not a number"):
        CliRunner().invoke(decision, [".", "--natural", str(shares)], catch_exceptions=False)
    with pytest.raises(ConfigError, match="No such file"):
        CliRunner().invoke(decision, [".", "--natural", "absent.yaml"], catch_exceptions=False)

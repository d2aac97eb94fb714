"""``regmix-active recommend``: another rule, other intervals, and what they look like."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from regmix_active.cli.recommend import command
from regmix_active.cli.status import command as status
from regmix_active.config.load import load_config
from regmix_active.proxy.runner import FunctionRunner
from regmix_active.search.active import ActiveSearch
from regmix_active.surrogate.ensemble import Auto
from regmix_active.surrogate.gaussian_process import GaussianProcess

DOMAINS = ("books", "code", "web")


def losses(weights: np.ndarray) -> dict[str, float]:
    return dict(zip(DOMAINS, (2 + (0.02 + weights) ** -0.4).tolist(), strict=True))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "mine"
    quick = {"recommend.simulations": 1000, "recommend.draws": 16, "search.strategy_options": {"candidates": 64}}
    config = load_config("embedded", {"target": "mean", "score_only": [], "search.budget": 12, **quick}.items()).config
    ActiveSearch(config, out=out, runner=FunctionRunner(DOMAINS, losses)).run()
    return out


def recommend(run: Path, *options: str) -> tuple[str, dict[str, Any]]:
    result = CliRunner().invoke(command, [str(run), *options])
    assert result.exit_code == 0, result.output
    return result.output, YAML(typ="safe", pure=True).load((run / "mixture.yaml").read_text(encoding="utf-8"))


def test_it_says_how_far_the_answer_can_be_trusted(run: Path) -> None:
    text, content = recommend(run)
    assert "90% interval of the target" in text
    assert "better than the natural mixture with probability" in text
    assert "the nearest trained mixture" in text
    assert "\n  3. " in text, "three runs"
    assert len(content["next_runs"]) == 3
    assert (content["rule"], content["doubt"]["probability_of_intervals"]) == ("bound", 0.9)


def test_another_rule_and_other_intervals(run: Path) -> None:
    text, content = recommend(run, "--rule", "thompson", "--interval", "0.5", "--target", "code")
    assert "50% interval" in text
    assert (content["rule"], content["doubt"]["probability_of_intervals"]) == ("thompson", 0.5)
    assert content["weights"]["code"] > 0.6
    bad = CliRunner().invoke(command, [str(run), "--interval", "1"])
    assert bad.exit_code == 2


def test_limits_and_trade_offs_from_the_same_study(run: Path) -> None:
    text, content = recommend(run, "--target", "code", "--limit", "books<=natural+2%@0.8")
    assert "all limits of the target are kept with probability" in text
    assert content["target_spec"]["limits"] == {"books": {"above_natural": 0.02, "probability": 0.8}}
    assert content["weights"]["books"] > 0.2
    text, content = recommend(run, "--target", "books", "--target", "code")
    assert "Trade-offs" in text
    assert "(balanced)" in text
    balanced = content["pareto"]["members"][content["pareto"]["balanced"]]
    assert balanced["weights"] == content["weights"]


def test_the_surrogate_that_was_chosen_is_told_with_its_reason(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GaussianProcess, "reason", "gp predicts held-out runs best", raising=False)
    text, content = recommend(run)
    assert content["surrogate_choice"] == "gp predicts held-out runs best"
    assert "surrogate gp: gp predicts held-out runs best" in text
    monkeypatch.undo()
    text, content = recommend(run)
    assert "surrogate_choice" not in content
    assert "surrogate gp" not in text
    assert isinstance(Auto().reason, str)


def test_status_says_what_the_answer_was_found_for(run: Path) -> None:
    def told() -> str:
        result = CliRunner().invoke(status, [str(run)])
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())

    recommend(run, "--target", "code")
    assert "mixture.yaml, found for code" in told()
    recommend(run, "--target", "books", "--target", "web=1,code=2")
    assert "mixture.yaml, found for trade-offs between books, web=1,code=2" in told()


def test_units_of_shares(run: Path, tmp_path: Path) -> None:
    """A relative target in status, in the log and among the trials."""
    out = tmp_path / "shares"
    target = {"weights": "mean", "excess_over": "natural", "relative": True}
    quick = {"recommend.simulations": 1000, "recommend.draws": 0, "search.strategy_options": {"candidates": 64}}
    config = load_config("embedded", {"target": target, "score_only": [], "search.budget": 8, **quick}.items()).config
    found = ActiveSearch(config, out=out, runner=FunctionRunner(DOMAINS, losses)).run()
    result = CliRunner().invoke(status, [str(out)])
    assert f"{found.best_value:.4f} share of the reference (slot" in result.output
    log = (out / "run.log").read_text(encoding="utf-8")
    assert f"predicted {found.found.mean:.4f} share of the reference" in log
    assert "nats" not in log
    with (out / "trials.csv").open(encoding="utf-8", newline="") as file:
        values = [float(row["target"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(values, found.history.values)

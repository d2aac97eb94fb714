"""``regmix-active benchmark proxy``, from mixtures to tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from regmix_active.cli.benchmark_proxy import command
from regmix_active.compare import fidelity
from regmix_active.compare.fidelity import plan_mixtures, same_text
from regmix_active.compare.proxy_benchmark import default_reference
from regmix_active.config.load import load_config
from regmix_active.config.schema import ProxyConfig
from regmix_active.corpus.build import CACHE_VARIABLE, build_store
from regmix_active.errors import ConfigError, ProxyError
from regmix_active.proxy.planning.roofline import token_cost


@pytest.fixture(autouse=True)
def _cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(cache))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


QUICK = ("--jobs", 1, "--set", "proxy.tokens=1280", "--set", "score_only=[talk]")


def test_ranks_against_the_default_reference(tiny: Path, tmp_path: Path) -> None:
    file, plot, out = tmp_path / "ranks.json", tmp_path / "ranks.svg", tmp_path / "out"
    arguments = ("--config", tiny, *QUICK, "--mixtures", 8, "--seeds", 2, "--out", out, "--json", file, "--plot", plot)
    first = run(*arguments)
    assert first.exit_code == 0, first.output
    for words in ("mean of all losses", "mean of all, bits per byte", "held-out talk", "worst domain", "CPU-seconds", "FLOPs"):
        assert words in first.output
    assert plot.read_text(encoding="utf-8").lstrip().startswith("<?xml")
    found = json.loads(file.read_text(encoding="utf-8"))
    assert np.array(found["losses"]).shape == (2, 8, 3)
    assert np.array(found["reference_losses"]).shape == (1, 8, 3)
    assert found["compute_ratio"] > 10
    assert np.array(found["mixtures"])[:, 2].tolist() == [0.0] * 8, "never trained on"
    assert found["ranks"]["held-out talk"]["wide"]["mixtures"] == 4
    assert found["reference_set"]["proxy.width"] == 48

    trained = {path: path.stat().st_mtime_ns for path in out.glob("*.result.json")}
    assert len(trained) == 4 + 2 * 4
    again = run(*arguments)
    assert again.output == first.output
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.result.json")} == trained, "nothing is trained twice"


def test_two_vocabularies_train_on_the_same_text(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "ranks.json"
    other = ("--set", "corpus.tokenizer.vocab_size=320", "--reference-set", "proxy.tokens=1280")
    result = run("--config", tiny, *QUICK, *other, "--mixtures", 4, "--out", tmp_path, "--json", file)
    assert result.exit_code == 0, result.output
    assert "times the compute" in result.output
    found = json.loads(file.read_text(encoding="utf-8"))
    small, full = (load_config(tiny, [("corpus.tokenizer.vocab_size", size)]).config for size in (320, 300))
    stores = [build_store(config.corpus) for config in (small, full)]
    weights = np.array(found["mixtures"])
    converted = same_text(weights, stores[1], stores[0])
    text = [shares * store.bytes_per_token for shares, store in zip((converted, weights), stores, strict=True)]
    np.testing.assert_allclose(text[0] / text[0].sum(1, keepdims=True), text[1] / text[1].sum(1, keepdims=True))
    jobs = [json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.glob("*.job.json")]
    trained = {json.dumps(request["weights"]) for job in jobs for request in job["requests"]}
    assert trained == {json.dumps(row) for row in [*converted.tolist(), *weights.tolist()]}


def test_noise_in_four_ways(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "noise.json"
    result = run("--config", tiny, *QUICK, "--noise", "--mixtures", 4, "--seeds", 2, "--out", tmp_path / "out", "--json", file)
    assert result.exit_code == 0, result.output
    assert "ratio of variances" in result.output
    assert "median of single losses" in result.output
    written = json.loads(file.read_text(encoding="utf-8"))["noise"]
    assert list(written) == ["mean of 3 losses", "books", "code", "talk"]
    found = written["mean of 3 losses"]
    assert [(way["common_seeds"], way["draws"]) for way in found] == [
        (True, "low-discrepancy"),
        (True, "independent"),
        (False, "low-discrepancy"),
        (False, "independent"),
    ]
    assert found[-1]["ratio"] == 1
    jobs = [json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "out").glob("*.job.json")]
    own = [(r["init_seed"], r["data_seed"]) for job in jobs for r in job["requests"]]
    assert len(own) == 32
    assert len(set(own)) == 2 + 8 + 8, "common seeds serve both kinds of draws; every other proxy has its own"


def test_stopping_says_what_is_kept(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: str, device: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fidelity, "run_job", interrupted)
    result = CliRunner().invoke(command, ["--config", str(tiny), "--jobs", "1", "--mixtures", "4", "--out", str(tmp_path)])
    assert result.exit_code != 0
    assert "stopped. Finished trainings are in" in result.output


def test_a_job_that_fails_is_named(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: str, device: str) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr(fidelity, "run_job", broken)
    with pytest.raises(ProxyError, match=r"\.job\.json: no luck"):
        run("--config", tiny, "--jobs", 1, "--mixtures", 4, "--out", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--noise", "--seeds", 1], "--seeds 1: noise between seeds needs two"),
        (["--noise", "--plot", "a.svg"], "--plot: is of ranks"),
        (["--plot", "a.txt"], r"ends in \.svg"),
        (["--plot", "absent/a.svg"], "there is no folder absent"),
        (["--set", "proxy.widht=3"], "did you mean 'width'"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(arguments: list[object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run(*arguments)


def test_other_domains_cannot_be_compared(tiny: Path, texts: Path) -> None:
    config = load_config(tiny).config
    ours = build_store(config.corpus)
    assert config.corpus.domains is not None
    fewer = {name: domain for name, domain in config.corpus.domains.items() if name != "talk"}
    theirs = build_store(config.corpus.model_copy(update={"domains": fewer}))
    with pytest.raises(ConfigError, match="--reference-set: the reference has other domains"):
        same_text(np.array([[0.5, 0.5]]), theirs, ours)


def test_mixtures_are_half_wide_and_half_near_uniform(tiny: Path) -> None:
    config = load_config(tiny, [("score_only", ["code"])]).config
    store = build_store(config.corpus)
    plan = plan_mixtures(config, store, 40)
    assert plan.wide.tolist() == [True] * 20 + [False] * 20
    np.testing.assert_allclose(plan.weights.sum(axis=1), 1)
    assert not plan.weights[:, store.domains.index("code")].any()
    wide, near = (np.abs(plan.weights[plan.parts[part]][:, plan.mixed] - 0.5).mean() for part in ("wide", "near uniform"))
    assert near < 0.15 < wide
    np.testing.assert_array_equal(plan.weights, plan_mixtures(config, store, 40).weights)
    assert not plan_mixtures(config, store, 6, wide=False).wide.any()


def test_the_default_reference_of_the_default_proxy_has_ten_times_its_compute() -> None:
    changes = {key.removeprefix("proxy."): value for key, value in default_reference(ProxyConfig()).items()}
    reference = ProxyConfig.model_validate({**ProxyConfig().model_dump(), **changes})
    assert (reference.width, reference.layers, reference.heads, reference.ffn) == (96, 3, 4, 288)
    ratio = token_cost(reference, 1024).flops * reference.tokens / (token_cost(ProxyConfig(), 1024).flops * ProxyConfig().tokens)
    assert ratio > 10
    # Any valid shape has a valid reference.
    for proxy in (ProxyConfig(width=36, heads=3), ProxyConfig(width=64, heads=4, kv_heads=2), ProxyConfig(width=8, heads=1)):
        changed = {key.removeprefix("proxy."): value for key, value in default_reference(proxy).items()}
        ProxyConfig.model_validate({**proxy.model_dump(), **changed})

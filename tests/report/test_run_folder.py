"""The files of a run folder: they read back, and say what happened."""

from __future__ import annotations

import csv
import dataclasses
import logging
import math
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from regmix_active.compare.verify import Rival, Verification
from regmix_active.config.load import load_config
from regmix_active.config.schema import RunConfig
from regmix_active.errors import ConfigError
from regmix_active.mixture.constraints import Bound, Constraints
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.recommend.simulate import Recommendation
from regmix_active.report.folder import RunFolder, rounded
from regmix_active.report.told import DECIMALS
from regmix_active.study.meaning import Meaning
from regmix_active.study.record import StudyRecord
from regmix_active.study.target import Target

QUICK = settings(max_examples=100, derandomize=True, deadline=None)


def read(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


@pytest.fixture
def record(found: Recommendation) -> StudyRecord:
    """Three proxies: finished, failed, running."""
    names, losses = found.history.space.domains, found.history.target.loss_names
    record = StudyRecord(optuna.create_study(study_name="s", direction="minimize"))
    record.claim(Meaning(names, tuple(found.history.space.natural.tolist()), losses, {}), {"seed": 3}, "mean")
    record.plan([ProxyRequest(slot, found.history.mixtures[slot], 7, 8) for slot in range(3)], 0, 3, "initial design")
    values = dict(zip(losses, found.history.losses[0].tolist(), strict=True))
    record.finish(ProxyResult(0, {**values, "another": 1.0}, {losses[0]: 0.5}, 1000, 1.5))
    record.finish(ProxyResult(1, {}, failure='diverged, "badly"\nin step 3'))
    return record


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "runs" / "mine")
    folder.create()
    return folder


def test_the_mixture(folder: RunFolder, found: Recommendation, record: StudyRecord) -> None:
    folder.write_mixture(found, record)
    content = read(folder.mixture)
    assert content["weights"] == rounded(found.weights)
    assert list(content["weights"]) == list(found.history.space.domains)
    assert sum(Decimal(str(w)) for w in content["weights"].values()) == 1
    assert content["natural_weights"] == {"books": 0.5, "code [x]": 0.3, "日本: 1": 0.2}
    predicted = content["predicted"]
    assert predicted["found"] == {"mean": round(found.found.mean, 6), "std": round(found.found.std, 6)}
    assert predicted["best_trained"]["slot"] == 5
    assert predicted["best_trained"]["trained"] == round(found.best_value, 6)
    assert content["predicted_losses"]["日本: 1"] == {"found": 3.0, "std": 0.3, "natural": 3.5}
    assert content["runs"] == {"completed": 1, "stopped": 0, "failed": 1}
    assert (content["study"], content["seed"], content["surrogate"], content["target"]) == ("s", 3, "gp", "mean of 3 losses")
    assert (content["simulated"], content["averaged"]) == (1000, 64)
    assert {"python", "torch", "optuna", "numpy"} <= set(content["versions"])
    assert "&" not in folder.mixture.read_text(encoding="utf-8").replace("&amp;", ""), "no YAML anchors"


def test_the_doubt(folder: RunFolder, doubted: Recommendation, record: StudyRecord) -> None:
    folder.write_mixture(
        doubted, record, stopped="enough", target_tokens=2e9, tokens={"books": 1e9, "code [x]": 2.5e8, "日本: 1": 7.5}
    )
    content = read(folder.mixture)
    assert content["notes"] == ["a note [/x]"]
    assert content["stopped"] == "enough"
    assert content["target_tokens"] == 2_000_000_000
    assert content["tokens"] == {"books": 1_000_000_000, "code [x]": 250_000_000, "日本: 1": 7.5}
    told = content["doubt"]
    assert told["probability_of_intervals"] == 0.8
    assert told["interval"] == [2.4, 2.6]
    assert told["interval_for_another_seed"] == [2.0, 3.0]
    assert (told["beats_natural"], told["beats_best_trained"], told["expected_regret"]) == (0.75, 0.5, 0.0125)
    assert told["nearest_trained"] == {"slot": 6, "total_variation": 0.25}
    assert told["weights"]["日本: 1"] == [0.5, 0.9]
    assert told["noise_of_seeds"] == {"mixture": 0.01, "seed": 0.2, "mixtures": 4, "seeds": 2}
    assert content["next_runs"] == [
        {"books": 1.0, "code [x]": 0.0, "日本: 1": 0.0},
        {"books": 0.0, "code [x]": 1.0, "日本: 1": 0.0},
    ]
    assert content["predicted"]["found"]["std"] == pytest.approx(0.1 / 1.28155, abs=1e-5)
    assert "as wide as doubt.interval" in content["predicted"]["unit"]
    assert content["predicted"]["uniform"]["allowed"] is False
    assert "allowed" not in content["predicted"]["found"]
    assert folder.stopped() == "enough"
    folder.write_summary(doubted)
    assert "not allowed" in folder.summary.read_text(encoding="utf-8").replace("&#160;", " ")


def test_nothing_is_said_of_what_is_not_known(folder: RunFolder, found: Recommendation, record: StudyRecord) -> None:
    assert folder.stopped() is None
    folder.write_mixture(found, record)
    content = read(folder.mixture)
    assert not {"notes", "stopped", "tokens", "target_tokens", "doubt", "next_runs", "pareto", "target_spec"} & set(content)
    assert folder.stopped() is None


def test_trade_offs(folder: RunFolder, trading: Recommendation, record: StudyRecord) -> None:
    folder.write_mixture(trading, record)
    content = read(folder.mixture)
    pareto = content["pareto"]
    assert pareto["balanced"] == 1
    assert [member["targets"] for member in pareto["members"]] == [{"books": 1.0, "code [x]": 3.0}, {"books": 2.0, "code [x]": 2.0}]
    assert pareto["members"][1]["weights"] == {"books": 0.5, "code [x]": 0.5, "日本: 1": 0.0}
    assert content["predicted"]["found"] == {"books": {"mean": 2.0, "std": 0.1}, "code [x]": {"mean": 2.0, "std": 0.1}}
    assert content["predicted"]["natural"]["code [x]"] == {"mean": 5.0, "std": 0.3}
    assert "doubt" not in content
    folder.write_mixture(dataclasses.replace(trading, names=("mine", "theirs")), record)
    content = read(folder.mixture)
    assert content["targets"]["theirs"] == {"target": "code [x]", "unit": "nats per token"}
    assert list(content["predicted"]["found"]) == list(content["pareto"]["members"][0]["std"]) == ["mine", "theirs"]


def test_a_late_proof_leaves_the_picture_of_the_answer(folder: RunFolder, doubted: Recommendation, found: Recommendation) -> None:
    rivals = tuple(
        Rival(name, found.natural.weights, np.zeros(2), 0.1, 0.0) for name in ("found", "natural", "uniform", "best trained")
    )
    verification = Verification(found.history.target, (1, 2), rivals)
    folder.write_summary(doubted)
    before = folder.summary.read_text(encoding="utf-8")
    folder.write_summary(found, verification)
    assert folder.summary.read_text(encoding="utf-8") == before
    assert "PASSED" in folder.proof.read_text(encoding="utf-8")
    folder.write_summary(doubted, verification)
    assert "PASSED" in folder.summary.read_text(encoding="utf-8")


def test_small_numbers_are_numbers_to_every_reader(folder: RunFolder, found: Recommendation, record: StudyRecord) -> None:
    """YAML 1.1, which PyYAML reads, takes 2e-06 for text."""
    weights = np.array([2e-6, 1 - 5e-6, 3e-6])
    folder.write_mixture(dataclasses.replace(found, found=dataclasses.replace(found.found, weights=weights, std=4e-6)), record)
    text = folder.mixture.read_text(encoding="utf-8")
    assert "books: 0.000002\n" in text
    rivals = tuple(
        Rival(name, weights, np.array([1e-5, 2e-5]), 4e-5, 2e-6) for name in ("found", "natural", "uniform", "best trained")
    )
    folder.write_verification(Verification(found.history.target, (1, 2), rivals), found)
    for file in (folder.mixture, folder.verification):
        assert not re.search(r"\d[eE][+-]?\d", re.sub(r"versions:.*", "", file.read_text(encoding="utf-8"), flags=re.S))
    assert read(folder.mixture)["weights"]["books"] == 2e-6
    assert read(folder.mixture)["predicted"]["found"]["std"] == 4e-6


def test_a_structured_target_is_kept_whole(folder: RunFolder, found: Recommendation, record: StudyRecord) -> None:
    spec = {"weights": {"books": 1.0}, "limits": {"code [x]": {"at_most": 3.0, "probability": 0.9}}}
    target = Target.parse(spec, found.history.target.loss_names)
    folder.write_mixture(dataclasses.replace(found, history=dataclasses.replace(found.history, target=target)), record)
    written = folder.read_mixture()
    again = Target.parse(written["target_spec"], target.loss_names)
    assert again.spec() == target.spec()


def test_written_weights_keep_the_constraints(folder: RunFolder, found: Recommendation, record: StudyRecord) -> None:
    """A third does not fit below a cap of a third when it is rounded up."""
    cap = Bound("mixture.caps.books", "books at most 1/3", np.eye(3)[0], high=1 / 3)
    space = dataclasses.replace(found.history.space, constraints=Constraints(bounds=(cap,)))
    history = dataclasses.replace(found.history, space=space)
    folder.write_mixture(dataclasses.replace(found, history=history), record)
    assert space.feasible(np.array([list(read(folder.mixture)["weights"].values())]), tolerance=1e-9)[0]


def test_the_trials(folder: RunFolder, found: Recommendation, record: StudyRecord) -> None:
    folder.write_trials(record)
    with folder.trials.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["complete", "fail", "running"]
    assert [row["slot"] for row in rows] == ["0", "1", "2"]
    np.testing.assert_array_equal(
        [[float(row[f"w/{name}"]) for name in found.history.space.domains] for row in rows], found.history.mixtures[:3]
    )
    first, failed, running = rows
    assert [float(first[f"loss/{name}"]) for name in found.history.space.domains] == found.history.losses[0].tolist()
    assert float(first["target"]) == pytest.approx(found.history.values[0])
    assert (first["bits_per_byte/books"], first["bits_per_byte/日本: 1"]) == ("0.5", "")
    assert (first["tokens"], first["seconds"], first["init_seed"], first["proposer"]) == ("1000", "1.5", "7", "initial design")
    assert failed["failure"] == 'diverged, "badly"\nin step 3'
    assert failed["target"] == failed["loss/books"] == running["target"] == ""
    assert "loss/another" not in first, "only the study's own losses have columns"


def test_the_configuration_runs_again(folder: RunFolder) -> None:
    config = RunConfig(name="mine", seed=4, target={"日本: 1": 1.0})
    folder.write_config(config)
    assert load_config(folder.config).config == config


def test_the_proof(folder: RunFolder, found: Recommendation) -> None:
    space = found.history.space
    rivals = tuple(
        Rival(name, space.natural, np.array([3.0 + i, 3.5 + i]), float(i), 0.05 * i)
        for i, name in enumerate(("found", "natural", "uniform", "best trained"))
    )
    verification = Verification(found.history.target, (11, 12), rivals)
    folder.write_verification(verification, found)
    content = read(folder.verification)
    assert content["verdict"] == verification.verdict
    assert content["verdict"].startswith("PASSED")
    assert content["seeds"] == [11, 12]
    assert list(content["mixtures"]) == ["found", "natural", "uniform", "best trained"]
    assert content["mixtures"]["natural"] == {
        "target": 4.25,
        "standard_error": 0.25,
        "found_is_better_by": 1.0,
        "standard_error_of_difference": 0.05,
        "values": [4.0, 4.5],
        "weights": {"books": 0.5, "code [x]": 0.3, "日本: 1": 0.2},
    }


@QUICK
@given(st.lists(st.floats(0, 1), min_size=2, max_size=200))
def test_rounded_weights_sum_to_one(raw: list[float]) -> None:
    """In decimals, as they are written; every one but the largest is the nearest."""
    raw[0] += 0.5
    total = math.fsum(raw)
    weights = {f"d{i}": value / total for i, value in enumerate(raw)}
    result = rounded(weights)
    assert sum(Decimal(str(value)) for value in result.values()) == 1
    assert all(-Decimal(str(value)).as_tuple().exponent <= DECIMALS or value < 1e-4 for value in result.values())  # type: ignore[operator]
    moved = [name for name in weights if result[name] != round(weights[name], DECIMALS)]
    assert len(moved) <= 1
    assert all(abs(result[name] - weights[name]) <= len(raw) * 10**-DECIMALS for name in weights)
    assert min(result.values()) >= 0


def test_files_are_replaced_whole(folder: RunFolder, found: Recommendation, record: StudyRecord) -> None:
    folder.write_mixture(found, record)
    folder.write_mixture(dataclasses.replace(found, simulated=7), record)
    assert read(folder.mixture)["simulated"] == 7
    assert [file.name for file in folder.path.iterdir()] == ["mixture.yaml"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"run folder .*file/run: Not a directory; choose another with --out"):
        RunFolder(tmp_path / "file" / "run").create()


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regmix_active.report.folder.os.access", lambda path, mode: False)
    with pytest.raises(ConfigError, match="not writable; choose another"):
        RunFolder(tmp_path).create()


def test_the_log_holds_the_packages_records_only(folder: RunFolder) -> None:
    package = logging.getLogger("regmix_active")
    level, handlers = package.level, list(package.handlers)
    for _ in range(2):
        with folder.logging():
            logging.getLogger("regmix_active.search.loop").info("round %d", 1)
            logging.getLogger("other").warning("not ours")
    logging.getLogger("regmix_active.search.loop").info("too late")
    lines = folder.log.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2, "appended"
    assert all(line.endswith("INFO    regmix_active.search.loop: round 1") for line in lines)
    assert (package.level, package.handlers) == (level, handlers)


def test_predictions_of_many_digits_are_rounded(folder: RunFolder, found: Recommendation, record: StudyRecord) -> None:
    third = dataclasses.replace(found.found, mean=1 / 3)
    folder.write_mixture(dataclasses.replace(found, found=third), record)
    assert read(folder.mixture)["predicted"]["found"]["mean"] == 0.333333

"""Runs of others: matched by name, checked one by one, and refused with a reason."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from regmix_active.errors import ConfigError, StudyError
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.study.imported import ImportedRun, Refusal, describe_refusals
from regmix_active.study.importing import fit_to, parse_renames, read_source, trial_runs
from regmix_active.study.meaning import Meaning
from regmix_active.study.record import StudyRecord
from regmix_active.study.storage import open_storage, open_study
from regmix_active.study.table import RunTable
from regmix_active.study.target import Target

OURS = Meaning(("books", "code", "web"), (0.5, 0.3, 0.2), ("books", "code", "web"), {"seed": 0})


def table(
    domains: Sequence[str], losses: Sequence[str], rows: Sequence[Sequence[float]], values: Sequence[Sequence[float]]
) -> RunTable:
    """Runs called 0, 1, ...; full names have the prefix of a file."""
    full = tuple(f"train_the_{name}" for name in domains), tuple(f"metric/{name}_val" for name in losses)
    names = tuple(map(str, range(len(rows))))
    return RunTable("theirs", tuple(domains), tuple(losses), np.array(rows), np.array(values), names, *full)


def write(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def olmix(tmp_path: Path) -> Path:
    """Two runs as Olmix writes them."""
    folder = tmp_path / "olmix"
    folder.mkdir()
    write(folder / "ratios.csv", ["run", "w_books", "w_code", "w_web"], [["a", 0.5, 0.25, 0.25], ["b", 0.1, 0.9, 0]])
    write(folder / "metrics.csv", ["run", "bpb_books", "bpb_code", "bpb_news"], [["a", 2.5, 3, 9], ["b", 3.5, 2, 9]])
    return folder


def foreign(
    path: Path,
    trials: Sequence[tuple[dict[str, float], object]],
    direction: Literal["minimize", "maximize"] = "minimize",
    name: str = "s",
) -> str:
    """Somebody's study: parameters, and losses as an attribute (a mapping) or as the value."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = f"sqlite:///{path}"
    study = optuna.create_study(study_name=name, storage=url, direction=direction, load_if_exists=True)
    for params, losses in trials:
        attributes = {"losses": losses} if isinstance(losses, dict) else {}
        value = losses if isinstance(losses, float) else 1.0
        distributions: dict[str, BaseDistribution] = dict.fromkeys(params, FloatDistribution(0, 2))
        study.add_trial(create_trial(value=value, params=params, distributions=distributions, user_attrs=attributes))
    study._storage._backend.engine.dispose()  # type: ignore[attr-defined]
    return url


def test_a_table_becomes_runs_in_the_order_of_our_domains() -> None:
    theirs = table(["web", "books", "code"], ["code", "web", "news"], [[0.2, 0.5, 0.3]], [[2.0, math.nan, 7.0]])
    intake = fit_to(theirs, OURS)
    (run,) = intake.runs
    np.testing.assert_array_equal(run.weights, [0.5, 0.3, 0.2])
    assert run.losses == {"code": 2.0}, "what is missing stays missing, what we do not score is left out"
    assert run.name == "0"
    assert intake.notes == (
        "losses that theirs lacks stay unknown: books",
        "losses that the study does not have are left out: news",
    )


@pytest.mark.parametrize("name", ["cc", "train_the_cc"])
def test_names_are_mapped_by_short_and_by_full_name(name: str) -> None:
    theirs = table(["books", "code", "cc"], ["cc"], [[0.5, 0.3, 0.2]], [[2.0]])
    (run,) = fit_to(theirs, OURS, {name: "web", "metric/cc_val": "web"}).runs
    assert run.weights.tolist() == [0.5, 0.3, 0.2]
    assert run.losses == {"web": 2.0}


def test_full_names_match_too() -> None:
    ours = Meaning(("train_the_books", "code"), (0.5, 0.5), ("metric/books_val",), {})
    (run,) = fit_to(table(["books", "code"], ["books"], [[0.4, 0.6]], [[2.0]]), ours).runs
    assert run.weights.tolist() == [0.4, 0.6]
    assert run.losses == {"metric/books_val": 2.0}


def test_each_run_is_refused_for_its_own_reason() -> None:
    rows: list[list[float]] = [
        [0.5, 0.3, 0.2, 0.0],
        [0.5, 0.3, 0.1, 0.1],
        [0.2, 0.2, 0.1, 0.5],
        [0.4, 0.3, 0.3, 0],
        [0.4, 0.3, 0.3, 0],
        [1, 0, 0, 0],
    ]
    values = [[2.0, 3.0], [2.0, 3.0], [2.0, 3.0], [512.0, 3.0], [-1.0, 3.0], [math.nan, 3.0]]
    intake = fit_to(table(["books", "code", "web", "git"], ["books", "git"], rows, values), OURS)
    assert [run.name for run in intake.runs] == ["0"]
    assert describe_refusals(intake.refused) == [
        "2 runs: spent 10–50 % on 'git', which the study does not have (1, 2)",
        "2 runs: a loss of -1–512 for 'books' is none in nats per token (0 to 100) (3, 4)",
        "1 run: has none of the study's losses (5)",
    ]


def test_long_lists_of_refusals_are_counted() -> None:
    lines = describe_refusals([Refusal(str(i), "spent {share} on 'x', which is gone", 0.034 + i / 100) for i in range(5)])
    assert lines == ["5 runs: spent 3.4–7.4 % on 'x', which is gone (0, 1, 2 and 2 more)"]


def test_a_domain_of_ours_that_is_missing_counts_as_zero_only_if_said_so() -> None:
    theirs = table(["books", "code", "cc"], ["books"], [[0.5, 0.5, 0.0]], [[2.0]])
    with pytest.raises(ConfigError, match=r"lacks the study's domain 'web' .*--map cc=web; .*--absent-is-zero"):
        fit_to(theirs, OURS)
    intake = fit_to(theirs, OURS, absent_is_zero=True)
    assert intake.runs[0].weights.tolist() == [0.5, 0.5, 0.0]
    assert "domains that theirs lacks count as weight 0: web" in intake.notes
    nothing = table(["x", "y"], ["books"], [[0.5, 0.5]], [[2.0]])
    with pytest.raises(ConfigError, match="lacks the study's domain 'books', 'code', 'web'"):
        fit_to(nothing, OURS, absent_is_zero=True)


@pytest.mark.parametrize(
    ("renames", "message"),
    [
        ({"cod": "code"}, "--map cod=code: theirs has no 'cod'; did you mean 'code'"),
        ({"code": "codee"}, "--map code=codee: the study has no 'codee'; did you mean 'code'"),
        ({"web": "qqq"}, "the study has no 'qqq'; it has: books, code, web"),
        ({"web": "books"}, "the domain 'books' of the study would be both 'train_the_books' and 'train_the_web'"),
    ],
)
def test_wrong_renames(renames: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fit_to(table(["books", "code", "web"], ["books"], [[0.5, 0.5, 0]], [[2.0]]), OURS, renames)


def test_no_shared_loss() -> None:
    with pytest.raises(ConfigError, match=r"has no loss of the study \(books, code, web\), only acc; .*--map acc=books"):
        fit_to(table(["books", "code", "web"], ["acc"], [[0.5, 0.5, 0]], [[2.0]]), OURS)


def test_renames_are_pairs() -> None:
    assert parse_renames(["a=b", "x=y=z"]) == {"a": "b", "x=y": "z"}
    for wrong in (["a"], ["=b"], ["a="], ["a=b", "a=c"]):
        with pytest.raises(ConfigError, match="--map"):
            parse_renames(wrong)


def test_the_same_run_is_known_after_other_programs_rounded_it() -> None:
    run = ImportedRun("a", np.array([0.1, 0.9]), {"x": 2.0, "y": math.nan})
    same = ImportedRun("b", np.array([0.1 + 1e-12, 0.9 - 1e-12]), {"x": 2.0 + 1e-12})
    assert run.key == same.key
    assert run.key != ImportedRun("a", np.array([0.1, 0.9]), {"x": 2.001}).key
    assert run.key != ImportedRun("a", np.array([0.11, 0.89]), {"x": 2.0}).key


def test_tables_are_read_and_marked(olmix: Path) -> None:
    source = read_source(str(olmix))
    assert source.label.startswith("olmix (sha256 ")
    pair = read_source(f"{olmix / 'ratios.csv'}:{olmix / 'metrics.csv'}")
    assert pair.label == source.label, "the mark is of the runs, not of how they were read"
    assert source.meaning is None
    intake = fit_to(source.table, OURS)
    assert [run.losses for run in intake.runs] == [{"books": 2.5, "code": 3.0}, {"books": 3.5, "code": 2.0}]
    with pytest.raises(ConfigError, match=r"--study s: .* is a table"):
        read_source(str(olmix), study="s")
    with pytest.raises(ConfigError, match="no such file or folder"):
        read_source(str(olmix / "absent"))


def test_somebodys_study(tmp_path: Path) -> None:
    weights = {"w/books": 0.5, "w/code": 0.5, "lr": 0.1}
    url = foreign(
        tmp_path / "o.db",
        [
            (weights, {"books": 2.5, "code": math.inf, "note": "text"}),
            ({**weights, "w/code": 1.2}, {"books": 2.0}),
            ({"w/books": 1.0}, {"books": 2.0}),
            (weights, {"books": math.nan}),
        ],
    )
    for given in (url, str(tmp_path / "o.db")):
        source = read_source(given)
        assert source.label == f"{url} s"
        assert source.table.runs == ("trial 0",)
        assert source.table.domains == ("books", "code")
        assert source.table.loss_names == ("books",)
        assert describe_refusals(source.refused) == [
            "1 run: weights sum to 1.7, not to 1 (trial 1)",
            "1 run: has no weight for every domain (trial 2)",
            "1 run: has no finite loss (trial 3)",
        ]


def test_a_plain_value_is_a_loss_called_value(tmp_path: Path) -> None:
    url = foreign(tmp_path / "o.db", [({"w/books": 0.25, "w/code": 0.75}, 2.5)])
    source = read_source(url)
    assert source.table.loss_names == ("value",)
    (run,) = fit_to(source.table, OURS, {"value": "web"}, absent_is_zero=True).runs
    assert run.losses == {"web": 2.5}
    assert run.weights.tolist() == [0.25, 0.75, 0.0]


def test_wrong_studies(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        read_source(f"sqlite:///{tmp_path / 'absent.db'}")
    assert not list(tmp_path.iterdir()), "looking makes no file"
    foreign(tmp_path / "up.db", [({"w/a": 0.5, "w/b": 0.5}, 1.0)], direction="maximize")
    with pytest.raises(StudyError, match="has the direction maximize; a mixture search minimises"):
        read_source(f"sqlite:///{tmp_path / 'up.db'}")
    foreign(tmp_path / "lr.db", [({"lr": 0.5}, 1.0)])
    with pytest.raises(StudyError, match=r"holds no mixtures: weights are parameters w/<domain> .*their parameters: lr"):
        read_source(f"sqlite:///{tmp_path / 'lr.db'}")
    foreign(tmp_path / "lr.db", [], name="t")
    with pytest.raises(ConfigError, match=r"which study\? it holds: s, t; name one with --study"):
        read_source(f"sqlite:///{tmp_path / 'lr.db'}")
    with pytest.raises(ConfigError, match=r"--study x: no such study in .* it holds: s, t"):
        read_source(f"sqlite:///{tmp_path / 'lr.db'}", study="x")
    with pytest.raises(ConfigError, match=r"--scale 1m: .* has no scales"):
        read_source(f"sqlite:///{tmp_path / 'lr.db'}", "1m", "s")


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A study of ours with one proxy, one failure and one imported run, in a run folder."""
    folder = tmp_path / "run"
    folder.mkdir()
    url = f"sqlite:///{folder / 'study.db'}"
    storage = open_storage(url)
    record = StudyRecord(open_study(storage, url, "mine", create=True))
    record.claim(OURS, {}, "mean")
    record.plan([ProxyRequest(slot, np.array([0.5, 0.3, 0.2]), 1, 2) for slot in range(2)], 0, 2, "initial design")
    record.finish(ProxyResult(0, {"books": 2.0, "code": 3.0, "web": 4.0}))
    record.finish(ProxyResult(1, {}, failure="broke"))
    record.add_imported([ImportedRun("far", np.array([1.0, 0.0, 0.0]), {"books": 1.5}, ("noted",))], "elsewhere")
    storage.engine.dispose()  # type: ignore[attr-defined]
    return folder


def test_a_study_of_ours_says_what_its_losses_mean(ours: Path) -> None:
    source = read_source(str(ours))
    assert source.meaning == OURS
    assert source.table.runs == ("far", "slot 0")
    np.testing.assert_array_equal(source.table.losses, [[1.5, math.nan, math.nan], [2.0, 3.0, 4.0]])


def test_imported_runs_are_learnt_from_once(ours: Path) -> None:
    url = f"sqlite:///{ours / 'study.db'}"
    storage = open_storage(url)
    record = StudyRecord(open_study(storage, url, "mine", create=False))
    assert [run.name for run in trial_runs(record)] == ["far", "slot 0"]
    assert [run.notes for run in trial_runs(record)] == [("noted",), ()]
    assert [run.name for run in trial_runs(record, imported=False)] == ["slot 0"]
    source = fit_to(read_source(str(ours)).table, OURS)
    assert record.add_imported(source.runs[:1], "again") == 0
    assert record.count(TrialState.COMPLETE) == 1, "imported runs are no proxies"
    history = record.history(Target.parse("mean", OURS.loss_names))
    assert history.slots.tolist() == [-1, 0]
    storage.engine.dispose()  # type: ignore[attr-defined]

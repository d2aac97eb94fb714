"""Finished runs from RegMix's, Olmix's and our own files: read as they are, refused with the place and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regmix_active.errors import ConfigError
from regmix_active.study.table import RunTable, read_runs, read_table, short_names

PUBLISHED = Path(__file__).parents[3] / "shared" / "tables" / "regmix"

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return file


REGMIX_MIXTURES = "index,train_the_pile_arxiv,train_the_pile_pile_cc\n1,0.25,0.753\n2,0.5,0.5\n3,1,0\n"
REGMIX_LOSSES = "index,metric/the_pile_arxiv_val_loss,metric/the_pile_pile_cc_val_loss\n3,1.5,3.5\n1,2.5,3.0\n2,2.0,3.25\n"


def test_regmix_pair(write: Write) -> None:
    table = read_runs(write("train_mixture_1m.csv", REGMIX_MIXTURES), write("train_pile_loss_1m.csv", REGMIX_LOSSES))
    assert table.name == "train 1m"
    assert table.domains == table.loss_names == ("arxiv", "pile_cc")
    assert table.domain_columns == ("train_the_pile_arxiv", "train_the_pile_pile_cc")
    assert table.runs == ("1", "2", "3")
    np.testing.assert_allclose(table.mixtures.sum(axis=1), 1, atol=1e-15)
    np.testing.assert_allclose(table.mixtures[0], [0.25 / 1.003, 0.753 / 1.003])
    np.testing.assert_array_equal(table.losses, [[2.5, 3.0], [2.0, 3.25], [1.5, 3.5]])
    assert table.loss("metric/the_pile_arxiv_val_loss") == table.loss("arxiv") == 0
    assert table.domain("train_the_pile_pile_cc") == table.domain("pile_cc") == 1


def test_regmix_folder_joins_the_splits_of_one_scale(write: Write) -> None:
    for split, scale, more in (("train", "1m", "4,0.5,0.5\n"), ("test", "1m", ""), ("test", "1B", "")):
        write(f"{split}_mixture_{scale}.csv", REGMIX_MIXTURES + more)
        folder = write(f"{split}_pile_loss_{scale}.csv", REGMIX_LOSSES + more).parent
    write("val_mixture_1m.csv", REGMIX_MIXTURES)  # without losses
    largest = read_table(folder)
    assert len(largest) == 7
    assert largest.name == f"{folder.name} 1m"
    assert largest.runs[0] == "train 1m 1"
    assert largest.runs[-1] == "test 1m 3"
    assert read_table(folder, "1b").runs == ("1", "2", "3")
    with pytest.raises(ConfigError, match="no runs of scale '60m'; scales here: 1b, 1m"):
        read_table(folder, "60m")
    write("train_code_loss_1m.csv", REGMIX_LOSSES)
    with pytest.raises(ConfigError, match=r"several losses for train_mixture_1m\.csv; name the two files"):
        read_table(folder)


def test_olmix_folder(write: Write) -> None:
    write(
        "swarm/ratios.csv", ",run,name,index,dclm:code,dclm:web,arxiv\n0,a1,x-1,0,0.2,0.3,0.5\n1,a2,x-2,1,1,0,0\n2,a3,x-3,2,0,0,1\n"
    )
    folder = write(
        "swarm/metrics.csv", "run,name,mmlu::olmes,gsm8k::olmes,status\na2,x-2,0.9,,ok\na1,x-1,inf,1.1,ok\na3,x-3,,,bad\n"
    ).parent
    table = read_table(folder)
    assert table.name == "swarm"
    assert table.domains == ("dclm:code", "dclm:web", "arxiv")
    assert table.loss_names == ("mmlu", "gsm8k")
    assert table.runs == ("a1", "a2")
    np.testing.assert_array_equal(table.losses, [[np.nan, 1.1], [0.9, np.nan]])
    assert any("status, without a number in any run" in note for note in table.notes)
    assert any("left out the runs without any loss: a3" in note for note in table.notes)


def test_run_goes_with_run_id_and_names_stay_text(write: Write) -> None:
    ratios = write("ratios.csv", "run_id,name,a,b\n001,one,0.5,0.5\n1,two,0.2,0.8\n")
    table = read_runs(ratios, write("metrics.csv", "Run,x_loss,y_loss\n1,2,3\n001,4,5\n"))
    assert table.runs == ("001", "1")
    np.testing.assert_array_equal(table.losses, [[4, 5], [2, 3]])


def test_unnamed_first_column_is_the_index_and_floats_are_integers(write: Write) -> None:
    mixtures = write("m.csv", ",a,b\n0,0.5,0.5\n1,0.2,0.8\n")
    table = read_runs(mixtures, write("l.csv", "index,x,y\n1.0,2,3\n0.0,4,5\n"))
    assert table.name == "m"
    np.testing.assert_array_equal(table.losses, [[4, 5], [2, 3]])


def test_own_trials(write: Write) -> None:
    text = (
        "slot,round,proposer,state,target,w/the_a,w/the_b,loss/the_a,loss/the_b,bits_per_byte/the_a\n"
        "0,0,initial design,complete,1,0.5,0.5,1,2,3\n1,0,initial design,fail,,0.5,0.5,,,\n2,1,greedy,complete,1,0.1,0.9,4,5,6\n"
    )
    file = write("mine/trials.csv", text)
    for source in (file, file.parent, str(file)):
        table = read_table(source)
        assert (table.name, table.domains, table.loss_names, table.runs) == (
            "mine",
            ("the_a", "the_b"),
            ("the_a", "the_b"),
            ("0", "2"),
        )
        np.testing.assert_array_equal(table.losses, [[1, 2], [4, 5]])
    with pytest.raises(ConfigError, match="holds no completed proxy; continue its search with `regmix-active run`"):
        read_table(write("none/trials.csv", text.replace("complete", "running")))
    with pytest.raises(ConfigError, match="has no scales to choose '1m' from"):
        read_table(file, "1m")


def test_pair_in_one_argument(write: Write) -> None:
    mixtures, losses = write("a:b/m.csv", REGMIX_MIXTURES), write("l.csv", REGMIX_LOSSES)
    assert len(read_table(f"{mixtures}:{losses}")) == 3


GOOD_M, GOOD_L = "run,a,b\n1,0.5,0.5\n2,0.3,0.7\n", "run,x,y\n1,1,2\n2,3,4\n"


@pytest.mark.parametrize(
    ("mixtures", "losses", "message"),
    [
        ("run,a,b\n1,0.5,0.5\n1,0.3,0.7\n", GOOD_L, r"m\.csv: 'run' 1 is there twice \(rows 1 and 2\); keep one"),
        (GOOD_M, "run,x,y\n1,1,2\n2,3,4\n2,3,5\n", r"l\.csv: 'run' 2 is there twice \(rows 2 and 3\)"),
        ("run,a,b\n1,0.5,0.4\n2,0.3,0.7\n", GOOD_L, r"m\.csv: run 1: the weights sum to 0\.9, not to 1; every domain"),
        ("run,a,b\n1,50,50\n2,30,70\n", GOOD_L, r"m\.csv: run 1: the weights sum to 100, .* percentages: divide by 100"),
        ("run,a,b\n1,0.5,0.5\n2,,1\n", GOOD_L, r"m\.csv: run 2: the weight 'a' is empty; weights are numbers >= 0"),
        ("run,a,b\n1,0.5,0.5\n2,1.2,-0.2\n", GOOD_L, r"m\.csv: run 2: the weight 'b' is -0\.2; weights are numbers >= 0"),
        ("run,a,b\n1,0.5,0.5\n2,much,0.5\n", GOOD_L, r"m\.csv: run 2: the weight 'a' is much"),
        ("run,a,b\n1,0.5,0.5\n2,nan,0.5\n", GOOD_L, r"m\.csv: run 2: the weight 'a' is nan"),
        ("run,a,b\n1,0.5,0.5\n,0.5,0.5\n", GOOD_L, r"m\.csv: row 2 has no 'run'; every run needs one"),
        ("run,a,a\n1,0.5,0.5\n", GOOD_L, r"m\.csv: two columns are named 'a'; rename or remove one"),
        ("run,a\n1,1\n", GOOD_L, r"m\.csv: needs two or more columns of weights, has a"),
        (
            "id,a,b\n1,0.5,0.5\n",
            GOOD_L,
            r"l\.csv: shares no id column with .*m\.csv; both need the same one of run, run_id, index, name",
        ),
        (
            "run,a,b\nr1,0.5,0.5\n",
            GOOD_L,
            r"l\.csv: no run of .*m\.csv is here; column 'run' there holds r1, column 'run' here 1, 2",
        ),
        (GOOD_M, "run,x\n1,\n2,n/a\n", r"l\.csv: no column of losses holds a number \(columns: x\)"),
        (GOOD_M, "run\n1\n", r"l\.csv: no column of losses holds a number \(columns: none\)"),
        (GOOD_M, "run,x\n", r"l\.csv: holds no runs, only column names"),
        (GOOD_M, "", r"l\.csv: cannot be read as CSV"),
        (GOOD_M, "run,x\n1,1\n2,2,3,4\n", r"l\.csv: cannot be read as CSV \(.*line 3"),
    ],
)
def test_wrong_files_are_named(mixtures: str, losses: str, message: str, write: Write) -> None:
    with pytest.raises(ConfigError, match=message):
        read_runs(write("m.csv", mixtures), write("l.csv", losses))


def test_absent_and_foreign_files(write: Write, tmp_path: Path) -> None:
    good = write("m.csv", GOOD_M)
    with pytest.raises(ConfigError, match=r"absent\.csv: no such file"):
        read_runs(good, tmp_path / "absent.csv")
    with pytest.raises(ConfigError, match=r"absent\.csv: no such file or folder; a table is"):
        read_table(f"{good}:{tmp_path / 'absent.csv'}")
    with pytest.raises(ConfigError, match="nowhere: no such file or folder"):
        read_table("nowhere")
    with pytest.raises(ConfigError, match=r"m\.csv: is not the trials\.csv of a run folder .* MIXTURES\.csv:LOSSES\.csv"):
        read_table(good)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty: holds no runs; expected ratios\.csv and metrics\.csv"):
        read_table(tmp_path / "empty")
    write("olmix/ratios.csv", GOOD_M)
    with pytest.raises(ConfigError, match=r"metrics\.csv: no such file"):
        read_table(tmp_path / "olmix")
    (tmp_path / "latin.csv").write_bytes("run,caf\xe9,b\n1,0.5,0.5\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.csv: is not UTF-8 text"):
        read_runs(tmp_path / "latin.csv", good)


def test_byte_order_mark_and_spaces(write: Write, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes("\ufeffrun, a, b\n1, 0.5, 0.5\n".encode())
    assert read_runs(tmp_path / "m.csv", write("l.csv", " run ,x\n 1,2\n")).domains == ("a", "b")


def table(**changes: object) -> RunTable:
    values: dict[str, object] = {
        "name": "t",
        "domains": ("a", "b"),
        "loss_names": ("x", "y"),
        "mixtures": np.array([[0.5, 0.5], [0.1, 0.9]]),
        "losses": np.array([[1.0, 2.0], [3.0, 4.0]]),
        "runs": ("r1", "r2"),
        "domain_columns": ("w_a", "w_b"),
        "loss_columns": ("x_loss", "y_loss"),
    }
    return RunTable(**{**values, **changes})  # type: ignore[arg-type]


def test_tables_match_by_full_name_in_any_order() -> None:
    other = table(
        name="o", domain_columns=("w_b", "w_a"), loss_columns=("z_loss", "x_loss"), domains=("b", "a"), loss_names=("z", "x")
    )
    aligned = other.aligned(table())
    assert aligned.domains == ("a", "b")
    np.testing.assert_array_equal(aligned.mixtures, [[0.5, 0.5], [0.9, 0.1]])
    np.testing.assert_array_equal(aligned.losses, [[2.0, np.nan], [4.0, np.nan]])
    assert "o lacks y_loss" in aligned.notes
    joined = RunTable.join([table(), other])
    assert joined.name == "t + o"
    assert joined.runs == ("t r1", "t r2", "o r1", "o r2")
    with pytest.raises(ConfigError, match="both called 't'"):
        RunTable.join([table(), table()])


def test_tables_that_do_not_match() -> None:
    with pytest.raises(ConfigError, match=r"t: the domain 'w_c' of o is missing .*a column of zeros"):
        table(name="o", domain_columns=("w_a", "w_c")).aligned(table(domain_columns=("w_a",)))
    with pytest.raises(ConfigError, match=r"o: shares no loss with t, which has x_loss, y_loss where this has p, q"):
        table(name="o", loss_columns=("p", "q")).aligned(table())


def test_subset_takes_indices_and_masks() -> None:
    assert table().subset([1]).runs == ("r2",)
    kept = table().subset(np.array([True, False]))
    np.testing.assert_array_equal(kept.losses, [[1.0, 2.0]])
    assert len(kept) == 1


def test_targets_take_short_and_full_names() -> None:
    np.testing.assert_array_equal(table().target("mean").weights, [0.5, 0.5])
    np.testing.assert_array_equal(table().target("y_loss").weights, [0, 1])
    np.testing.assert_array_equal(table().target({"x": 3, "y_loss": 1}).weights, [0.75, 0.25])
    with pytest.raises(ConfigError, match="'x' is weighed twice"):
        table().target({"x": 3, "x_loss": 1})
    with pytest.raises(ConfigError, match=r"t: unknown loss 'x_los' \(did you mean 'x_loss'\?\)"):
        table().target("x_los")
    with pytest.raises(ConfigError, match="t: unknown domain 'q'; there are: a, b"):
        table().domain("q")


@pytest.mark.parametrize(
    ("columns", "short"),
    [
        (["metric/the_pile_pile_cc_val_loss", "metric/the_pile_arxiv_val_loss"], ("pile_cc", "arxiv")),
        (["train_the_pile_pile_cc", "train_the_pile_pubmed"], ("pile_cc", "pubmed")),
        (["domain_1", "domain_2"], ("domain_1", "domain_2")),
        (["a_b", "a_b_c"], ("b", "b_c")),
        (["x_loss", "x_y_loss"], ("loss", "y_loss")),
        (["only_one_loss"], ("only_one_loss",)),
        (["loss/mean", "loss/code"], ("loss/mean", "code")),
        (["books", "code"], ("books", "code")),
        (["eval/a (BPB)", "eval/b (BPB)"], ("a", "b")),
    ],
)
def test_short_names(columns: list[str], short: tuple[str, ...]) -> None:
    assert short_names(columns) == short


@given(st.lists(st.text("ab1_/", min_size=1, max_size=8), min_size=1, max_size=6, unique=True))
def test_short_names_stay_different_and_never_empty(columns: list[str]) -> None:
    short = short_names(columns)
    assert len(set(short)) == len(columns)
    assert all(short)
    assert all(name in column for name, column in zip(short, columns, strict=True))


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="RegMix's published tables are not beside the checkout")
def test_published_tables() -> None:
    runs = read_table(PUBLISHED)
    assert (len(runs), len(runs.domains), len(runs.loss_names)) == (768, 17, 13)
    assert "pile_cc" in runs.loss_names
    assert not np.isnan(runs.losses).any()
    billion = read_table(PUBLISHED, "1B")
    assert len(billion) == 64
    assert billion.aligned(runs).loss_columns == runs.loss_columns

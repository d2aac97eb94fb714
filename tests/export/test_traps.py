"""What each trainer would get wrong in silence, or refuse: avoided, or said."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml  # type: ignore[import-untyped]
from hypothesis import example, given, settings
from hypothesis import strategies as st

from regmix_active.errors import ConfigError
from regmix_active.export import Handover, export, load_exporter
from regmix_active.export.base import dusty, repeated
from regmix_active.export.levanter import BLOCKS, block_size
from regmix_active.export.llm_foundry import escaped
from regmix_active.export.repetition import needed_repetition
from tests.export import parsers

GIVEN = Handover(
    "s",
    {"books": 0.5, "code": 0.3, "web": 0.2},
    tokens={"books": 1e9, "code": 2e8, "web": 9e10},
    lengths={"books": 9000, "code": 400, "web": 700},
    paths={"books": "/d/books.jsonl", "code": "/d/code.jsonl", "web": "/d/web.jsonl"},
    target_tokens=10**9,
    sequence_length=2048,
)


def test_epochs_stand_beside_the_weights() -> None:
    assert [GIVEN.epochs(name) for name in GIVEN.domains] == pytest.approx([0.5, 1.5, 2e9 / 9e11])
    files = {form: next(iter(export(form, GIVEN).values())) for form in parsers.PARSERS if form not in ("megatron", "json", "csv")}
    assert {form: "1.5 epochs" in text for form, text in files.items()} == dict.fromkeys(files, True)
    assert json.loads(export("json", GIVEN)["mixture.json"])["epochs"]["code"] == 1.5
    unknown = replace(GIVEN, target_tokens=None)
    assert all("epochs" not in export(form, unknown).popitem()[1] for form in ("regmix", "nanotron", "hf-interleave"))
    assert repeated(GIVEN) == []
    (line,) = repeated(replace(GIVEN, target_tokens=3 * 10**9))
    assert line.startswith("code would be repeated 4.5 times; beyond 4 epochs")


@pytest.mark.parametrize(
    ("weights", "paths", "message"),
    [
        ({"books": 0.5, "books2": 0.5}, {}, r"the files of 'books2' \(books2\*\) would also count as those of 'books' \(books\*\)"),
        ({"books": 1.0, "books2": 0.0}, {}, r"the files of 'books2' \(books2\*\) would also count"),
        ({"a*": 0.5, "b": 0.5}, {}, r"prefix 'a\*' of 'a\*' holds '\*'"),
        ({"a": 0.5, "b": 0.5}, {"a": "/d/x[1]"}, r"prefix '/d/x\[1\]' of 'a' holds '\['"),
        ({"valid": 0.5, "b": 0.5}, {}, r"validation data \(valid_valid\*\) would be trained on as 'valid' \(valid\*\); give both"),
        ({"a": 0.5, "b": 0.5}, {"a": ["/d/x", "/d/y"]}, "'a' has 2 paths, and RegMix's TinyLlama takes one"),
    ],
)
def test_regmix_prefixes(weights: dict[str, float], paths: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        export("regmix", Handover("s", weights, paths=paths))


def test_regmix_leaves_out_a_shorter_prefix() -> None:
    assert "books2: 1.0" in export("regmix", Handover("s", {"books": 0.0, "books2": 1.0}))["regmix.yaml"]


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ({"books": "/d/books-valid"}, r"validation data \(/d/books-valid\*\) would be trained on as 'books' \(/d/books\*\)"),
        ({"code": "/d/books_held_out"}, r"\(/d/books_held_out\*\) would be trained on as 'books'"),
        ({"code": "/d/books"}, r"\(/d/books\*\) would be trained on as 'books'"),
        ({"code": "/d/co"}, r"validation data \(/d/co\*\) would be scored together with 'code' \(/d/code\*\)"),
        ({"code": "/v/[x"}, r"the prefix '/v/\[x' of validation data holds '\['"),
    ],
)
def test_regmix_validation_is_not_trained_on(validation: dict[str, str], message: str) -> None:
    """Files of a prefix P are ``glob(P*)``, for training and for validation alike."""
    paths = {"books": "/d/books", "code": "/d/code"}
    with pytest.raises(ConfigError, match=message):
        export("regmix", Handover("s", {"books": 0.5, "code": 0.5}, paths=paths, validation_paths=validation))


def test_regmix_validation() -> None:
    given = Handover(
        "s", {"train_books": 0.5, "code": 0.5}, paths={"code": "/d/train_code"}, validation_paths={"code": "/d/held_out"}
    )
    config = yaml.safe_load(export("regmix", given, model_name="tinyllama_1_1b")["regmix.yaml"])
    assert config == {
        "train": {"train_books": 0.5, "/d/train_code": 0.5},
        "valid": {"/d/held_out": 1.0},
        "model_name": "tinyllama_1_1b",
    }, "names are made up for all domains or for none"
    invented = yaml.safe_load(export("regmix", replace(given, validation_paths={}))["regmix.yaml"])
    assert invented["valid"] == {"valid_books": 1.0, "/d/valid_code": 1.0}


@pytest.mark.parametrize("path", ["/d/my books", "/d/a\u00a0b", "--fp16", "/d/tab\u2003x"])
def test_megatron_splits_at_blanks(path: str) -> None:
    with pytest.raises(ConfigError, match="holds a blank or begins with '-'"):
        export("megatron", Handover("s", {"a": 1.0}, paths={"a": path}))


def test_megatron_files_are_prefixes_and_splits_have_data_of_their_own() -> None:
    given = Handover(
        "s",
        {"a": 0.75, "b": 0.25},
        paths={"a": "/d/a.bin", "b": "/d/b.idx"},
        validation_paths={"b": "/v/b"},
        test_paths={"a": "/t/$a;rm"},
    )
    files = export("megatron", given)
    assert files["data-args.txt"] == "0.75 /d/a\n0.25 /d/b\n"
    splits = json.loads(files["per-split.json"])
    assert splits == {"train": ["0.75", "/d/a", "0.25", "/d/b"], "valid": ["0.25", "/v/b"], "test": ["0.75", "/t/$a;rm"]}
    hostile = Handover("s", {"a": 1.0}, paths={"a": "/t/$(id);'x'"})
    assert export("megatron", hostile)["data-path.txt"] == """--data-path 1.0 '/t/$(id);'"'"'x'"'"''\n"""


def test_gpt_neox_splits_and_its_most_datasets() -> None:
    text = export("gpt-neox", GIVEN)["gpt-neox.yml"]
    assert "# GPT-NeoX stops without valid_data_paths and test_data_paths: add them" in text
    (note,) = load_exporter("gpt-neox").notes(GIVEN)
    assert note.startswith("GPT-NeoX stops without valid_data_paths and test_data_paths")
    (note,) = load_exporter("gpt-neox").notes(replace(GIVEN, validation_paths={"web": "/v/web"}))
    assert note.startswith("GPT-NeoX stops without test_data_paths: add them")
    assert "validation and test paths" in load_exporter("gpt-neox").needed()
    split = replace(GIVEN, validation_paths={"web": "/v/web.bin"}, test_paths={"code": "/t/c", "web": "/t/w"})
    text = export("gpt-neox", split)["gpt-neox.yml"]
    assert "stops without" not in text
    assert load_exporter("gpt-neox").notes(split) == []
    config = yaml.safe_load(text)
    assert config["valid_data_paths"] == ["/v/web"]
    assert dict(zip(config["test_data_paths"], config["test_data_weights"], strict=True)) == {"/t/c": 0.3, "/t/w": 0.2}
    many = {f"d{index}": 1 / 256 for index in range(256)}
    with pytest.raises(ConfigError, match="256 domains have a weight; GPT-NeoX blends at most 254"):
        export("gpt-neox", Handover("s", many, paths={name: name for name in many}))
    with pytest.raises(ConfigError, match="'web' has 2 paths of validation or test data"):
        export("gpt-neox", replace(GIVEN, validation_paths={"web": ["/v/1", "/v/2"]}))


def test_nanotron_of_old() -> None:
    config = yaml.safe_load(export("nanotron", GIVEN, layout="dictionary", seed=7)["nanotron.yaml"])
    data = config["data_stages"][0]["data"]
    assert data["seed"] == 7
    assert data["dataset"]["dataset_folder"] == {"/d/books.jsonl": 0.5, "/d/code.jsonl": 0.3, "/d/web.jsonl": 0.2}
    with pytest.raises(ConfigError, match="two domains have the same folder"):
        export("nanotron", replace(GIVEN, paths=dict.fromkeys(GIVEN.domains, "/d")), layout="dictionary")


shares = st.floats(1e-9, 1)
counts = st.integers(1, 10**13)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(shares, counts, counts)
@example(1.0, 10**9, 10**9)
@example(0.5, 3 * 10**9, 10**9)
@example(0.1, 3 * 10**12, 10**11)
def test_olmo_core_accepts_the_repetition_and_it_is_hardly_more(share: float, target: int, tokens: int) -> None:
    """``SourceMixtureDatasetConfig.build`` compares whole tokens; population and selection are as it computes them."""
    given = Handover("s", {"a": 1.0}, tokens={"a": tokens}, target_tokens=target)
    object.__setattr__(given, "weights", {"a": share})
    ratio = needed_repetition(given, "a")
    assert ratio >= 1
    assert int(tokens * ratio) >= int(target * share)
    assert ratio == 1 or ratio <= 1.01 * share * target / tokens + 0.0011
    assert int(tokens / 1.0099 * ratio) >= int(target * share), "a count may have been rounded up by almost a hundredth"


def test_olmo_core_paths_are_lists() -> None:
    given = replace(GIVEN, paths={"books": ["/d/a*.npy", "/d/b.npy"], "code": "c", "web": "w"})
    (books, code, _) = yaml.safe_load(export("olmo-core", given)["olmo-core.yaml"])["sources"]
    assert books["paths"] == ["/d/a*.npy", "/d/b.npy"]
    assert books["max_repetition_ratio"] == 1.0
    assert code["max_repetition_ratio"] == 1.516


def test_olmix_keys_are_no_names() -> None:
    with pytest.raises(ConfigError, match="a domain is called 'weight'"):
        export("olmix", Handover("s", {"weight": 1.0}, tokens={"weight": 1}, target_tokens=1))


@pytest.mark.parametrize("weighting", ["proportion", "repeat", "choose"])
def test_streams_are_weighted_in_three_ways(weighting: str) -> None:
    """``Stream.apply_weights`` derives the samples of an epoch from any of them; the data has whole rows of 2,048 tokens."""
    tokens = {"books": 2048e6, "code": 2048e5, "web": 2048e4}
    given = replace(GIVEN, tokens=tokens, target_tokens=2048 * 10**6)
    dataset = yaml.safe_load(export("llm-foundry", given, weighting=weighting)["llm-foundry.yaml"])["train_loader"]["dataset"]
    assert ("epoch_size" in dataset) == (weighting == "proportion"), "absolute weights must not come with a size"
    chosen = []
    for name, stream in dataset["streams"].items():
        assert set(stream) == {"local", "split", weighting}
        samples = tokens[name] / 2048
        value = stream[weighting]
        chosen.append(
            {"proportion": dataset.get("epoch_size", 0) * value, "repeat": int(value * samples), "choose": value}[weighting]
        )
    assert chosen == pytest.approx([500_000, 300_000, 200_000], abs=1)
    if weighting == "choose":
        assert sum(chosen) == 10**6


@settings(max_examples=80, derandomize=True, deadline=None)
@given(st.text(st.sampled_from("ab\\${}x:."), max_size=12))
def test_omegaconf_takes_paths_literally(path: str) -> None:
    text = export("llm-foundry", Handover("s", {"a": 1.0}, paths={"a": f"/{path}"}))
    assert list(parsers.llm_foundry(text)) == [f"/{path}"]


def test_streams_are_shuffled_and_what_is_missing_is_said() -> None:
    """Without ``shuffle`` an epoch is one stream after the other."""
    loader = yaml.safe_load(export("llm-foundry", GIVEN, num_workers=2)["llm-foundry.yaml"])["train_loader"]
    assert loader["dataset"]["shuffle"] is True
    assert loader["dataset"]["max_seq_len"] == 2048
    assert (loader["drop_last"], loader["num_workers"]) == (True, 2)
    assert load_exporter("llm-foundry").notes(GIVEN) == []
    unknown = replace(GIVEN, sequence_length=None)
    assert load_exporter("llm-foundry").notes(unknown) == ["add train_loader.dataset.max_seq_len, or give --sequence-length N"]
    assert "max_seq_len" not in yaml.safe_load(export("llm-foundry", unknown)["llm-foundry.yaml"])["train_loader"]["dataset"]


def test_streams_of_no_samples_are_left_out_and_named() -> None:
    given = replace(GIVEN, weights={"books": 0.7, "code": 0.3 - 1e-7, "web": 1e-7}, target_tokens=2048 * 100)
    streams = yaml.safe_load(export("llm-foundry", given, weighting="choose")["llm-foundry.yaml"])["train_loader"]["dataset"][
        "streams"
    ]
    assert {name: stream["choose"] for name, stream in streams.items()} == {"books": 70, "code": 30}
    (note,) = load_exporter("llm-foundry", {"weighting": "choose"}).notes(given)
    assert note == "web: less than a sample in the whole target run, left out"


def test_dust_is_named_and_can_be_dropped() -> None:
    given = replace(GIVEN, weights={"books": 0.6, "code": 0.4 - 5e-7, "web": 5e-7}, sequence_length=None)
    assert given.dust() == ("web",)
    (line,) = dusty(given)
    assert line.startswith("so small a share may come to nothing in the target run: web (5e-07); leave it out with --drop-below")
    assert dusty(GIVEN) == []
    few = replace(GIVEN, weights={"books": 0.6, "code": 0.399, "web": 0.001}, target_tokens=10**6, sequence_length=2048)
    assert few.dust() == ("web",), "1,000 tokens are less than a row"
    assert replace(few, target_tokens=10**7).dust() == ()
    dropped = given.without_below(1e-5)
    assert dropped.weights["web"] == 0
    assert math.fsum(dropped.weights.values()) == pytest.approx(1, abs=1e-15)
    assert dropped.weights["books"] / dropped.weights["code"] == pytest.approx(0.6 / (0.4 - 5e-7), rel=1e-12)
    assert dropped.notes[0].startswith("left out, below 1e-05: web, together 5e-07 of the tokens; the other shares were divided by")
    assert given.without_below(1e-7) is given
    with pytest.raises(ConfigError, match=r"no domain has a share of 0\.9; the largest is 0\.6"):
        given.without_below(0.9)


def test_four_epochs_with_a_rounding_are_four() -> None:
    """A limit of four epochs, and weights of six decimals."""
    four = Handover("s", {"a": 1.0}, tokens={"a": 10**9}, target_tokens=4_000_000_004)
    assert four.epochs("a") == 4.000000004
    assert repeated(four) == []
    assert len(repeated(replace(four, target_tokens=4_000_100_000))) == 1


def test_omegaconf_would_not() -> None:
    from omegaconf import OmegaConf
    from omegaconf.errors import InterpolationKeyError

    with pytest.raises(InterpolationKeyError):
        OmegaConf.to_container(OmegaConf.create({"path": "/d/${x}"}), resolve=True)
    assert escaped("/d/${x}\\${y}") == "/d/\\${x}\\\\\\${y}"


def test_streams_of_remote_data() -> None:
    text = export("llm-foundry", Handover("s", {"a": 1.0}, paths={"a": "s3://b/a"}), split="train_small")["llm-foundry.yaml"]
    assert yaml.safe_load(text)["train_loader"]["dataset"]["streams"]["a"] == {
        "remote": "s3://b/a",
        "split": "train_small",
        "proportion": 1.0,
    }


def test_levanter_blocks_round_little() -> None:
    """``MixtureDataset._compute_expected_counts_per_block`` cuts off; the largest dataset takes the rest."""
    assert block_size(GIVEN) == 2048
    small = Handover("s", {"a": 0.999, "b": 0.001}, paths={"a": "a.jsonl", "b": "b.jsonl"})
    size = block_size(small)
    assert size == 32_768
    assert int(0.001 * 2048) / 2048 == pytest.approx(0.00098, abs=1e-5), "which loses 2 % of b"
    assert int(0.001 * size) / size == pytest.approx(0.001, rel=0.03)
    assert load_exporter("levanter").notes(small) == []
    tiny = Handover("s", {"a": 1 - 1e-5, "b": 1e-5}, paths={"a": "a.jsonl", "b": "b.jsonl"})
    (note,) = load_exporter("levanter").notes(tiny)
    assert note.startswith("b has a share of 1e-05: with blocks of 32,768 Levanter never trains on it")
    assert max(BLOCKS) < 2**16


def test_levanter_sources_and_layouts() -> None:
    given = Handover(
        "s",
        {"a": 0.5, "b": 0.25, "c": 0.25},
        paths={"a": ["gs://x/1.jsonl.gz", "gs://x/{00..07}.jsonl"], "b": "allenai/c4:en", "c": "allenai/dolma"},
        validation_paths={"a": "gs://x/v.jsonl"},
    )
    data = yaml.safe_load(export("levanter", given)["levanter.yaml"])["data"]
    urls = {"type": "url", "train_urls": ["gs://x/1.jsonl.gz", "gs://x/{00..07}.jsonl"], "validation_urls": ["gs://x/v.jsonl"]}
    assert data["components"]["a"] == {"source": urls}
    assert data["components"]["b"] == {"source": {"type": "hf", "id": "allenai/c4", "name": "en"}}
    assert data["components"]["c"] == {"source": {"type": "hf", "id": "allenai/dolma"}}
    old = yaml.safe_load(export("levanter", given, layout="configs")["levanter.yaml"])["data"]
    assert old["configs"]["a"] == {key: urls[key] for key in ("train_urls", "validation_urls")}
    for path in ("/data/books", "data/books/all", "./books", "gs://x/books", "books/"):
        with pytest.raises(
            ConfigError, match=f"{path!r} of 'a' is no file of a known kind .* and no folder on this machine; name its"
        ):
            export("levanter", Handover("s", {"a": 1.0}, paths={"a": path}))
    for name in ("../x", "/x", "a/../../b"):
        with pytest.raises(ConfigError, match="would lie outside the cache's folder"):
            export("levanter", Handover("s", {name: 1.0}, paths={name: "a.jsonl"}))


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/d/a.jsonl", "/d/b*.jsonl"], ("jsonl", None, ("/d/a.jsonl", "/d/b*.jsonl"))),
        (["/d/a.jsonl.gz"], ("json", None, ("/d/a.jsonl.gz",))),
        (["/d/**/*.jsonl"], ("json", None, ("/d/**/*.jsonl",))),
        (["/d/a.json"], ("json", None, ("/d/a.json",))),
        (["/d/a.parquet"], ("parquet", None, ("/d/a.parquet",))),
        (["/d/a.txt", "/d/b.md"], ("text", None, ("/d/a.txt", "/d/b.md"))),
        (["allenai/c4:en"], ("allenai/c4", "en", ())),
        (["allenai/c4"], ("allenai/c4", None, ())),
    ],
)
def test_text_is_files_or_data_sets(paths: list[str], expected: tuple[Any, ...]) -> None:
    given = Handover("s", {"a": 1.0}, lengths={"a": 5}, paths={"a": paths})
    titan = export("torchtitan", given)["mixture.py"]
    parsers.torchtitan({"mixture.py": titan})
    assert parsers.executed_sources(titan) == [(1.0, *expected, "train", "text")]
    reader = "json" if expected[0] == "jsonl" else expected[0]
    hugging = export("hf-interleave", given)["mixture.py"]
    assert parsers.executed_sources(hugging) == [(1.0, reader, *expected[1:], "train", "text")]


def test_text_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in a folder says how it is read, below it, too; relative ones likewise."""
    monkeypatch.chdir(tmp_path)
    for name in ("texts/a.txt", "texts/deep/b.md.gz", "texts/.hidden.jsonl", "texts/notes.pdf", "lines/x/1.jsonl", "none/a.pdf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x", encoding="utf-8")
    for written in ("texts", "texts/", "./texts", str(tmp_path / "texts")):
        given = Handover("s", {"a": 1.0}, lengths={"a": 5}, paths={"a": written})
        globs = tuple(f"{written.rstrip('/')}/**/*{ending}" for ending in (".txt", ".md.gz"))
        for form in ("hf-interleave", "torchtitan"):
            ((_, reader, _, files, _, _),) = parsers.executed_sources(export(form, given)["mixture.py"])
            assert (reader, files) == ("text", globs)
        with pytest.raises(ConfigError, match=r"'a' has files that Levanter does not read .*write its documents to \.jsonl"):
            export("levanter", given)
    given = Handover("s", {"a": 1.0}, lengths={"a": 5}, paths={"a": "lines"})
    data = yaml.safe_load(export("levanter", given)["levanter.yaml"])["data"]
    assert data["components"]["a"]["source"] == {"type": "url", "train_urls": ["lines/**/*.jsonl"]}
    (tmp_path / "texts" / "more.jsonl").write_text("x", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"folder 'texts' of 'a' holds files of several kinds \(\.md\.gz, \.jsonl, \.txt|holds files of several"
    ):
        export("torchtitan", replace(given, paths={"a": "texts"}))
    with pytest.raises(ConfigError, match="the folder 'none' of 'a' holds no files of"):
        export("hf-interleave", replace(given, paths={"a": "none"}))


KEYED = replace(
    GIVEN,
    paths={"books": "/d/b.jsonl", "code": "org/code:py", "web": "/d/w.txt"},
    text_keys={"books": "content", "code": "code", "web": "content"},
    splits={"code": "validation", "books": "other"},
)


@pytest.mark.parametrize("form", ["hf-interleave", "torchtitan"])
def test_fields_and_splits_are_the_domains_own(form: str) -> None:
    """Files are one split, and plain text has one field; options win, for all domains or for one."""

    def ends(**options: Any) -> list[tuple[str, str]]:
        return [source[-2:] for source in parsers.executed_sources(export(form, KEYED, **options)["mixture.py"])]

    assert ends() == [("train", "content"), ("validation", "code"), ("train", "text")]
    assert ends(text_key="body", split="test") == [("train", "body"), ("test", "body"), ("train", "text")]
    assert ends(text_key={"code": "body"}) == [("train", "content"), ("validation", "body"), ("train", "text")]
    with pytest.raises(ConfigError, match="option 'text_key': there is no domain 'codes' with a weight"):
        ends(text_key={"codes": "body"})


def test_levanter_fields_and_splits() -> None:
    given = replace(KEYED, splits={}, paths={**KEYED.paths, "web": "/d/w.parquet"}, text_keys={"books": "content"})
    data = yaml.safe_load(export("levanter", given, text_key={"code": "body"})["levanter.yaml"])["data"]
    formats = {name: component.get("format") for name, component in data["components"].items()}
    assert formats == {
        "books": {"type": "text", "text_key": "content"},
        "code": {"type": "text", "text_key": "body"},
        "web": None,
    }
    old = yaml.safe_load(export("levanter", given, layout="configs")["levanter.yaml"])["data"]["configs"]
    assert old["books"] == {"train_urls": ["/d/b.jsonl"], "format": {"type": "text", "text_key": "content"}}
    with pytest.raises(ConfigError, match="'code' is the split 'validation' of org/code, and Levanter trains on"):
        export("levanter", replace(given, splits={"code": "validation"}))


def test_text_of_several_kinds() -> None:
    with pytest.raises(ConfigError, match="the paths of 'a' are of several kinds"):
        export("torchtitan", Handover("s", {"a": 1.0}, paths={"a": ["x.jsonl", "y.parquet"]}))


def test_probabilities_of_examples() -> None:
    """Half the tokens from documents ninety times as long are few documents."""
    drawn = GIVEN.in_unit("example")
    assert drawn == pytest.approx({"books": 0.0509, "code": 0.6873, "web": 0.2618}, abs=1e-4)
    tokens = np.array([drawn[name] * GIVEN.lengths[name] for name in GIVEN.domains])
    assert tokens / tokens.sum() == pytest.approx(GIVEN.shares, abs=1e-15)
    assert math.fsum(drawn.values()) == pytest.approx(1, abs=1e-15)
    assert GIVEN.in_unit("sequence") == GIVEN.in_unit("token") == GIVEN.weights

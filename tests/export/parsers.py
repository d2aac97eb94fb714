"""The formats read as their trainers read them, each from what its sources do.

With the trainer's own parser: LLM Foundry (OmegaConf), the Python of Hugging Face datasets; Megatron-LM's is in
``test_trainers_themselves.py``. The others parse YAML with PyYAML, as their trainers do, and normalise by a rewritten line or two.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf

Files = Mapping[str, str]
Shares = dict[str, float]


def normalised(pairs: Iterable[tuple[str, float]]) -> Shares:
    """Weights by path, divided by their sum; a weight that is no number, or a path that is there twice, is a fault."""
    listed = list(pairs)
    assert all(isinstance(path, str) and isinstance(weight, float) for path, weight in listed), listed
    assert len(dict(listed)) == len(listed)
    total = math.fsum(weight for _, weight in listed)
    return {path: weight / total for path, weight in listed}


def regmix(files: Files) -> Shares:
    config = yaml.safe_load(files["regmix.yaml"])
    assert all(weight == 1.0 for weight in config["valid"].values())  # the trainer deletes it without asking
    return normalised((key, float(value)) for key, value in config["train"].items())


def blend(words: list[str]) -> Shares:
    """``get_blend_from_list``: weights and prefixes alternate."""
    return normalised((words[i + 1].strip(), float(words[i])) for i in range(0, len(words), 2))


def megatron(files: Files) -> Shares:
    import shlex

    option, *words = shlex.split(files["data-path.txt"])
    assert option == "--data-path"
    splits = json.loads(files["per-split.json"])
    assert set(splits) == {"train", "valid", "test"}
    assert blend(words) == blend(files["data-args.txt"].split()) == blend(splits["train"])
    return blend(words)


def gpt_neox(files: Files) -> Shares:
    config = yaml.load(files["gpt-neox.yml"], Loader=yaml.FullLoader)
    return normalised(zip(config["train_data_paths"], config["train_data_weights"], strict=True))


def nanotron(files: Files) -> Shares:
    (stage,) = yaml.safe_load(files["nanotron.yaml"])["data_stages"]
    assert stage["start_training_step"] == 1
    dataset = stage["data"]["dataset"]
    return normalised(zip(dataset["dataset_folder"], dataset["dataset_weights"], strict=True))


def olmo_core(files: Files) -> Shares:
    """``SourceMixtureConfig.validate`` and ``SourceMixtureList.validate``; nothing is normalised."""
    sources = yaml.safe_load(files["olmo-core.yaml"])["sources"]
    for source in sources:
        assert set(source) == {"source_name", "target_ratio", "paths", "max_repetition_ratio"}
        assert 0 < source["target_ratio"] <= 1
        assert source["max_repetition_ratio"] >= 1
    ratios = {source["paths"][0]: source["target_ratio"] for source in sources}
    assert math.fsum(ratios.values()) == pytest.approx(1, rel=1e-5)
    return ratios


def olmix(files: Files) -> Shares:
    mix = yaml.safe_load(files["olmix.yaml"])["mix"]
    assert all(set(entry) == {"weight", "repetition_factor"} and entry["repetition_factor"] >= 1 for entry in mix.values())
    return {name: entry["weight"] for name, entry in mix.items()}


def llm_foundry(files: Files) -> Shares:
    config = OmegaConf.to_container(OmegaConf.create(files["llm-foundry.yaml"]), resolve=True)
    assert isinstance(config, dict)
    streams: dict[str, dict[str, Any]] = config["train_loader"]["dataset"]["streams"]
    return normalised((stream.get("local") or stream["remote"], stream["proportion"]) for stream in streams.values())


def executed(code: str) -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": "mixture"}
    exec(compile(code, "mixture.py", "exec"), space)
    return space


def executed_sources(code: str) -> list[tuple[Any, ...]]:
    """The list of sources of a Python file, whose imports need not be installed."""
    (listed,) = (node for node in ast.parse(code).body if isinstance(node, ast.Assign))
    return list(ast.literal_eval(listed.value))


class Stub:
    """Stands for a configuration class of torchtitan: takes its arguments and no others, and keeps them."""

    def __init__(self, **arguments: Any) -> None:
        name = type(self).__name__
        assert set(arguments) <= TORCHTITAN[name], f"{name} of torchtitan takes no {set(arguments) - TORCHTITAN[name]}"
        vars(self).update(arguments)


TORCHTITAN = {
    "ConcatThenSplitPackingConfig": {"dataset"},
    "DatasetMixConfig": {"datasets"},
    "GrainDataLoader": {"dataset", "seed", "shuffle", "repeat"},
    "HuggingFaceStreamingSource": {"path", "split", "name", "revision", "load_dataset_kwargs"},
    "IndexedJsonlSource": {"patterns"},
    "SingleDatasetConfig": {"source", "pre_filters", "processor", "post_filters"},
    "WeightedDataset": {"dataset", "weight"},
    "TextProcessor": {"text_fn"},
}
"""Fields of torchtitan's classes that are used or might be; its own are a few more."""

CONFIGURED_WITHIN = ("GrainDataLoader", "HuggingFaceStreamingSource", "IndexedJsonlSource", "TextProcessor")
"""Classes that have a class ``Config``, in most versions."""


def torchtitan(files: Files) -> Shares:
    data, text = ModuleType("torchtitan.components.data"), ModuleType("torchtitan.hf_datasets.text_datasets")
    for name in TORCHTITAN:
        stub = type(name, (Stub,), {})
        within = type(name, (), {"Config": stub}) if name in CONFIGURED_WITHIN else stub
        setattr(text if name == "TextProcessor" else data, name, within)
    stubs = {module.__name__: module for module in (data, text)}
    parents = {name: ModuleType(name) for name in ("torchtitan", "torchtitan.components", "torchtitan.hf_datasets")}
    with pytest.MonkeyPatch.context() as patch:
        for name, module in (parents | stubs).items():
            patch.setitem(sys.modules, name, module)
        loader = executed(files["mixture.py"])["dataloader"]()
    assert loader.repeat
    pairs = []
    for item in loader.dataset.datasets:
        assert math.isfinite(item.weight)
        assert item.weight > 0
        source = item.dataset.dataset.source
        kwargs = getattr(source, "load_dataset_kwargs", {})
        found = source.patterns if hasattr(source, "patterns") else kwargs.get("data_files") or [source.path]
        assert isinstance(kwargs.get("data_files", []), list)
        assert ("sample_by" in kwargs) == (getattr(source, "path", "") == "text"), "a reader refuses what it does not know"
        pairs.append((found[0], item.weight))
    return normalised(pairs)


def levanter(files: Files) -> Shares:
    """``LmDataConfig``: weights by component, normalised; then by the first URL of each."""
    data = yaml.safe_load(files["levanter.yaml"])["data"]
    assert data["stop_strategy"] == "restart"
    assert 0 < data["mixture_block_size"] < 2**16
    assert set(data["train_weights"]) == set(data["components"])
    weights = normalised(data["train_weights"].items())
    return {data["components"][name]["source"]["train_urls"][0]: weight for name, weight in weights.items()}


def hf_interleave(files: Files) -> Shares:
    sources = executed(files["mixture.py"])["SOURCES"]
    assert math.fsum(probability for probability, *_ in sources) == pytest.approx(1, abs=1e-12)
    return normalised((data_files[0], probability) for probability, _, _, data_files, *_ in sources)


def plain_json(files: Files) -> Shares:
    weights: Shares = json.loads(files["mixture.json"])["weights"]
    return weights


def plain_csv(files: Files) -> Shares:
    return {row["domain"]: float(row["weight"]) for row in csv.DictReader(io.StringIO(files["mixture.csv"], newline=""))}


PARSERS: dict[str, Callable[[Files], Shares]] = {
    "regmix": regmix,
    "megatron": megatron,
    "gpt-neox": gpt_neox,
    "nanotron": nanotron,
    "olmo-core": olmo_core,
    "olmix": olmix,
    "llm-foundry": llm_foundry,
    "torchtitan": torchtitan,
    "levanter": levanter,
    "hf-interleave": hf_interleave,
    "json": plain_json,
    "csv": plain_csv,
}

BY_NAME = ("olmix", "json", "csv")
"""Formats without paths: their shares are by domain."""

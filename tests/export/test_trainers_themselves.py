"""Trainers' own code: Megatron-LM's parser and blender, and Hugging Face's interleaving on real documents."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from regmix_active.corpus.tokenizer import CorpusTokenizer
from regmix_active.export import Handover, export
from tests.export import parsers

WEIGHTS = {"books": 0.45, "code": 0.3, "talk": 0.2, "rare": 0.05}

MEGATRON = """
import json, sys
import numpy as np
from megatron.core.datasets.helpers_cpp import build_blending_indices
from megatron.core.datasets.utils import get_blend_from_list, normalize

with open(sys.argv[1] + "/data-args.txt") as file:
    blend = get_blend_from_list(file.read().split())
with open(sys.argv[1] + "/per-split.json") as file:
    splits = json.load(file)
assert [get_blend_from_list(splits[split]) for split in ("train", "valid", "test")] == [blend, None, None]
paths, weights = blend
size = 200_000
dataset, sample = np.zeros(size, dtype=np.int16), np.zeros(size, dtype=np.int64)
build_blending_indices(dataset, sample, np.array(normalize(weights)), len(weights), size, False)
print(json.dumps({"paths": paths, "weights": weights, "drawn": np.bincount(dataset).tolist()}))
"""


@pytest.mark.skipif(find_spec("megatron") is None, reason="megatron-core is not installed (it has wheels for Linux only)")
def test_megatron_reads_and_blends(tmp_path: Path) -> None:
    paths = {name: f"/data/{name}" for name in WEIGHTS}
    for name, text in export("megatron", Handover("s", {**WEIGHTS, "none": 0.0}, paths=paths)).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    result = subprocess.run([sys.executable, "-c", MEGATRON, str(tmp_path)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    read = json.loads(result.stdout.splitlines()[-1])
    assert dict(zip(read["paths"], read["weights"], strict=True)) == {paths[name]: weight for name, weight in WEIGHTS.items()}
    assert np.array(read["drawn"]) / 200_000 == pytest.approx(list(WEIGHTS.values()), abs=1e-4)


def test_hugging_face_draws_the_tokens_of_the_mixture(tmp_path: Path) -> None:
    """Documents of very different lengths, counted in the tokens of a BPE; every source is drawn to its end several times."""
    rng = np.random.default_rng(5)
    words = np.array(["the", "old", "house", "stood", "while", "def", "return", "import", "hey", "yeah", "0x1f", "{", "}", ";"])
    typical = {"books": 60, "code": 40, "talk": 8, "rare": 3}
    texts = {
        name: [f"{name} " + " ".join(rng.choice(words, size=size)) for size in rng.geometric(1 / length, size=300)]
        for name, length in typical.items()
    }
    tokenizer = CorpusTokenizer.train([text for domain in texts.values() for text in domain], 300)
    counts = {text: len(tokenizer.encode([text])) for domain in texts.values() for text in domain}
    for name, documents in texts.items():
        lines = [json.dumps({"text": text, f"only in {name}": index}) + "\n" for index, text in enumerate(documents)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    lengths = {name: float(np.mean([counts[text] for text in documents])) for name, documents in texts.items()}
    assert max(lengths.values()) > 10 * min(lengths.values())

    given = Handover("s", WEIGHTS, lengths=lengths, paths={name: str(tmp_path / f"{name}.jsonl") for name in WEIGHTS})
    module = parsers.executed(export("hf-interleave", given)["mixture.py"])
    tokens = dict.fromkeys(WEIGHTS, 0)
    for example in islice(module["mixture"](seed=1), 40_000):
        tokens[example["text"].partition(" ")[0]] += counts[example["text"]]
    total = sum(tokens.values())
    for name, weight in WEIGHTS.items():
        assert tokens[name] / total == pytest.approx(weight, rel=0.02), name
    # The same weights taken for probabilities of examples would give books far more.
    naive = np.array([WEIGHTS[name] * lengths[name] for name in WEIGHTS])
    assert naive[0] / naive.sum() > WEIGHTS["books"] + 0.15


def test_a_file_of_plain_text_is_one_document(tmp_path: Path) -> None:
    """As the corpus reads it, and as its mean length counts it. Long files, some compressed, beside short lines of JSON."""
    rng = np.random.default_rng(6)
    folder = tmp_path / "books"
    folder.mkdir()
    sizes = rng.geometric(1 / 15, size=40) + 1
    for index, size in enumerate(sizes):
        text = "".join("a line of five words\n" for _ in range(size))
        if index % 4:
            (folder / f"{index}.txt").write_text(text, encoding="utf-8")
        else:
            (folder / f"{index}.txt.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "talk.jsonl").write_text('{"said": "three words here"}\n' * 30, encoding="utf-8")
    paths = {"books": str(folder), "talk": str(tmp_path / "talk.jsonl")}
    lengths = {"books": 5 * float(sizes.mean()), "talk": 3.0}
    given = Handover("s", {"books": 0.735, "talk": 0.265}, lengths=lengths, paths=paths, text_keys={"talk": "said"})
    module = parsers.executed(export("hf-interleave", given)["mixture.py"])
    words = {True: 0, False: 0}
    for example in islice(module["mixture"](seed=1), 12_000):
        words[example["text"].startswith("a line")] += len(example["text"].split())
    assert words[True] / sum(words.values()) == pytest.approx(0.735, rel=0.03)

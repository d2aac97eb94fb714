"""What several rooms' tests share: tiny text of three domains, and a configuration whose proxies train in a blink."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import numpy as np
import pytest

WORDS = {
    "books": "the old house stood silent under a grey sky while she read letter after letter by the fire",
    "code": "def return import class self for in range if else None True lambda yield assert with as",
    "talk": "hey yeah lol ok brb what no way sure thing see you later haha nice one cheers mate",
}


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three domains: two of jsonl, one of txt files."""
    folder = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(7)
    for name, words in WORDS.items():
        documents = [" ".join(rng.choice(words.split(), size=150)) for _ in range(30)]
        (folder / name).mkdir()
        if name == "talk":
            for i, text in enumerate(documents):
                (folder / name / f"{i:02}.txt").write_text(text, encoding="utf-8")
        else:
            lines = "".join(json.dumps({"text": text}) + "\n" for text in documents)
            (folder / name / "part.jsonl").write_text(lines, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny(texts: Path) -> Path:
    """A configuration for them."""
    file = texts.parent / "tiny.yaml"
    domains = "".join(f"    {name}: {{path: {texts / name}}}\n" for name in WORDS)
    head = textwrap.dedent("""\
        name: tiny
        proxy: {layers: 1, width: 16, heads: 2, ffn: 32, context: 16, batch_size: 4, tokens: 6400, validation_tokens: 512}
        search: {budget: 16, initial: 8, batch_size: 4, strategy_options: {candidates: 128}}
        recommend: {simulations: 2000}
        verify: {seeds: 2}
        execution: {workers: 2, stack: 2}
        corpus:
          tokenizer: {vocab_size: 300}
          domains:
        """)
    file.write_text(head + domains, encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache folder for all tests that build a corpus through the front door."""
    return tmp_path_factory.mktemp("cache")

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from regmix_active.corpus.tokenizer import END_OF_DOCUMENT, CorpusTokenizer, quiet_parallelism
from regmix_active.errors import CorpusError

TEXTS = ["the cat sat on the mat\n" * 20, "der Hund größer als die Katze\n" * 20]


def test_training_is_deterministic_and_lossless() -> None:
    tokenizer = CorpusTokenizer.train(TEXTS, 300)
    assert tokenizer.to_json() == CorpusTokenizer.train(TEXTS, 300).to_json()
    assert 257 < tokenizer.vocab_size <= 300
    text = "the größte cat \x00 漢字 \r\n"
    ids = tokenizer.encode([text, "x"])
    assert ids.count(tokenizer.end) == 2
    assert ids[-1] == tokenizer.end
    decoded = Tokenizer.from_str(tokenizer.to_json()).decode(ids, skip_special_tokens=True)
    assert decoded == text + "x"
    assert max(ids) < tokenizer.vocab_size


def test_the_end_token_inside_of_a_document_is_text() -> None:
    tokenizer = CorpusTokenizer.train(TEXTS, 300)
    assert tokenizer.encode([f"a {END_OF_DOCUMENT} b"]).count(tokenizer.end) == 1


def test_load_adds_an_end_or_takes_the_usual_one(tmp_path: Path) -> None:
    plain = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "c": 7}, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.enable_truncation(2)
    plain.enable_padding(length=5)
    path = tmp_path / "tokenizer.json"
    plain.save(str(path))
    loaded = CorpusTokenizer.load(path)
    assert loaded.vocab_size == 8, "ids may have gaps"
    assert loaded.encode(["aabbc"]) == [0, 0, 1, 1, 7, loaded.end], "neither cut nor padded"

    plain.add_special_tokens(["</s>"])
    plain.save(str(path))
    loaded = CorpusTokenizer.load(path)
    assert loaded.end == plain.token_to_id("</s>")


def test_load_errors(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"missing\.json: cannot be read .*corpus\.tokenizer\.file"):
        CorpusTokenizer.load(tmp_path / "missing.json")
    for content in (b"{}", b"nonsense", b"\xff\xfe"):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(CorpusError, match=r"bad\.json: is no tokenizer .*tokenizer\.json"):
            CorpusTokenizer.load(tmp_path / "bad.json")


def test_parallelism_is_set_inside_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    with quiet_parallelism():
        assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
    assert "TOKENIZERS_PARALLELISM" not in os.environ
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    with quiet_parallelism():
        assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"

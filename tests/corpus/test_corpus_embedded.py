from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from regmix_active.config.schema import CorpusConfig
from regmix_active.corpus import embedded
from regmix_active.corpus.build import build_store
from regmix_active.corpus.store import TokenStore
from regmix_active.errors import CorpusError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return build_store(CorpusConfig(), cache_dir=tmp_path_factory.mktemp("cache"))


def test_the_embedded_corpus_is_large_enough_to_search_on(store: TokenStore) -> None:
    assert store.manifest.source == "embedded"
    assert len(store.domains) >= 6
    assert set(store.domains) <= set(embedded.EMBEDDED_DOMAINS)
    assert {"python_code", "docstrings", "comments", "disassembly", "syntax_trees", "unicode_names"} <= set(store.domains)
    assert store.vocab_size == 1024
    for index, record in enumerate(store.manifest.domains):
        assert record.split == "document"
        assert record.train.tokens > 50_000
        assert record.validation.tokens > 5_000
        assert record.validation.documents >= 3
        assert 1 < store.validation_bytes_per_token(index) < 6
        assert record.train.bytes + record.validation.bytes < embedded.DOMAIN_BYTES + embedded.DOCUMENT_BYTES
    assert store.natural_shares.sum() == pytest.approx(1)


def test_the_same_text_whatever_the_hash_seed_and_nothing_imported(tmp_path: Path) -> None:
    code = (
        "import hashlib, json, sys; from regmix_active.corpus import embedded; embedded.DOMAIN_BYTES = 110_000;"
        "before = set(sys.modules); documents = embedded.embedded_documents();"
        "digest = hashlib.sha256(json.dumps(list(documents.items())).encode()).hexdigest();"
        "print(json.dumps([digest, sorted(set(sys.modules) - before)]))"
    )
    answers = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        run = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=tmp_path, check=True, capture_output=True, text=True
        )
        answers.append(json.loads(run.stdout))
    assert answers[0] == answers[1]
    imported = {name.partition(".")[0] for name in answers[0][1]}
    assert not imported & {"torch", "numpy", "scipy", "sklearn", "antigravity", "this", "pydoc_data"}


def test_a_module_is_shown_in_one_form_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    modules = []
    for number in range(40):
        path = tmp_path / f"module{number}.py"
        path.write_text(f"unique_name_{number}_ = 1\n")
        modules.append((path.name, path))
    monkeypatch.setattr(embedded, "_library_modules", lambda: modules)
    texts = embedded._library_texts()
    forms = ["python_code", "disassembly", "syntax_trees"]
    assert all(len(texts[form]) > 3 for form in forms)
    for number in range(40):
        assert sum(f"unique_name_{number}_" in text for form in forms for text in texts[form]) == 1


def test_a_bare_installation_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(embedded, "_library", lambda: tmp_path)
    monkeypatch.setattr(embedded, "_package_folder", lambda name: None)
    with pytest.raises(CorpusError, match=r"only \(unicode_names.*\), 6 are needed.*corpus\.domains") as caught:
        embedded.embedded_documents()
    assert str(tmp_path) in str(caught.value)


def test_optional_domains_may_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Iterator[str]:
        return iter(())

    def plenty(name: str) -> list[str]:
        return [hashlib.sha256(f"{name}{n}".encode()).hexdigest() * 100 for n in range(30)]

    monkeypatch.setattr(embedded, "_library_texts", lambda: {name: plenty(name) for name in embedded._LIBRARY_DOMAINS})
    others = dict.fromkeys(embedded._OTHER_DOMAINS, absent) | {"unicode_names": embedded._unicode_names}
    monkeypatch.setattr(embedded, "_OTHER_DOMAINS", others)
    assert set(embedded.embedded_documents()) == {*embedded._LIBRARY_DOMAINS, "unicode_names"}


def test_long_documents_are_cut_and_domains_capped() -> None:
    documents = ["", "  \n", "ä" * embedded.DOCUMENT_BYTES] + ["x" * 1000 for _ in range(5000)]
    kept = list(embedded._capped(documents))
    assert kept[0] == "ä" * (embedded.DOCUMENT_BYTES // 2)
    assert 0 <= sum(len(text.encode()) for text in kept) - embedded.DOMAIN_BYTES < embedded.DOCUMENT_BYTES


def test_repeated_paragraphs_are_left_out_and_long_texts_become_several_documents() -> None:
    long = "\n\n".join(f"paragraph {n}\nwith a line of its own, {n}" for n in range(2000))
    licence = "Permission is hereby granted\nto any person"
    documents = list(
        embedded._fresh_documents([licence, "New text\r\n\r\nPERMISSION is  hereby granted\nto any person", long, long])
    )
    assert documents[:2] == [licence, "New text"]
    assert "\n\n".join(documents[2:]).strip() == long
    assert all(len(document.encode()) <= embedded.DOCUMENT_BYTES for document in documents)
    assert len(documents) > 5

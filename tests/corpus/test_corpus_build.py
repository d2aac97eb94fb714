from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from regmix_active.config.schema import CorpusConfig
from regmix_active.corpus import build
from regmix_active.corpus.build import build_store, corpus_digest, default_cache_dir
from regmix_active.corpus.store import TOKENIZER, TokenStore
from regmix_active.errors import CorpusError

WORDS = {"fruit": ["apple", "pear", "plum", "cherry", "quince", "fig"], "tools": ["hammer", "saw", "file", "drill", "plane", "awl"]}


def document(kind: str, number: int, words: int = 60) -> str:
    generator = random.Random(f"{kind}/{number}")
    return f"{kind} {number}\n" + "\n".join(" ".join(generator.choices(WORDS[kind], k=6)) for _ in range(words // 6))


def write_domain(folder: Path, kind: str, count: int, words: int = 60) -> None:
    lines = [json.dumps({"text": document(kind, n, words)}) for n in range(count)]
    (folder / f"{kind}.jsonl").write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    write_domain(folder, "fruit", 60)
    write_domain(folder, "tools", 40)
    return folder


def config(**options: Any) -> CorpusConfig:
    domains = options.pop("domains", {"fruit": {"path": "fruit.jsonl"}, "tools": {"path": "tools.jsonl"}})
    return CorpusConfig.model_validate({"domains": domains, "tokenizer": {"vocab_size": 300}, **options})


def documents(store: TokenStore, domain: int, side: str) -> list[str]:
    """The text of a side, document by document (piece by piece)."""
    tokenizer = Tokenizer.from_file(str(store.path / TOKENIZER))
    ids = np.asarray(store.train(domain) if side == "train" else store.validation(domain))
    ends = np.flatnonzero(ids == store.manifest.end_of_document)
    assert ends[-1] == len(ids) - 1
    return [tokenizer.decode(part[:-1].tolist()) for part in np.split(ids, ends[:-1] + 1)]


def test_a_store_holds_every_document_once(base: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    store = build_store(config(validation_share=0.2), base_dir=base, cache_dir=tmp_path / "cache", progress=lines.append)
    assert store.domains == ("fruit", "tools")
    assert store.vocab_size == store.manifest.vocab_size <= 300
    for index, (kind, count) in enumerate({"fruit": 60, "tools": 40}.items()):
        train, validation = documents(store, index, "train"), documents(store, index, "validation")
        assert not set(train) & set(validation)
        assert sorted(train + validation) == sorted(document(kind, n) for n in range(count))
        record = store.manifest.domains[index]
        assert (record.train.documents, record.validation.documents) == (len(train), len(validation))
        assert record.validation.bytes == sum(len(text.encode()) for text in validation)
        assert record.train.tokens == len(store.train(index))
        assert store.validation_bytes_per_token(index) == record.validation.bytes / len(store.validation(index))
        assert 0.15 < record.validation.bytes / (record.train.bytes + record.validation.bytes) < 0.25
        assert record.split == "document"
        assert store.train(index).max() < store.vocab_size
    tokens = np.array([len(store.train(0)), len(store.train(1))])
    np.testing.assert_allclose(store.natural_shares, tokens / tokens.sum())
    assert any("training a tokenizer" in line for line in lines)
    store.verify()
    with pytest.raises(ValueError, match="read-only"):
        store.train(0)[0] = 1


def test_two_builds_are_equal_whatever_the_order_of_documents(base: Path, tmp_path: Path) -> None:
    first = build_store(config(), base_dir=base, cache_dir=tmp_path / "one")
    second = build_store(config(), base_dir=base, cache_dir=tmp_path / "two")
    assert first.path != second.path
    assert first.fingerprint == second.fingerprint
    lines = (base / "fruit.jsonl").read_text().split("\n")
    (base / "fruit.jsonl").write_text("\n".join(reversed(lines)))
    assert build_store(config(), base_dir=base, cache_dir=tmp_path / "one").fingerprint == first.fingerprint


def test_fingerprint_tells_data_apart(base: Path, tmp_path: Path) -> None:
    def fingerprint(**options: Any) -> str:
        return build_store(config(**options), base_dir=base, cache_dir=tmp_path / "cache").fingerprint

    fruit, tools = {"path": "fruit.jsonl"}, {"path": "tools.jsonl"}
    first = fingerprint()
    shares = {"fruit": {**fruit, "natural_share": 0.25}, "tools": {**tools, "natural_share": 0.75}}
    assert fingerprint(domains=shares) == first, "proxies see the same data"
    others = [
        fingerprint(domains={"tools": tools, "fruit": fruit}),
        fingerprint(domains={"fruits": fruit, "tools": tools}),
        fingerprint(tokenizer={"vocab_size": 301}),
        fingerprint(validation_share=0.3),
        fingerprint(max_document_bytes=256),
        fingerprint(domains={"fruit": {**fruit, "max_documents": 50}, "tools": tools}),
    ]
    assert len({first, *others}) == 7


def test_cache_hit_and_invalidation(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    original = build._build

    def counted(*args: Any) -> None:
        built.append(args)
        original(*args)

    monkeypatch.setattr(build, "_build", counted)

    def store() -> TokenStore:
        return build_store(config(), base_dir=base, cache_dir=tmp_path / "cache")

    first = store()
    assert store().path == first.path
    assert len(built) == 1
    with (base / "fruit.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"text": "a new fruit"}))
    second = store()
    assert second.path != first.path
    assert second.fingerprint != first.fingerprint
    assert len(built) == 2
    (base / "more.txt").write_text("unrelated")
    assert store().path == second.path
    (second.path / "0000-train.bin").write_bytes(b"damaged")
    assert store().fingerprint == second.fingerprint, "a damaged store is built again"
    assert len(built) == 3
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {first.path.name, second.path.name}


def test_pieces_of_a_document_stay_on_one_side(base: Path, tmp_path: Path) -> None:
    write_domain(base, "fruit", 30, words=600)
    store = build_store(config(max_document_bytes=256), base_dir=base, cache_dir=tmp_path / "cache")
    train, validation = documents(store, 0, "train"), documents(store, 0, "validation")
    assert all(len(piece.encode()) <= 256 for piece in train + validation)
    assert len(train) > 30 * 5
    joined = {"train": "".join(train), "validation": "".join(validation)}
    sides = [side for n in range(30) for side, text in joined.items() if document("fruit", n, 600) in text]
    assert len(sides) == 30
    assert {*sides} == {"train", "validation"}
    assert store.manifest.domains[0].train.documents + store.manifest.domains[0].validation.documents == 30


def test_few_documents_hold_out_their_tails(base: Path, tmp_path: Path) -> None:
    (base / "fruit.jsonl").unlink()
    texts = [document("fruit", n, 3000) for n in range(3)]
    for n, text in enumerate(texts):
        (base / f"fruit{n}.txt").write_text(text)
    domains = {"fruit": {"path": "fruit*.txt"}, "tools": {"path": "tools.jsonl"}}
    store = build_store(config(domains=domains), base_dir=base, cache_dir=tmp_path / "cache")
    record = store.manifest.domains[0]
    assert record.split == "tail"
    assert (record.train.documents, record.validation.documents) == (3, 3)
    train, validation = documents(store, 0, "train"), documents(store, 0, "validation")
    assert {head + tail for head, tail in zip(train, validation, strict=True)} == set(texts)
    assert 0.09 < record.validation.bytes / sum(len(text) for text in texts) < 0.11
    assert store.manifest.domains[1].split == "document"


def test_duplicates_never_leak(base: Path, tmp_path: Path) -> None:
    fruit = (base / "fruit.jsonl").read_text()
    (base / "fruit.jsonl").write_text(fruit + "\n" + fruit)
    (base / "tools.jsonl").write_text((base / "tools.jsonl").read_text() + "\n" + fruit)
    store = build_store(config(validation_share=0.25), base_dir=base, cache_dir=tmp_path / "cache")
    assert [record.duplicates for record in store.manifest.domains] == [60, 0]
    train = {text for domain in (0, 1) for text in documents(store, domain, "train")}
    validation = {text for domain in (0, 1) for text in documents(store, domain, "validation")}
    assert not train & validation
    assert len(train | validation) == 100


def test_skipped_lines_are_in_the_manifest(base: Path, tmp_path: Path) -> None:
    with (base / "tools.jsonl").open("ab") as file:
        file.write(b"\nbroken\n\xff\n")
    with pytest.raises(CorpusError, match=r"tools\.jsonl:41: broken JSON"):
        build_store(config(), base_dir=base, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    lines: list[str] = []
    store = build_store(config(on_bad_line="skip"), base_dir=base, cache_dir=tmp_path / "cache", progress=lines.append)
    assert [record.skipped for record in store.manifest.domains] == [0, 2]
    assert "tools.jsonl:41: broken JSON" in store.manifest.domains[1].first_skipped[0]
    assert any("tools: 2 broken lines skipped" in line for line in lines)


def test_natural_shares_of_the_configuration(base: Path, tmp_path: Path) -> None:
    domains = {"fruit": {"path": "fruit.jsonl", "natural_share": 0.2}, "tools": {"path": "tools.jsonl", "natural_share": 0.8004}}
    store = build_store(config(domains=domains), base_dir=base, cache_dir=tmp_path / "cache")
    np.testing.assert_allclose(store.natural_shares, np.array([0.2, 0.8004]) / 1.0004)


def test_odd_names_of_domains(base: Path, tmp_path: Path) -> None:
    names = ["..", "C++ \\ código:*?", "a" * 300, "漢字\n"[:-1]]
    domains = {name: {"path": "fruit.jsonl"} for name in names}
    store = build_store(config(domains=domains), base_dir=base, cache_dir=tmp_path / "cache")
    assert store.domains == tuple(names)
    assert len(list(store.path.iterdir())) == 2 * len(names) + 2


def test_too_little_text_names_the_domain(base: Path, tmp_path: Path) -> None:
    (base / "tools.jsonl").write_text('{"text": "a hammer"}\n')
    with pytest.raises(CorpusError) as caught:
        build_store(config(), base_dir=base, cache_dir=tmp_path / "cache")
    assert "domain 'tools': 7 bytes of training text" in str(caught.value)
    assert "add text to `corpus.domains.tools`" in str(caught.value)
    assert caught.value.exit_code == 2
    assert not list((tmp_path / "cache").iterdir())


def test_a_tokenizer_of_the_user(base: Path, tmp_path: Path) -> None:
    vocabulary = {character: n for n, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for size, token_bytes in ((65_536, 2), (65_537, 4)):
        padded = vocabulary | {f"<unused {n}>": n for n in range(256, size - 1)}
        tokenizer = Tokenizer(models.BPE(vocab=padded, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.save(str(base / "own.json"))
        store = build_store(config(tokenizer={"file": "own.json"}), base_dir=base, cache_dir=tmp_path / "cache")
        assert (store.vocab_size, store.manifest.token_bytes) == (size, token_bytes)
        assert store.train(0).dtype == np.dtype(f"<u{token_bytes}")
        assert store.manifest.end_of_document == size - 1
        record = store.manifest.domains[0].train
        assert record.tokens == record.bytes + record.documents, "one token per byte, one per end"
    with pytest.raises(CorpusError, match=r"other\.json: cannot be read"):
        build_store(config(tokenizer={"file": "other.json"}), base_dir=base, cache_dir=tmp_path / "cache")


def test_a_crash_leaves_nothing_half_built(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"

    def crash(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "_with_natural_shares", crash)
        with pytest.raises(KeyboardInterrupt):
            build_store(config(), base_dir=base, cache_dir=cache)
    assert not list(cache.iterdir())

    killed = cache / ".building-killed"
    (killed / "store").mkdir(parents=True)
    build_store(config(), base_dir=base, cache_dir=cache)
    assert killed.exists(), "a living build may own it"
    os.utime(killed, (0, 0))
    build_store(config(validation_share=0.2), base_dir=base, cache_dir=cache)
    assert not killed.exists()


def test_two_builds_at_once(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    barrier = threading.Barrier(2, timeout=30)
    original = build._put_in_place

    def together(built: Path, folder: Path) -> None:
        barrier.wait()
        original(built, folder)

    monkeypatch.setattr(build, "_put_in_place", together)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    stores: list[TokenStore] = []
    threads = [
        threading.Thread(target=lambda: stores.append(build_store(config(), base_dir=base, cache_dir=tmp_path / "cache")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores) == 2
    assert stores[0].path == stores[1].path
    stores[0].verify()
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_unwritable_cache(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CorpusError, match=r"cannot write the corpus cache .*REGMIX_ACTIVE_CACHE"):
        build_store(config(), base_dir=base, cache_dir=tmp_path / "file" / "cache")

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(build, "_with_natural_shares", full)
    with pytest.raises(CorpusError, match=r"cache: cannot write the corpus cache \(No space left"):
        build_store(config(), base_dir=base, cache_dir=tmp_path / "cache")


def test_cache_folder_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REGMIX_ACTIVE_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path / "corpora"
    monkeypatch.delenv("REGMIX_ACTIVE_CACHE")
    assert default_cache_dir().parts[-2:] == ("regmix-active", "corpora")


def test_digest_follows_the_sources(base: Path) -> None:
    first = corpus_digest(config(), base)
    assert corpus_digest(config(), base) == first
    os.utime(base / "fruit.jsonl", ns=(1, 1))
    assert corpus_digest(config(), base) != first


def damage(name: str, change: Callable[[Path], None]) -> Any:
    return pytest.param(name, change, id=name)


def set_format(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 0}))


def drop_key(path: Path) -> None:
    fields = json.loads(path.read_text())
    del fields["domains"][1]["train"]
    path.write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("change", "file", "reason"),
    [
        (shutil.rmtree, ".", "no token store here"),
        (lambda path: path.write_text("{"), "manifest.json", "damaged"),
        (lambda path: path.write_text("[]"), "manifest.json", "format None"),
        (set_format, "manifest.json", "format 0, this version reads 1"),
        (drop_key, "manifest.json", r"damaged \(`domains\.1\.train`"),
        (Path.unlink, "tokenizer.json", "missing"),
        (Path.unlink, "0001-validation.bin", "0 bytes instead of"),
        (lambda path: path.write_bytes(b"abc"), "0000-train.bin", "3 bytes instead of"),
    ],
)
def test_open_refuses_a_damaged_store(base: Path, tmp_path: Path, change: Callable[[Path], None], file: str, reason: str) -> None:
    store = build_store(config(), base_dir=base, cache_dir=tmp_path / "cache")
    change(store.path / file)
    with pytest.raises(CorpusError, match=f"{reason}.*delete .* and run again") as caught:
        TokenStore.open(store.path)
    assert str(store.path) in str(caught.value)


def test_verify_finds_changed_tokens(base: Path, tmp_path: Path) -> None:
    store = build_store(config(), base_dir=base, cache_dir=tmp_path / "cache")
    file = store.path / "0001-train.bin"
    file.write_bytes(file.read_bytes()[::-1])
    TokenStore.open(store.path)
    with pytest.raises(CorpusError, match=r"0001-train\.bin: changed since it was built"):
        store.verify()


def test_opening_needs_neither_torch_nor_datasets(base: Path, tmp_path: Path) -> None:
    store = build_store(config(), base_dir=base, cache_dir=tmp_path / "cache")
    code = (
        "import sys, pathlib; from regmix_active.corpus.store import TokenStore; import regmix_active.corpus.build;"
        "store = TokenStore.open(pathlib.Path(sys.argv[1])); store.train(0)[:4];"
        "sys.exit(bool({'torch', 'datasets', 'pandas'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code, str(store.path)], check=True)

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from regmix_active.config.schema import DomainConfig
from regmix_active.corpus.sources import OnBadLine, SkippedLines, domain_files, read_documents, source_identity
from regmix_active.errors import CorpusError


def read(base: Path, policy: OnBadLine = "error", **options: Any) -> list[str]:
    return list(read_documents("books", DomainConfig(**options), base, policy, SkippedLines()))


def failure(base: Path, policy: OnBadLine = "error", **options: Any) -> str:
    with pytest.raises(CorpusError) as caught:
        read(base, policy, **options)
    assert caught.value.exit_code == 2
    return str(caught.value)


def write_jsonl(path: Path, rows: list[object]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_reads_every_kind_of_file_in_a_fixed_order(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "b.jsonl", [{"text": "b1"}, {"text": "b2\nsecond line"}, {"text": "  "}])
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ndocument\n")
    (tmp_path / "sub").mkdir()
    with gzip.open(tmp_path / "sub" / "c.json.gz", "wt", encoding="utf-8") as file:
        file.write('{"text": "größer"}\n\n{"text": "c2", "id": 1}')
    with gzip.open(tmp_path / "sub" / "d.TXT.gz", "wb") as file:
        file.write(b"zipped")
    (tmp_path / "README.rst").write_text("not a document")
    (tmp_path / ".hidden.txt").write_text("not a document")
    expected = ["one\r\ndocument\n", "b1", "b2\nsecond line", "größer", "c2", "zipped"]
    assert read(tmp_path, path=".") == expected
    assert read(tmp_path, path="**/*.*") == expected
    assert read(tmp_path, path=("sub/*.gz", "a.txt", "sub", "b.jsonl")) == expected, "each file once, sorted"
    assert read(tmp_path / "sub", path="../b.jsonl") == ["b1", "b2\nsecond line"]
    assert read(Path("/"), path=str(tmp_path / "b.jsonl")) == ["b1", "b2\nsecond line"]
    assert read(tmp_path, path=".", max_documents=2) == expected[:2]


def test_reads_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    bodies = ["first\nrow", "zweite, Zeile", "third"]
    frame = Dataset.from_dict({"body": bodies, "n": [1, 2, 3]}).to_pandas()
    frame.to_parquet(tmp_path / "odd [1]*.parquet")
    frame.to_csv(tmp_path / "table.csv", index=False)
    frame.to_csv(tmp_path / "table.csv.gz", index=False)
    assert read(tmp_path, path="odd [1]*.parquet", text_key="body") == bodies
    assert read(tmp_path, path=("table.csv", "table.csv.gz"), text_key="body") == bodies * 2

    message = failure(tmp_path, path="odd [1]*.parquet")
    assert "odd [1]*.parquet: row 1: no field 'text', only 'body', 'n'" in message
    assert "`corpus.domains.books.text_key`" in message
    message = failure(tmp_path, path="odd [1]*.parquet", text_key="n")
    assert "row 1: field 'n' is no text but int" in message

    (tmp_path / "broken.parquet").write_bytes(b"nonsense")
    message = failure(tmp_path, path="broken.parquet")
    assert "broken.parquet: cannot be read" in message
    assert "`corpus.domains.books.path`" in message


def test_hub_failure_names_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load_dataset(*args: object, **options: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    message = failure(tmp_path, dataset="nobody/nothing")
    assert "dataset nobody/nothing: cannot be read (ConnectionError: no network)" in message
    assert "`corpus.domains.books.dataset`" in message


def test_hub_rows_are_streamed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, object] = {}

    def load_dataset(builder: str, **options: object) -> object:
        seen.update(options, dataset=builder)
        return ({"content": f"document {n}"} for n in range(10**9))

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    options: dict[str, Any] = {"dataset": "some/thing", "subset": "en", "split": "test", "text_key": "content", "max_documents": 3}
    assert read(tmp_path, **options) == ["document 0", "document 1", "document 2"]
    assert seen == {"dataset": "some/thing", "streaming": True, "name": "en", "split": "test"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "cut', "broken JSON"),
        (b'{"text": "caf\xe9"}', "not UTF-8 (byte 0xe9 at position 14)"),
        (b'["text"]', "not a JSON object but list"),
        (b'{"body": "x", "n": 1}', "no field 'text', only 'body', 'n'"),
        (b"{}", "no field 'text', only none"),
        (b'{"text": null}', "field 'text' is no text but NoneType"),
        (b'{"text": "\\ud800"}', "field 'text' holds half of a surrogate pair"),
        (b"[" * 100_000, "broken JSON"),
    ],
)
def test_a_broken_line_is_named_or_skipped(tmp_path: Path, line: bytes, reason: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "good"}\n' + line + b'\n{"text": "also good"}\n')
    message = failure(tmp_path, path="a.jsonl")
    assert f"{tmp_path / 'a.jsonl'}:2: {reason}" in message
    assert "`corpus.on_bad_line: skip`" in message

    skipped = SkippedLines()
    documents = list(read_documents("books", DomainConfig(path="a.jsonl"), tmp_path, "skip", skipped))
    assert documents == ["good", "also good"]
    assert skipped.count == 1
    assert f"a.jsonl:2: {reason}" in skipped.first[0]


def test_skipping_counts_all_and_keeps_the_first(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"broken\n" * 100 + b'{"text": "good"}\n')
    (tmp_path / "b.txt").write_bytes(b"good\nb\xffd\nfine\n")
    skipped = SkippedLines()
    documents = list(read_documents("books", DomainConfig(path="."), tmp_path, "skip", skipped))
    assert documents == ["good", "good\nfine\n"]
    assert skipped.count == 101
    assert [line.split(": ")[0] for line in skipped.first] == [f"{tmp_path / 'a.jsonl'}:{n}" for n in range(1, 6)]
    assert "b.txt:2: not UTF-8 (byte 0xff at position 2)" in failure(tmp_path, path="b.txt")


def test_a_domain_without_text_says_why(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"body": "x"}, {"body": "y"}])
    message = failure(tmp_path, "skip", path="a.jsonl")
    assert "domain 'books' has no text" in message
    assert "2 lines were skipped" in message
    assert "no field 'text', only 'body'" in message
    (tmp_path / "empty.txt").touch()
    assert "domain 'books' has no text" in failure(tmp_path, path="empty.txt")


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.rst").write_text("text")
    (tmp_path / "notes.rst").write_text("text")
    key = "`corpus.domains.books.path`"
    for path, reason in {
        "missing.jsonl": "missing.jsonl does not exist",
        "*.jsonl": "matches nothing",
        "folder": "matches only other files, such as notes.rst",
        "notes.rst": "is of no known kind; use one of .jsonl, .json, .txt, .md, .parquet, .csv",
    }.items():
        message = failure(tmp_path, path=path)
        assert reason in message
        assert key in message


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "missing")
    message = failure(tmp_path, path="dangling.txt")
    assert f"{tmp_path / 'dangling.txt'}: cannot be read (No such file or directory)" in message
    assert "`corpus.domains.books.path`" in message
    with pytest.raises(CorpusError, match=r"dangling\.txt: cannot be read"):
        source_identity("books", DomainConfig(path="dangling.txt"), tmp_path)
    (tmp_path / "plain.txt.gz").write_bytes(b"not zipped")
    assert "plain.txt.gz: cannot be read (Not a gzipped file" in failure(tmp_path, path="plain.txt.gz")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 1000)[:-12])
    assert "cut.jsonl.gz: cannot be read" in failure(tmp_path, path="cut.jsonl.gz")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_forbidden_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("secret")
    (tmp_path / "a.txt").chmod(0)
    assert "a.txt: cannot be read (Permission denied)" in failure(tmp_path, path="a.txt")


def test_glob_ignores_signs_in_the_base_folder(tmp_path: Path) -> None:
    base = tmp_path / "run [1]"
    base.mkdir()
    (base / "a.txt").write_text("text")
    assert domain_files("books", DomainConfig(path="*.txt"), base) == [base / "a.txt"]

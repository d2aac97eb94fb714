"""The first guess at the domains of a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from regmix_active.config.schema import CorpusConfig, RunConfig
from regmix_active.config.template import commented
from regmix_active.corpus.discover import discover_domains
from regmix_active.corpus.sources import SUFFIXES, OnBadLine, SkippedLines, read_documents
from regmix_active.errors import CorpusError


def fill(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_the_same_kinds_of_file_are_known_as_are_read() -> None:
    assert set(SUFFIXES) == set(SUFFIXES)


def test_folders_and_files(tmp_path: Path) -> None:
    fill(
        tmp_path,
        {
            "books/a.txt": "x",
            "books/deep/b.md": "x",
            "code.jsonl": json.dumps({"text": "x", "longer": "xxxx"}),
            "talk.txt": "x",
            "talk.de.txt": "x",
            "pictures/a.png": "x",
            "notes.pdf": "x",
            "empty/none": "",
            ".git/a.txt": "x",
            ".hidden.txt": "x",
        },
    )
    domains = discover_domains(tmp_path)
    assert list(domains) == ["books", "code", "talk.de", "talk"]
    assert domains["books"].path == str(tmp_path / "books")
    assert domains["talk.de"].path == str(tmp_path / "talk.de.txt")
    assert all(domain.text_key == "text" for domain in domains.values())
    assert CorpusConfig(domains=domains).domains == domains


def test_no_domain_is_lost_to_another_of_its_name(tmp_path: Path) -> None:
    fill(tmp_path, {"books/a.txt": "x", "books.txt": "y", "books.md": "z"})
    domains = discover_domains(tmp_path)
    assert sorted(str(domain.path) for domain in domains.values()) == sorted(
        str(tmp_path / n) for n in ("books", "books.txt", "books.md")
    )


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ('{"text": "a", "body": "a long one"}\n', "text"),
        ('{"id": "17", "content": "a long one", "n": 3}\n{"x": 1}\n', "content"),
        ('{"n": 3}\n', "text"),
        ("[1, 2]\n", "text"),
        ("not json\n", "text"),
        ("", "text"),
    ],
)
def test_the_field_that_holds_the_text(tmp_path: Path, content: str, key: str) -> None:
    fill(tmp_path, {"a/1.jsonl": content, "b.txt": "x"})
    assert discover_domains(tmp_path)["a"].text_key == key


def test_what_is_found_can_be_read(tmp_path: Path) -> None:
    fill(tmp_path, {"a/1.jsonl": '{"content": "hello world"}\n', "b.txt": "some text"})
    on_bad_line: OnBadLine = "error"
    texts = {
        name: list(read_documents(name, domain, tmp_path, on_bad_line, SkippedLines()))
        for name, domain in discover_domains(tmp_path).items()
    }
    assert texts == {"a": ["hello world"], "b": ["some text"]}
    assert "text_key: content" in commented(RunConfig(corpus=CorpusConfig(domains=discover_domains(tmp_path))), "T")


def test_a_relative_folder_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, {"t/a.txt": "x", "t/b.txt": "x"})
    monkeypatch.chdir(tmp_path)
    assert discover_domains(Path("t"))["a"].path == str(tmp_path / "t" / "a.txt")


def test_too_little_to_mix(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="missing: no such folder"):
        discover_domains(tmp_path / "missing")
    fill(tmp_path, {"a.txt": "x", "b.pdf": "x"})
    with pytest.raises(CorpusError, match=r"found 1 domains; a mixture needs two or more.*its own subfolder"):
        discover_domains(tmp_path)

"""A first guess at the domains of a folder of text."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec

from regmix_active.config.schema import DomainConfig
from regmix_active.corpus.sources import SUFFIXES
from regmix_active.errors import CorpusError


def discover_domains(folder: Path) -> dict[str, DomainConfig]:
    """One domain per subfolder that holds text, and one per text file at the top.

    Raises:
        CorpusError: If there is no such folder, or fewer than two domains in it.
    """
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder; name the folder that holds your text")
    root = folder.resolve()
    domains: dict[str, DomainConfig] = {}
    for entry in sorted(root.iterdir()):
        if entry.name.startswith("."):
            continue
        files = sorted(f for f in entry.rglob("*") if f.is_file() and _is_text(f)) if entry.is_dir() else [entry] * _is_text(entry)
        if files:
            name = entry.name if entry.is_dir() else Path(entry.name.removesuffix(".gz")).stem
            if name in domains:  # books/ beside books.txt
                name = entry.name
            key = _text_key(files[0])
            domains[name] = DomainConfig(path=str(entry)) if key == "text" else DomainConfig(path=str(entry), text_key=key)
    if len(domains) < 2:
        raise CorpusError(
            f"{folder}: found {len(domains)} domains; a mixture needs two or more. Put each domain into its own subfolder, "
            f"or its own file ({', '.join(SUFFIXES)}, also .gz)"
        )
    return domains


def _is_text(file: Path) -> bool:
    return file.name.lower().removesuffix(".gz").endswith(SUFFIXES)


def _text_key(file: Path) -> str:
    """The field that holds the text: `text` if there is one, else the longest string of the first line."""
    if not file.name.lower().removesuffix(".gz").endswith((".jsonl", ".json")):
        return "text"
    try:
        with fsspec.open(str(file), "rt", encoding="utf-8", compression="infer") as lines:
            first = json.loads(next(lines, "{}"))
    except (OSError, ValueError):
        return "text"
    strings = {key: len(value) for key, value in first.items() if isinstance(value, str)} if isinstance(first, dict) else {}
    return "text" if "text" in strings or not strings else max(strings, key=lambda key: strings[key])

"""Arguments of ``datasets.load_dataset`` from the paths of a domain: files, a folder, or a data set of the hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from regmix_active.errors import ConfigError

from .handover import Handover

BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text", ".md": "text"}
"""What `datasets.load_dataset` calls the reader of a file."""

COMPRESSED = (".gz", ".zst", ".bz2", ".xz")

ByDomain = str | dict[str, str] | None
"""An option for all domains, or by domain; None is what the run says, or else the default."""


@dataclass(frozen=True)
class DatasetArguments:
    """Where the documents of a domain are, and how they are read.

    Code that loads them must add ``sample_by="document"`` for the reader ``text``: a file of plain text is one document, as the
    corpus reads it; else each of its lines is one.

    Attributes:
        path: A reader (``json`` …) of files, or a data set of the hub.
        name: Configuration of the data set; None if it has one only.
        files: Files and globs; empty for data sets.
        split: Split of the data set.
        text_key: The field that holds the text.
    """

    path: str
    name: str | None
    files: tuple[str, ...]
    split: str
    text_key: str

    @classmethod
    def of(
        cls, handover: Handover, domain: str, exporter: str, *, text_key: ByDomain = None, split: ByDomain = None
    ) -> DatasetArguments:
        """Read the paths of a domain: files and globs of one kind, a folder, or ``DATASET`` or ``DATASET:SUBSET`` of the hub.

        A folder must be on this machine: what is in it says how it is read. It becomes a glob for each ending.

        Args:
            handover: The hand-over.
            domain: One of its domains.
            exporter: The format's name, for messages.
            text_key: An option of the format, which wins over what the run says.
            split: Likewise.

        Raises:
            ConfigError: If there are several paths that are not files of one kind, or a folder cannot be looked into.
        """
        keys = _chosen("text_key", text_key, handover, exporter)
        splits = _chosen("split", split, handover, exporter)
        key, part = (
            keys.get(domain, handover.text_keys.get(domain, "text")),
            splits.get(domain, handover.splits.get(domain, "train")),
        )
        paths: list[str] = []
        for path in handover.files(domain):
            paths += _opened(path, domain, exporter)
        kinds = {_builder(path) for path in paths}
        if kinds == {None} and len(paths) == 1:
            name, _, subset = paths[0].partition(":")
            return cls(name, subset or None, (), part, key)
        if None in kinds or len(kinds) != 1:
            raise ConfigError(
                f"--format {exporter}: the paths of {domain!r} are of several kinds ({', '.join(paths[:3])}); give files of one "
                "kind, one folder of them, or one data set of the hub"
            )
        (kind,) = kinds
        assert kind is not None
        # Files are one split, and plain text has one field, whatever they are called elsewhere.
        return cls(kind, None, tuple(paths), "train", "text" if kind == "text" else key)


def _chosen(option: str, value: ByDomain, handover: Handover, exporter: str) -> Mapping[str, str]:
    if isinstance(value, dict):
        if unknown := [name for name in value if name not in handover.domains]:
            raise ConfigError(
                f"--format {exporter}, option '{option}': there is no domain {unknown[0]!r} with a weight; "
                f"there are: {', '.join(handover.domains)}"
            )
        return value
    return {} if value is None else dict.fromkeys(handover.domains, value)


def _opened(path: str, domain: str, exporter: str) -> list[str]:
    """A path as it is, but of a folder the globs of its files."""
    if os.path.isdir(folder := os.path.expanduser(path)):
        return _globs(folder, domain, exporter)
    if _builder(path) is not None:
        return [path]
    # What cannot be the name of a data set is a folder elsewhere, or a file of no known kind.
    if "://" in path or path.startswith(("/", ".", "~")) or path.endswith("/") or path.partition(":")[0].count("/") > 1:
        raise ConfigError(
            f"--format {exporter}: {path!r} of {domain!r} is no file of a known kind ({', '.join(BUILDERS)}) and no folder on this "
            f"machine; name its files, such as {path.rstrip('/')}/**/*.jsonl"
        )
    return [path]


def _globs(folder: str, domain: str, exporter: str) -> list[str]:
    """Globs of the files below a folder, one for each ending; as the corpus, which reads those of known kinds."""
    endings: dict[str, str] = {}
    for file in sorted(Path(folder).rglob("*")):
        if file.name.startswith(".") or file.is_dir() or (builder := _builder(file.name)) is None:
            continue
        kind = next(suffix for suffix in file.suffixes[-2:] if suffix.lower() in BUILDERS)
        endings[kind + file.suffix * (file.suffix.lower() in COMPRESSED)] = builder
    if not endings:
        raise ConfigError(
            f"--format {exporter}: the folder {folder!r} of {domain!r} holds no files of {', '.join(BUILDERS)}; name another"
        )
    if len(set(endings.values())) > 1:
        raise ConfigError(
            f"--format {exporter}: the folder {folder!r} of {domain!r} holds files of several kinds ({', '.join(endings)}); give "
            f"those of one kind, such as {folder.rstrip('/')}/**/*{next(iter(endings))}"
        )
    return [f"{folder.rstrip('/')}/**/*{ending}" for ending in endings]


def _builder(path: str) -> str | None:
    path = path.lower()
    for ending in COMPRESSED:
        path = path.removesuffix(ending)
    return next((builder for suffix, builder in BUILDERS.items() if path.endswith(suffix)), None)

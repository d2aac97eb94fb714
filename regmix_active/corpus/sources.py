"""Documents of the user's own text: files, globs and folders, or a dataset of the Hugging Face hub.

Lines of ``.jsonl`` and ``.json`` and whole ``.txt`` and ``.md`` files are read here, so that an error can name file and line;
tables (``.parquet``, ``.csv``) and hub datasets are read by the ``datasets`` library, in streaming mode.
"""

from __future__ import annotations

import glob
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from regmix_active.config.schema import DomainConfig
from regmix_active.errors import CorpusError

LINES = (".jsonl", ".json")
TEXT = (".txt", ".md")
TABLES = {".parquet": "parquet", ".csv": "csv"}
SUFFIXES = (*LINES, *TEXT, *TABLES)
COMPRESSED = (".gz",)

_SKIPPED_EXAMPLES = 5
_KEYS_NAMED = 20
_SKIP_REMEDY = "or set `corpus.on_bad_line: skip` to leave such lines out"

OnBadLine = Literal["error", "skip"]


@dataclass
class SkippedLines:
    """Broken lines of one domain that were left out.

    Attributes:
        count: How many.
        first: File, line and reason of the first few.
    """

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, reason: str) -> None:
        """Count one."""
        self.count += 1
        if len(self.first) < _SKIPPED_EXAMPLES:
            self.first.append(reason)


def read_documents(name: str, domain: DomainConfig, base_dir: Path, on_bad_line: OnBadLine, skipped: SkippedLines) -> Iterator[str]:
    """Documents of one domain, in a fixed order, blank ones left out.

    Args:
        name: The domain's name, for messages.
        domain: Where its text is.
        base_dir: Folder that relative paths start from.
        on_bad_line: Stop at a broken line, or skip it.
        skipped: Takes the skipped lines.

    Raises:
        CorpusError: If a source is missing or unreadable, a line is broken (unless skipped), or there is no text at all.
    """
    reader = _Reader(name, domain, on_bad_line, skipped)
    documents = reader.hub() if domain.dataset is not None else reader.files(domain_files(name, domain, base_dir))
    found = 0
    for document in islice((text for text in documents if text.strip()), domain.max_documents):
        found += 1
        yield document
    if not found:
        seen = f"; {skipped.count} lines were skipped, the first: {skipped.first[0]}" if skipped.count else ""
        raise CorpusError(
            f"domain {name!r} has no text: `corpus.domains.{name}` ({domain.path or domain.dataset}) gave only blank documents or "
            f"none{seen}; add text there, or remove the domain"
        )


def source_identity(name: str, domain: DomainConfig, base_dir: Path) -> object:
    """What tells whether a domain's text has changed: path, size and time of change of its files.

    Raises:
        CorpusError: If a file is missing.
    """
    if domain.dataset is not None:
        return None
    return [[str(file.resolve()), *_status(name, file)] for file in domain_files(name, domain, base_dir)]


def _status(name: str, file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError as error:
        raise _unreadable(file, name, error) from error
    return status.st_size, status.st_mtime_ns


def domain_files(name: str, domain: DomainConfig, base_dir: Path) -> list[Path]:
    """Files of a domain: those named, those that the globs match, and those below the folders; sorted, each once.

    Raises:
        CorpusError: If a path or glob leads to no readable kind of file.
    """
    paths = (domain.path,) if isinstance(domain.path, str) else domain.path or ()
    files: set[Path] = set()
    for written in paths:
        path = base_dir / Path(written).expanduser()
        where = f"domain {name!r} (`corpus.domains.{name}.path`): {path}"
        if path.is_file() or (path.is_symlink() and not path.is_dir()):  # a dangling link fails when it is opened
            if _kind(path) is None:
                raise CorpusError(f"{where} is of no known kind; use one of {', '.join(SUFFIXES)} (also with .gz)")
            files.add(path)
            continue
        if path.is_dir():
            matches = sorted(path.rglob("*"))
        elif glob.has_magic(written):
            pattern = str(Path(written).expanduser())
            matches = sorted(base_dir / match for match in glob.glob(pattern, root_dir=base_dir, recursive=True))
        else:
            raise CorpusError(f"{where} does not exist; check its spelling (relative paths start from the configuration's folder)")
        matches = [match for match in matches if not match.is_dir() and not match.name.startswith(".")]
        known = [match for match in matches if _kind(match) is not None]
        if not known:
            found = f"only other files, such as {matches[0].name}" if matches else "nothing"
            raise CorpusError(f"{where} matches {found}; it needs files of {', '.join(SUFFIXES)} (also with .gz)")
        files.update(known)
    return sorted(files)


def _kind(path: Path) -> str | None:
    """The suffix that says how a file is read, compression left aside."""
    inner = Path(path.stem) if path.suffix.lower() in COMPRESSED else path
    suffix = inner.suffix.lower()
    return suffix if suffix in SUFFIXES else None


def _unreadable(file: Path, name: str, error: Exception) -> CorpusError:
    reason = getattr(error, "strerror", None) or error
    return CorpusError(f"{file}: cannot be read ({reason}); mend the file, or take it out of `corpus.domains.{name}.path`")


class _Reader:
    """Reads the sources of one domain."""

    def __init__(self, name: str, domain: DomainConfig, on_bad_line: OnBadLine, skipped: SkippedLines) -> None:
        self._name = name
        self._domain = domain
        self._on_bad_line = on_bad_line
        self._skipped = skipped

    def files(self, files: Iterable[Path]) -> Iterator[str]:
        for file in files:
            kind = _kind(file)
            if kind in LINES:
                yield from self._json_lines(file)
            elif kind in TEXT:
                yield "".join(text for _, text in self._lines(file))
            elif kind is not None:
                yield from self._rows(str(file), TABLES[kind], data_files=glob.escape(str(file.absolute())), split="train")

    def hub(self) -> Iterator[str]:
        domain = self._domain
        yield from self._rows(f"dataset {domain.dataset}", str(domain.dataset), name=domain.subset, split=domain.split)

    def _lines(self, file: Path) -> Iterator[tuple[int, str]]:
        """Line numbers (from 1) and lines of a text file that decode."""
        try:
            with gzip.open(file) if file.suffix.lower() in COMPRESSED else file.open("rb") as stream:
                for number, line in enumerate(stream, start=1):
                    try:
                        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                    except UnicodeDecodeError as error:
                        self._bad(f"{file}:{number}", f"not UTF-8 (byte {line[error.start]:#04x} at position {error.start + 1})")
                    else:
                        yield number, text
        except (OSError, EOFError, zlib.error) as error:
            raise _unreadable(file, self._name, error) from error

    def _json_lines(self, file: Path) -> Iterator[str]:
        for number, line in self._lines(file):
            if not line.strip():
                continue
            where = f"{file}:{number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                self._bad(where, f"broken JSON ({error})", "each line must be one whole JSON object: mend it")
                continue
            if not isinstance(row, dict):
                self._bad(where, f"not a JSON object but {type(row).__name__}", "each line must be one whole JSON object: mend it")
                continue
            yield from self._text(where, row)

    def _rows(self, source: str, builder: str, **options: Any) -> Iterator[str]:
        """Texts of a table or dataset."""
        import datasets

        try:
            rows = iter(datasets.load_dataset(builder, streaming=True, **options))
            number = 0
            while (row := next(rows, None)) is not None:
                number += 1
                yield from self._text(f"{source}: row {number}", row)
        except CorpusError:
            raise
        except Exception as error:  # whatever a format's reader, the network or the hub may raise
            key = "dataset" if self._domain.dataset is not None else "path"
            raise CorpusError(
                f"{source}: cannot be read ({type(error).__name__}: {error}); correct `corpus.domains.{self._name}.{key}`"
            ) from error

    def _text(self, where: str, row: dict[str, Any]) -> Iterator[str]:
        """The row's text, if it has one."""
        key = self._domain.text_key
        remedy = f"point `corpus.domains.{self._name}.text_key` to the field with the text"
        if key not in row:
            keys = ", ".join(map(repr, islice(row, _KEYS_NAMED))) or "none"
            self._bad(where, f"no field {key!r}, only {keys}", remedy)
            return
        text = row[key]
        if not isinstance(text, str):
            self._bad(where, f"field {key!r} is no text but {type(text).__name__}", remedy)
            return
        try:
            text.encode()
        except UnicodeEncodeError:
            self._bad(where, f"field {key!r} holds half of a surrogate pair, which is no UTF-8")
            return
        yield text

    def _bad(self, where: str, reason: str, remedy: str = "mend it") -> None:
        if self._on_bad_line == "error":
            raise CorpusError(f"{where}: {reason}; {remedy}, {_SKIP_REMEDY}")
        self._skipped.add(f"{where}: {reason}")

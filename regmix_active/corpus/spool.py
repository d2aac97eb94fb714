"""Documents of one domain on disk, between reading them and turning them into tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from regmix_active.corpus.split import Digest, document_digest


class DocumentSpool:
    """The distinct documents of one domain, written once and read in any order.

    Attributes:
        duplicates: Documents left out because the same text came before.
        bytes: Size of the documents kept.
    """

    def __init__(self, path: Path, documents: Iterable[str]) -> None:
        self._path = path
        self._spans: dict[Digest, tuple[int, int]] = {}
        self.duplicates = 0
        self.bytes = 0
        with path.open("wb") as file:
            for text in documents:
                digest = document_digest(text)
                if digest in self._spans:
                    self.duplicates += 1
                    continue
                size = file.write(text.encode())
                self._spans[digest] = (self.bytes, size)
                self.bytes += size

    def __len__(self) -> int:
        return len(self._spans)

    def sizes(self) -> list[tuple[Digest, int]]:
        """Digest and size (bytes) of every document."""
        return [(digest, size) for digest, (_, size) in self._spans.items()]

    def read(self) -> Iterator[tuple[Digest, str]]:
        """Documents in the order of their digests: a shuffle that is the same whatever order they were read in."""
        with self._path.open("rb") as file:
            for digest in sorted(self._spans):
                start, size = self._spans[digest]
                file.seek(start)
                yield digest, file.read(size).decode()

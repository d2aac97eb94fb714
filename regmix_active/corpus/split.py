"""Which text is held out for validation: a function of the documents' content, not of their order.

Documents are ranked by a hash of their content and taken into validation in that order until the wanted share of the
bytes is reached. A domain with few documents holds out the end of each document instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FEWEST_DOCUMENTS = 10
"""A domain with fewer documents is split inside of its documents."""

Digest = bytes
"""Hash of a document's content: equal documents have equal digests, and sorting by it is a fixed shuffle."""


def document_digest(text: str) -> Digest:
    """Hash of a document, blanks around it left out."""
    return hashlib.blake2b(text.strip().encode(), digest_size=16).digest()


@dataclass(frozen=True)
class Split:
    """The two sides of a corpus.

    A document that occurs in several domains is on the same side, or cut at the same place, in all of them.

    Attributes:
        validation: Documents held out as a whole.
        tails: Documents of which the end is held out.
        tail_domains: Domains with too few documents to hold out whole ones.
        share: Share of the bytes that is held out.
    """

    validation: frozenset[Digest]
    tails: frozenset[Digest]
    tail_domains: frozenset[str]
    share: float

    def sides(self, digest: Digest, text: str) -> tuple[str, str]:
        """Training text and validation text of one document; either may be empty."""
        if digest in self.tails:
            return cut_tail(text, self.share)
        return ("", text) if digest in self.validation else (text, "")


def split_documents(domains: Mapping[str, Sequence[tuple[Digest, int]]], share: float) -> Split:
    """Choose what is held out.

    Args:
        domains: Digest and size (bytes) of each domain's documents, in any order, without duplicates inside of a domain.
        share: Share of each domain's bytes that is wanted in validation.
    """
    validation: set[Digest] = set()
    tails: set[Digest] = set()
    tail_domains = set()
    for name, documents in domains.items():
        chosen = _hold_out(documents, share) if len(documents) >= FEWEST_DOCUMENTS else set()
        if chosen:
            validation |= chosen
        else:
            tail_domains.add(name)
            tails.update(digest for digest, _ in documents)
    return Split(frozenset(validation - tails), frozenset(tails), frozenset(tail_domains), share)


def _hold_out(documents: Sequence[tuple[Digest, int]], share: float) -> set[Digest]:
    """Documents in the order of their digests, each taken if that brings the bytes closer to the wanted share."""
    wanted = share * sum(size for _, size in documents)
    chosen, held = set(), 0
    for digest, size in sorted(documents):
        if held + size / 2 <= wanted:
            chosen.add(digest)
            held += size
    return chosen


def cut_tail(text: str, share: float) -> tuple[str, str]:
    """Cut a document into its beginning and its last ``share`` of bytes, at a line end if there is one near."""
    data = text.encode()
    cut = _boundary(data, 0, round(len(data) * (1 - share)))
    return data[:cut].decode(), data[cut:].decode()


def cut_pieces(text: str, most_bytes: int) -> list[str]:
    """Cut a document into pieces of at most ``most_bytes`` bytes, at line ends where possible, never inside a character.

    The pieces joined give the document again.
    """
    data = text.encode()
    pieces, start = [], 0
    while start < len(data):
        end = len(data) if len(data) - start <= most_bytes else _boundary(data, start, start + most_bytes)
        pieces.append(data[start:end].decode())
        start = end
    return pieces


def _boundary(data: bytes, start: int, end: int) -> int:
    """The last good place to cut ``data`` in the second half of ``start:end``: after a line end, else between characters."""
    newline = data.rfind(b"\n", start + (end - start) // 2, end)
    if newline >= 0:
        return newline + 1
    while 0 < end < len(data) and data[end] & 0xC0 == 0x80:
        end -= 1
    return end

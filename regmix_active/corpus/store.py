"""The token store: one memory-mapped array of token ids per domain and side, and a manifest that says what they are.

A folder ``manifest.json``, ``tokenizer.json`` and ``<index>-train.bin``, ``<index>-validation.bin`` per domain (little-endian
unsigned integers, 2 bytes each, or 4 where the vocabulary needs them). It is written once and never changed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from regmix_active.errors import CorpusError

FORMAT = 1
"""Version of the folder's layout; a store of another version is built again."""

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"

Side = Literal["train", "validation"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class SideRecord(_Record):
    """One side (training or validation) of a domain."""

    tokens: int
    """Token ids in the file, ends of documents included."""

    bytes: int
    """Bytes of UTF-8 text that the tokens stand for."""

    documents: int
    """Documents; of those split by their tails, each counts on both sides."""

    sha256: str
    """Hash of the file."""


class DomainRecord(_Record):
    """What the store holds of one domain."""

    name: str
    train: SideRecord
    validation: SideRecord
    split: Literal["document", "tail"]
    """`document`: whole documents are held out; `tail`: the end of each document, because there are few."""

    natural_share: float
    """Share in the mixture one would use today: the configuration's, or that of the training tokens (the target's, if given)."""

    target_tokens: int | None = None
    """Tokens of the target model's tokenizer in the training text, ends of documents included; None: the store's own tokens are."""

    duplicates: int
    """Documents left out because the same text came before in this domain."""

    skipped: int
    """Broken lines left out (`on_bad_line: skip`)."""

    first_skipped: tuple[str, ...]
    """File, line and reason of the first few of them."""


class Manifest(_Record):
    """What a store is, and from what it was built."""

    format: int
    python: str
    """Version of Python that built the store."""

    corpus: str
    """Digest of the configuration and the sources."""

    source: Literal["embedded", "configured"]
    """`embedded` for the corpus that comes with Python, `configured` for the user's own text."""

    vocab_size: int
    end_of_document: int
    """Token id after every document (every piece of a long one)."""

    token_bytes: Literal[2, 4]
    tokenizer: str
    """Hash of `tokenizer.json`."""

    domains: tuple[DomainRecord, ...]


def token_file(domain: int, side: Side) -> str:
    """Name of a domain's file; made of its index, because its name may hold anything."""
    return f"{domain:04d}-{side}.bin"


def convert_shares(
    weights: NDArray[np.float64], bytes_per_token: NDArray[np.float64], bytes_per_other_token: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Say a mixture in the tokens of another tokenizer, so that it means the same text.

    A share w of tokens is a share of bytes proportional to ``w x bytes per token``, and that a share of the other tokens
    proportional to ``w x bytes per token / bytes per other token``: where the other tokenizer cuts a domain finer, its share is
    larger.

    Args:
        weights: Shares of tokens, shape ``(..., d)``; rows sum to 1.
        bytes_per_token: Of every domain, shape ``(d,)``.
        bytes_per_other_token: Likewise, by the other tokenizer.

    Returns:
        Shares of the other tokens, shape ``(..., d)``; rows sum to 1.
    """
    shares = weights * (bytes_per_token / bytes_per_other_token)
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))


class TokenStore:
    """Tokens of all domains, memory-mapped and read-only.

    Opening reads the manifest only; the arrays are mapped when asked for. Every worker process opens its own.

    Attributes:
        path: Folder of the store.
        manifest: What it holds.
        domains: Names, in the order of every weight vector.
        vocab_size: Number of token ids.
        natural_shares: Mixture one would use today, shape ``(d,)``, sums to 1.
        fingerprint: Hash of tokens, tokenizer and domain names; equal exactly if a mixture would show proxies the same data.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.domains: tuple[str, ...] = tuple(record.name for record in manifest.domains)
        self.vocab_size = manifest.vocab_size
        shares = np.array([record.natural_share for record in manifest.domains], dtype=np.float64)
        self.natural_shares: NDArray[np.float64] = shares / shares.sum()
        self.fingerprint = _fingerprint(manifest)
        self._dtype = np.dtype(f"<u{manifest.token_bytes}")

    @classmethod
    def open(cls, path: Path) -> TokenStore:
        """Open a store.

        Raises:
            CorpusError: If the folder is missing, damaged, or of another format version.
        """
        remedy = f"delete {path} and run again to build it anew"
        try:
            text = (path / MANIFEST).read_text(encoding="utf-8")
            fields = json.loads(text)
        except OSError as error:
            raise CorpusError(f"{path / MANIFEST}: no token store here ({error.strerror}); {remedy}") from error
        except ValueError as error:
            raise CorpusError(f"{path / MANIFEST}: damaged ({error}); {remedy}") from error
        found = fields.get("format") if isinstance(fields, dict) else None
        if found != FORMAT:
            raise CorpusError(f"{path / MANIFEST}: format {found!r}, this version reads {FORMAT}; {remedy}")
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise CorpusError(f"{path / MANIFEST}: damaged (`{key}`: {first['msg']}); {remedy}") from error
        if not (path / TOKENIZER).is_file():
            raise CorpusError(f"{path / TOKENIZER}: missing; {remedy}")
        store = cls(path, manifest)
        for domain, record in enumerate(manifest.domains):
            store._check_size(domain, "train", record.train, remedy)
            store._check_size(domain, "validation", record.validation, remedy)
        return store

    def _check_size(self, domain: int, side: Side, record: SideRecord, remedy: str) -> None:
        file = self.path / token_file(domain, side)
        size = file.stat().st_size if file.is_file() else 0
        wanted = record.tokens * self._dtype.itemsize
        if size != wanted:
            raise CorpusError(f"{file}: {size} bytes instead of {wanted}; {remedy}")

    def verify(self) -> None:
        """Read every file and compare its hash with the manifest.

        Raises:
            CorpusError: If a file was changed after it was written.
        """
        wanted = {TOKENIZER: self.manifest.tokenizer}
        for domain, record in enumerate(self.manifest.domains):
            wanted[token_file(domain, "train")] = record.train.sha256
            wanted[token_file(domain, "validation")] = record.validation.sha256
        for name, sha256 in wanted.items():
            with (self.path / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    raise CorpusError(f"{self.path / name}: changed since it was built; delete {self.path} and run again")

    def train(self, domain: int) -> NDArray[np.unsignedinteger]:
        """Training tokens of a domain, shape ``(tokens,)``, read-only."""
        return self._map(domain, "train")

    def validation(self, domain: int) -> NDArray[np.unsignedinteger]:
        """Validation tokens of a domain, shape ``(tokens,)``, read-only."""
        return self._map(domain, "validation")

    def validation_bytes_per_token(self, domain: int) -> float:
        """Bytes of text per validation token, which turns nats per token into bits per byte."""
        side = self.manifest.domains[domain].validation
        return side.bytes / side.tokens

    @property
    def bytes_per_token(self) -> NDArray[np.float64]:
        """Bytes of training text per token of the store, shape ``(d,)``."""
        return np.array([record.train.bytes / record.train.tokens for record in self.manifest.domains])

    @property
    def bytes_per_weighed_token(self) -> NDArray[np.float64]:
        """Bytes of training text per token that a weight is a share of, shape ``(d,)``: the target model's, or the store's own."""
        return np.array([d.train.bytes / (d.target_tokens or d.train.tokens) for d in self.manifest.domains])

    def proxy_weights(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Shares of the store's tokens that a mixture means.

        Args:
            weights: Shares of the tokens of the target model's tokenizer, shape ``(..., d)``; rows sum to 1.

        Returns:
            What :func:`~regmix_active.proxy.blocks.plan_blocks` wants, shape ``(..., d)``: the same text in the store's tokens.
            Without ``corpus.tokenizer.proxy_vocab_size`` both are the same tokens, and the weights are returned as they are.
        """
        if all(record.target_tokens is None for record in self.manifest.domains):
            return weights
        return convert_shares(weights, self.bytes_per_weighed_token, self.bytes_per_token)

    def _map(self, domain: int, side: Side) -> NDArray[np.unsignedinteger]:
        return np.memmap(self.path / token_file(domain, side), dtype=self._dtype, mode="r")


def _fingerprint(manifest: Manifest) -> str:
    arrays = [(record.name, record.train.sha256, record.validation.sha256) for record in manifest.domains]
    seen: list[object] = [manifest.tokenizer, manifest.token_bytes, arrays]
    targets = [record.target_tokens for record in manifest.domains]
    if any(tokens is not None for tokens in targets):
        seen.append(targets)  # the same tokens, but a weight means another share of them
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()

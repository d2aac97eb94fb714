"""From a configuration to a token store: read, split, train the tokenizer, encode; kept in a cache.

The store is written into a temporary folder and renamed when it is whole, so a crash leaves nothing half-built and two
processes that build the same one at once do each other no harm.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import platformdirs
import tokenizers

from regmix_active.config.schema import CorpusConfig
from regmix_active.corpus.embedded import EMBEDDED_DOMAINS, embedded_documents, embedded_identity
from regmix_active.corpus.sources import SkippedLines, read_documents, source_identity
from regmix_active.corpus.split import Split, cut_pieces, split_documents
from regmix_active.corpus.spool import DocumentSpool
from regmix_active.corpus.store import (
    FORMAT,
    MANIFEST,
    TOKENIZER,
    DomainRecord,
    Manifest,
    Side,
    SideRecord,
    TokenStore,
    token_file,
)
from regmix_active.corpus.tokenizer import CorpusTokenizer, quiet_parallelism
from regmix_active.errors import CorpusError

CACHE_VARIABLE = "REGMIX_ACTIVE_CACHE"
"""Environment variable that names another cache folder."""

LEAST_TRAIN_BYTES = 2_000
"""A domain needs at least so much training text, bytes."""

TOKENIZER_BYTES = 4_000_000
"""Text that the tokenizer is trained on at least, bytes over all domains."""

TOKENIZER_BYTES_PER_TOKEN = 400
"""And for each token of a large vocabulary: rare merges of little text would be chance."""

_PIECE_BYTES = 20_000
_BATCH_BYTES = 2_000_000
_BUILDING = ".building-"
_STALE_SECONDS = 24 * 3600

Progress = Callable[[str], None]


def default_cache_dir() -> Path:
    """Folder of all stores: ``$REGMIX_ACTIVE_CACHE/corpora``, or the user's cache folder."""
    root = os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("regmix-active")
    return Path(root).expanduser() / "corpora"


def build_store(
    config: CorpusConfig,
    *,
    base_dir: Path = Path(),
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> TokenStore:
    """Open the token store of a configuration, building it if its text or settings are new.

    Hub datasets are taken as unchanged while their configuration is; files are known by path, size and time of change.

    Args:
        config: Domains, split and tokenizer.
        base_dir: Folder that relative paths of the configuration start from.
        cache_dir: Folder of all stores; by default :func:`default_cache_dir`.
        progress: Called with a line of text at each step.

    Raises:
        CorpusError: If text cannot be read or a domain has too little of it, or the cache folder cannot be written.
    """
    report = progress or _silent
    cache = cache_dir if cache_dir is not None else default_cache_dir()
    digest = corpus_digest(config, base_dir)
    folder = cache / digest[:32]
    if folder.exists():
        try:
            return TokenStore.open(folder)
        except CorpusError:
            report(f"the cached corpus {folder} is damaged; building it again")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_stale(cache)
        with tempfile.TemporaryDirectory(prefix=_BUILDING, dir=cache) as temporary:
            _build(config, base_dir, digest, Path(temporary), report)
            _put_in_place(Path(temporary) / "store", folder)
    except OSError as error:
        raise CorpusError(
            f"{error.filename or cache}: cannot write the corpus cache ({error.strerror or error}); make the folder writable "
            f"and large enough, or set {CACHE_VARIABLE} to one that is"
        ) from error
    return TokenStore.open(folder)


def corpus_digest(config: CorpusConfig, base_dir: Path = Path()) -> str:
    """Hash of everything that decides a store: the settings, and versions or files of what is read.

    Raises:
        CorpusError: If a file of the configuration is missing.
    """
    seen: dict[str, object] = {
        "format": FORMAT,
        "tokenizers": tokenizers.__version__,
        "config": config.model_dump(mode="json"),
        "order": list(config.domains or ()),
    }
    if config.domains is None:
        seen["embedded"] = embedded_identity()
    else:
        seen["sources"] = [source_identity(name, domain, base_dir) for name, domain in config.domains.items()]
    if config.tokenizer.file is not None:
        seen["tokenizer"] = CorpusTokenizer.load(base_dir / config.tokenizer.file).to_json()
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()


def _silent(_: str) -> None:
    """Report nothing."""


def _remove_stale(cache: Path) -> None:
    """Remove what killed builds left behind, once no living build can own it."""
    for left in sorted(cache.glob(f"{_BUILDING}*")):
        with contextlib.suppress(FileNotFoundError):  # its owner has just finished
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def _put_in_place(built: Path, folder: Path) -> None:
    """Rename a whole store to its place; another process's whole store stays, a damaged one makes room."""
    try:
        built.rename(folder)
        return
    except OSError:
        if not folder.is_dir():
            raise
    try:
        TokenStore.open(folder)
    except CorpusError:
        folder.rename(built.with_name("damaged"))
        built.rename(folder)


@dataclass
class _Pool:
    """A domain that has been read."""

    spool: DocumentSpool
    skipped: SkippedLines


def _build(config: CorpusConfig, base_dir: Path, digest: str, temporary: Path, report: Progress) -> None:
    folder = temporary / "store"
    folder.mkdir()
    pools = dict(_read_pools(config, base_dir, temporary, report))
    split = split_documents({name: pool.spool.sizes() for name, pool in pools.items()}, config.validation_share)
    with quiet_parallelism():
        tokenizer, target = _tokenizers(config, base_dir, pools, split, report)
        records = []
        for index, (name, pool) in enumerate(pools.items()):
            report(f"encoding {name}: {len(pool.spool):,} documents, {pool.spool.bytes:,} bytes")
            records.append(_write_domain(folder, index, name, pool, split, tokenizer, target, config.max_document_bytes))
    saved = tokenizer.to_json().encode()
    (folder / TOKENIZER).write_bytes(saved)
    manifest = Manifest(
        format=FORMAT,
        python=platform.python_version(),
        corpus=digest,
        source="embedded" if config.domains is None else "configured",
        vocab_size=tokenizer.vocab_size,
        end_of_document=tokenizer.end,
        token_bytes=_token_bytes(tokenizer),
        tokenizer=hashlib.sha256(saved).hexdigest(),
        domains=_with_natural_shares(records, config),
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _read_pools(config: CorpusConfig, base_dir: Path, temporary: Path, report: Progress) -> Iterator[tuple[str, _Pool]]:
    if config.domains is None:
        report("reading the embedded corpus")
        embedded = embedded_documents()
        absent = [name for name in EMBEDDED_DOMAINS if name not in embedded]
        if absent:
            report(f"this installation has no text for {', '.join(absent)}")
        for index, (name, documents) in enumerate(embedded.items()):
            yield name, _Pool(DocumentSpool(temporary / f"{index}.txt", documents), SkippedLines())
        return
    for index, (name, domain) in enumerate(config.domains.items()):
        report(f"reading {name}")
        skipped = SkippedLines()
        texts = read_documents(name, domain, base_dir, config.on_bad_line, skipped)
        yield name, _Pool(DocumentSpool(temporary / f"{index}.txt", texts), skipped)
        if skipped.count:
            report(f"{name}: {skipped.count:,} broken lines skipped, the first: {skipped.first[0]}")


def _tokenizers(
    config: CorpusConfig, base_dir: Path, pools: Mapping[str, _Pool], split: Split, report: Progress
) -> tuple[CorpusTokenizer, CorpusTokenizer | None]:
    """The tokenizer of the proxies, and that of the target model, whose tokens weights are shares of, if it is another."""
    settings, target = config.tokenizer, None
    if settings.file is not None:
        target = CorpusTokenizer.load(base_dir / settings.file)
        if settings.proxy_vocab_size is None:
            return target, None
    wanted = settings.proxy_vocab_size or settings.vocab_size
    report(f"training a tokenizer of {wanted:,} tokens")
    most = max(TOKENIZER_BYTES, TOKENIZER_BYTES_PER_TOKEN * wanted)
    tokenizer = CorpusTokenizer.train(_tokenizer_texts(pools, split, most), wanted)
    if tokenizer.vocab_size < wanted:
        report(f"the text gives only {tokenizer.vocab_size:,} of the {wanted:,} tokens that were asked for")
    return tokenizer, target


def _tokenizer_texts(pools: Mapping[str, _Pool], split: Split, most_bytes: int) -> Iterator[str]:
    """Training text of all domains, the same number of bytes of each as far as it goes."""
    share = most_bytes // len(pools)
    for pool in pools.values():
        left = share
        for digest, text in pool.spool.read():
            train, _ = split.sides(digest, text)
            for piece in cut_pieces(train, _PIECE_BYTES):
                if left <= 0:
                    break
                yield piece
                left -= len(piece.encode())
            if left <= 0:
                break


def _token_bytes(tokenizer: CorpusTokenizer) -> Literal[2, 4]:
    return 2 if tokenizer.vocab_size <= 65_536 else 4


class _TokenWriter:
    """Encodes documents in batches and appends them to one file, hashing as it goes; with a target tokenizer, counts its tokens."""

    def __init__(self, path: Path, tokenizer: CorpusTokenizer, target: CorpusTokenizer | None, most_bytes: int) -> None:
        self._file = path.open("wb")
        self._tokenizer, self._target = tokenizer, target
        self.target_tokens = 0
        self._most_bytes = most_bytes
        self._dtype = np.dtype(f"<u{_token_bytes(tokenizer)}")
        self._hash = hashlib.sha256()
        self._batch: list[str] = []
        self._batch_bytes = 0
        self._tokens = self._bytes = self._documents = 0

    def add(self, text: str) -> None:
        if not text:
            return
        self._documents += 1
        self._batch += cut_pieces(text, self._most_bytes)
        self._batch_bytes += len(text.encode())
        if self._batch_bytes >= _BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        ids = np.array(self._tokenizer.encode(self._batch), dtype=self._dtype).tobytes()
        self._hash.update(ids)
        self._file.write(ids)
        self._tokens += len(ids) // self._dtype.itemsize
        if self._target is not None:
            self.target_tokens += len(self._target.encode(self._batch))
        self._bytes += self._batch_bytes
        self._batch, self._batch_bytes = [], 0

    def close(self) -> SideRecord:
        self._flush()
        self._file.close()
        return SideRecord(tokens=self._tokens, bytes=self._bytes, documents=self._documents, sha256=self._hash.hexdigest())


def _write_domain(
    folder: Path,
    index: int,
    name: str,
    pool: _Pool,
    split: Split,
    tokenizer: CorpusTokenizer,
    target: CorpusTokenizer | None,
    most_bytes: int,
) -> DomainRecord:
    sides: tuple[tuple[Side, CorpusTokenizer | None], ...] = (("train", target), ("validation", None))
    writers = [_TokenWriter(folder / token_file(index, side), tokenizer, counted, most_bytes) for side, counted in sides]
    for digest, text in pool.spool.read():
        for writer, part in zip(writers, split.sides(digest, text), strict=True):
            writer.add(part)
    train, validation = (writer.close() for writer in writers)
    if train.bytes < LEAST_TRAIN_BYTES or not validation.tokens:
        raise CorpusError(
            f"domain {name!r}: {train.bytes:,} bytes of training text and {validation.bytes:,} of validation text; at least "
            f"{LEAST_TRAIN_BYTES:,} and 1 are needed: add text to `corpus.domains.{name}`, or remove the domain"
        )
    return DomainRecord(
        name=name,
        train=train,
        validation=validation,
        split="tail" if name in split.tail_domains else "document",
        natural_share=0.0,
        target_tokens=writers[0].target_tokens if target is not None else None,
        duplicates=pool.spool.duplicates,
        skipped=pool.skipped.count,
        first_skipped=tuple(pool.skipped.first),
    )


def _with_natural_shares(records: list[DomainRecord], config: CorpusConfig) -> tuple[DomainRecord, ...]:
    """Records with the configured shares, or those of the training tokens, scaled to sum to 1."""
    configured = [domain.natural_share for domain in (config.domains or {}).values()]
    given = [share for share in configured if share is not None]
    shares = given or [float(record.target_tokens or record.train.tokens) for record in records]
    total = sum(shares)
    return tuple(record.model_copy(update={"natural_share": share / total}) for record, share in zip(records, shares, strict=True))

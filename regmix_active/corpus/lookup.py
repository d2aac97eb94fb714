"""A token store of the cache by its fingerprint: what a study was trained on, also after its text has changed."""

from __future__ import annotations

from pathlib import Path

from regmix_active.corpus.build import default_cache_dir
from regmix_active.corpus.store import MANIFEST, TokenStore
from regmix_active.errors import CorpusError


def find_store(fingerprint: str, cache_dir: Path | None = None) -> TokenStore | None:
    """The store whose fingerprint begins so, or None if the cache does not hold it (any more).

    Args:
        fingerprint: Beginning of :attr:`TokenStore.fingerprint`, as in a study's facts.
        cache_dir: Folder of all stores; by default :func:`default_cache_dir`.
    """
    if not fingerprint:
        return None
    for manifest in sorted((cache_dir if cache_dir is not None else default_cache_dir()).glob(f"*/{MANIFEST}")):
        try:
            store = TokenStore.open(manifest.parent)
        except CorpusError:
            continue  # of another format, or damaged: not what is looked for
        if store.fingerprint.startswith(fingerprint):
            return store
    return None

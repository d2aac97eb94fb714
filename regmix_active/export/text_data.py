"""How formats that read text tell files from data sets of the hub, by the look of a path."""

from __future__ import annotations

from dataclasses import dataclass

from regmix_active.errors import ConfigError

BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text", ".md": "text"}
"""What `datasets.load_dataset` calls the reader of a file."""

COMPRESSED = (".gz", ".zst", ".bz2", ".xz")


@dataclass(frozen=True)
class TextData:
    """Arguments of ``datasets.load_dataset``.

    Attributes:
        path: A reader (``json`` …) of files, a folder, or a data set of the hub.
        name: Configuration of the data set; None if it has one only.
        files: Files; empty for folders and data sets.
    """

    path: str
    name: str | None
    files: tuple[str, ...]

    @classmethod
    def of(cls, domain: str, paths: tuple[str, ...], exporter: str) -> TextData:
        """Read the paths of a domain: files and globs of one kind, a folder, or ``DATASET`` or ``DATASET:SUBSET`` of the hub.

        Raises:
            ConfigError: If there are several that are not files of one kind.
        """
        kinds = {_builder(path) for path in paths}
        if kinds == {None} and len(paths) == 1:
            (path,) = paths
            if path.startswith(("/", ".", "~")) or "://" in path:
                return cls(path, None, ())
            name, _, subset = path.partition(":")
            return cls(name, subset or None, ())
        if None in kinds or len(kinds) > 1:
            raise ConfigError(
                f"--format {exporter}: the paths of {domain!r} are of several kinds ({', '.join(paths[:3])}); give files of one "
                "kind, one folder, or one data set of the hub"
            )
        (kind,) = kinds
        assert kind is not None
        return cls(kind, None, paths)


def _builder(path: str) -> str | None:
    for ending in COMPRESSED:
        path = path.removesuffix(ending)
    return next((builder for suffix, builder in BUILDERS.items() if path.endswith(suffix)), None)

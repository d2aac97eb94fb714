"""What a storage URL says: which kind, which file, and what of it may be shown."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from regmix_active.errors import ConfigError

Kind = Literal["sqlite", "journal", "postgresql"]

FORMS = "write sqlite:///path/to/study.db, journal:///path/to/study.journal or postgresql://user@host/database"

MASK = "***"

_SECRET = re.compile(r"pass(word|wd|phrase)?$|secret|token", re.IGNORECASE)
"""Query parameters whose values are hidden; `passfile` names a file only."""


@dataclass(frozen=True)
class Place:
    """Where studies are. ``str`` of it is the URL without its password: the only form that may be printed or stored."""

    url: URL = field(repr=False)
    kind: Kind
    file: Path | None
    """Absolute path of the SQLite or journal file."""
    shown: str

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read a storage URL; paths become absolute.

        Raises:
            ConfigError: If it is not a URL of one of the three storages.
        """
        shown = public_url(text)
        try:
            url = make_url(text)
        except (ArgumentError, ValueError):  # a port that is no number
            raise ConfigError(f"storage {shown!r}: not a database URL; {FORMS}") from None
        kind, _, driver = url.drivername.partition("+")
        if kind == "postgresql":
            # A run folder keeps the masked URL: what stands there is no password, and must not go before the environment's.
            if url.password == MASK:
                url = URL.create(url.drivername, url.username, None, url.host, url.port, url.database, url.query)
            url = url.difference_update_query([key for key, value in url.query.items() if value == MASK])
            return cls(url, "postgresql", None, shown)
        if kind not in ("sqlite", "journal") or (driver and driver != "pysqlite"):
            raise ConfigError(f"storage {shown}: no storage is called {url.drivername!r}; {FORMS}")
        if url.host is not None:
            raise ConfigError(f"storage {shown}: a file's URL has three slashes, or four for an absolute path; {FORMS}")
        if url.database in (None, "", ":memory:") or str(url.database).startswith("file:"):
            raise ConfigError(f"storage {shown}: a database in memory is lost with the run; {FORMS}")
        # A lock's name follows from the file's: a link to the file must lead to the same lock.
        file = Path(str(url.database)).resolve()
        return cls(url.set(database=str(file)), "sqlite" if kind == "sqlite" else "journal", file, shown)

    def check_folder(self) -> None:
        """Refuse a file in a folder that is not there.

        Raises:
            ConfigError: If it is missing.
        """
        if self.file is not None and not self.file.parent.is_dir():
            raise ConfigError(f"storage {self}: the folder {self.file.parent} does not exist; create it or choose another path")

    def masked(self, text: str) -> str:
        """A message of a library, without the URL's password should it be in there."""
        for secret in (self.url.password, *(v for k, v in self.url.query.items() if _SECRET.search(k))):
            if secret and isinstance(secret, str):
                text = text.replace(secret, MASK)
        return text

    def __str__(self) -> str:
        return self.shown


def public_url(url: str) -> str:
    """The URL with its passwords masked, also if it is not a valid one."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # a port that is no number
        return _masked_text(url)
    if parsed.username is not None and url.count("@") > 1:  # an unescaped @: half of the password reads as the host
        return _masked_text(url)
    secrets = {key: MASK for key in parsed.query if _SECRET.search(key)}
    return parsed.update_query_dict(secrets).render_as_string(hide_password=True).replace("%2A%2A%2A", MASK)


def has_password(url: str) -> bool:
    """Whether the URL holds something that must not be seen."""
    return public_url(url) != _shown_whole(url)


def absolute_url(url: str) -> str:
    """The URL of an SQLite or journal file with an absolute path, so that later commands find it from another folder."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # a port that is no number
        return url
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "journal") or parsed.database in (None, "", ":memory:"):
        return url
    return parsed.set(database=str(Path.cwd() / str(parsed.database))).render_as_string(hide_password=False)


def _shown_whole(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=False)
    except (ArgumentError, ValueError):  # a port that is no number
        return url


def _masked_text(url: str) -> str:
    """Hides what stands between a user's name and the last @."""
    start, slashes, rest = url.partition("//")
    user, at, after = rest.rpartition("@")
    name, colon, _ = user.partition(":")
    if not slashes:  # perhaps the form of libpq, host=… password=…
        return re.sub(r"(pass\w*\s*=\s*)('[^']*'|\S+)", rf"\1{MASK}", re.sub(r":.*@", f":{MASK}@", url), flags=re.IGNORECASE)
    return f"{start}//{name}:{MASK}@{after}" if at and colon else url

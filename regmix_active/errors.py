"""Errors that reach the user.

Everything a user can cause and mend derives from :class:`RegmixActiveError`; the command line prints its message without a
traceback and ends with :attr:`~RegmixActiveError.exit_code`. A message names the file, the key or line, and the remedy.
"""

from __future__ import annotations


class RegmixActiveError(Exception):
    """Base of every error that is the user's to mend."""

    exit_code = 1


class ConfigError(RegmixActiveError):
    """A configuration, or an option, that cannot be run as written."""

    exit_code = 2


class CorpusError(RegmixActiveError):
    """Text that cannot be read, or a domain without enough of it."""

    exit_code = 2


class StudyMismatchError(RegmixActiveError):
    """A study that means something else than the configuration that wants to continue it."""

    exit_code = 2


class StudyBusyError(RegmixActiveError):
    """A study that another process is writing."""


class StudyError(RegmixActiveError):
    """A study that is missing, foreign, or holds too few runs for what was asked."""


class ProxyError(RegmixActiveError):
    """Proxy training failed so often, or in such a way, that the search cannot go on."""


class DiskError(RegmixActiveError):
    """A disk that is full or cannot be written: nothing is lost, and nothing counts as failed for it."""


class StrategyError(RegmixActiveError):
    """A strategy that cannot be loaded, or that proposed something outside the feasible set."""

    exit_code = 2

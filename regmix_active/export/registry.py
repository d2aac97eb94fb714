"""Which formats there are, and how one is found by its name."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from regmix_active.errors import ConfigError

if TYPE_CHECKING:
    from .base import Exporter

ENTRY_POINTS = "regmix_active.exporters"
BUILT_IN = (
    "regmix",
    "megatron",
    "gpt_neox",
    "nanotron",
    "olmo_core",
    "olmix",
    "llm_foundry",
    "torchtitan",
    "levanter",
    "hf_interleave",
    "plain_json",
    "plain_csv",
)
"""In the order in which they are listed."""

E = TypeVar("E", bound="type[Exporter]")
_registered: dict[str, type[Exporter]] = {}


def exporter(name: str) -> Callable[[E], E]:
    """Class decorator that gives an exporter the name by which ``--format`` finds it.

    Raises:
        ConfigError: If another class has the name already, or the class does not say what must be known of it.
    """

    def register(cls: E) -> E:
        for attribute in ("trainer", "unit", "exhausted"):
            if not hasattr(cls, attribute):
                raise ConfigError(f"format {name!r} of {cls.__module__}: its class {cls.__qualname__} has no `{attribute}`; add it")
        other = _registered.get(name)
        # The same module loaded again (reloaded in a notebook) replaces itself.
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(f"format {name!r} of {cls.__module__} is already taken by {other.__module__}; choose another name")
        cls.name = name
        _registered[name] = cls
        return cls

    return register


def available() -> dict[str, type[Exporter]]:
    """All exporters by name: ours first, then those that installed packages bring.

    Raises:
        ConfigError: If a package's exporter cannot be loaded, is not one, or takes a name that is taken.
    """
    _import_built_in()
    for point in entry_points(group=ENTRY_POINTS):
        _load_entry_point(point)
    return dict(sorted(_registered.items(), key=lambda item: _place(item[1])))


def load_exporter(name: str, options: Mapping[str, object] | None = None) -> Exporter:
    """An exporter from its name.

    Args:
        name: A format.
        options: Values of the exporter's fields.

    Raises:
        ConfigError: If there is no such format, or an option does not fit.
    """
    cls = _by_name(name)
    known: set[str] = {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    given = dict(options or {})
    if unknown := sorted(set(given) - known):
        raise ConfigError(f"--format {name} has no option '{unknown[0]}'; its options are: {', '.join(sorted(known)) or 'none'}")
    types = get_type_hints(cls)
    for option, value in given.items():
        try:
            given[option] = TypeAdapter(types[option]).validate_python(value)
        except ValidationError as error:
            raise ConfigError(f"--format {name}, option '{option}' = {value!r}: {error.errors()[0]['msg']}") from None
    return cls(**given)


def _place(cls: type[Exporter]) -> int:
    """Ours in the order of :data:`BUILT_IN`, whichever was imported first; then the others."""
    package, _, module = cls.__module__.rpartition(".")
    return BUILT_IN.index(module) if package == __package__ and module in BUILT_IN else len(BUILT_IN)


def _import_built_in() -> None:
    for module in BUILT_IN:
        importlib.import_module(f".{module}", __package__)


def _load_entry_point(point: EntryPoint) -> None:
    from .base import Exporter

    try:
        cls = point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"format {point.name!r} ({point.value}) cannot be loaded: {error}; reinstall its package") from error
    if not (inspect.isclass(cls) and issubclass(cls, Exporter)):
        raise ConfigError(f"format {point.name!r} ({point.value}) is not an Exporter class")
    exporter(point.name)(cls)


def _by_name(name: str) -> type[Exporter]:
    _import_built_in()
    points = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in _registered and name in points:  # no other package's fault shall stand in the way
        _load_entry_point(points[name])
    if name not in _registered:
        ours = sorted(_registered, key=lambda other: _place(_registered[other]))
        known = list(dict.fromkeys([*ours, *points]))
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"formats are: {', '.join(known)}"
        raise ConfigError(f"--format {name}: unknown format; {hint}")
    return _registered[name]

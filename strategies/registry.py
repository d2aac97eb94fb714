"""Which strategies there are, and how one is found by its name or its file."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from regmix_active.errors import StrategyError
from regmix_active.surrogate.base import Surrogate

from .base import Strategy

ENTRY_POINTS = "regmix_active.strategies"
BUILT_IN = ("confidence_bound", "dirichlet", "expected_improvement", "greedy", "hypervolume", "thompson", "variance_reduction")

S = TypeVar("S", bound=type[Strategy])
_registered: dict[str, type[Strategy]] = {}


def strategy(name: str) -> Callable[[S], S]:
    """Class decorator that gives a strategy the name by which ``--strategy`` finds it.

    Raises:
        StrategyError: If another class has the name already.
    """

    def register(cls: S) -> S:
        other = _registered.get(name)
        # The same file loaded again (by path, or reloaded in a notebook) replaces itself.
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise StrategyError(
                f"strategy {name!r} of {cls.__module__} is already taken by {other.__module__}; choose another name"
            )
        cls.name = name
        _registered[name] = cls
        return cls

    return register


def available() -> dict[str, type[Strategy]]:
    """All strategies by name: those of this folder and those that installed packages bring.

    Raises:
        StrategyError: If a package's strategy cannot be loaded, is not one, or takes a name that is taken.
    """
    _import_built_in()
    for point in entry_points(group=ENTRY_POINTS):
        _load_entry_point(point)
    return dict(sorted(_registered.items()))


def _import_built_in() -> None:
    for module in BUILT_IN:
        importlib.import_module(f".{module}", __package__)


def _load_entry_point(point: EntryPoint) -> None:
    try:
        cls = point.load()
    except (ImportError, AttributeError) as error:
        raise StrategyError(f"strategy {point.name!r} ({point.value}) cannot be loaded: {error}; reinstall its package") from error
    if not (inspect.isclass(cls) and issubclass(cls, Strategy)):
        raise StrategyError(f"strategy {point.name!r} ({point.value}) is not a Strategy class")
    strategy(point.name)(cls)


def load_strategy(spec: str, options: Mapping[str, object] | None = None, surrogate: Surrogate | None = None) -> Strategy:
    """A strategy from its name, or from ``path/to/file.py:Name``.

    A file is executed as Python code. That happens only because the user named it, on the command line or in the configuration.

    Args:
        spec: Name or ``file.py:Name``.
        options: Values of the strategy's fields.
        surrogate: Handed to strategies that have a field `surrogate`.

    Raises:
        StrategyError: If there is no such strategy, file or class, or an option does not fit.
    """
    path, separator, attribute = spec.rpartition(":")
    cls = _from_file(Path(path), attribute) if separator and path.endswith(".py") else _by_name(spec)
    fields = {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set(inspect.signature(cls).parameters)
    given = dict(options or {})
    if unknown := sorted(set(given) - (fields - {"surrogate"})):
        known = ", ".join(sorted(fields - {"surrogate"})) or "none"
        raise StrategyError(f"strategy {spec!r} has no option '{unknown[0]}' (search.strategy_options); its options are: {known}")
    types = get_type_hints(cls)
    for option, value in given.items():
        try:
            given[option] = TypeAdapter(types.get(option, object)).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise StrategyError(f"strategy {spec!r}, option '{option}' = {value!r} (search.strategy_options): {reason}") from None
    if "surrogate" in fields and surrogate is not None:
        given["surrogate"] = surrogate
    try:
        return cls(**given)
    except (TypeError, ValueError) as error:
        raise StrategyError(f"strategy {spec!r}: {error}") from error


def _by_name(name: str) -> type[Strategy]:
    _import_built_in()
    points = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in _registered and name in points:  # no other package's fault shall stand in the way
        _load_entry_point(points[name])
    if name not in _registered:
        known = sorted({*_registered, *points})
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known strategies: {', '.join(known)}"
        raise StrategyError(f"unknown strategy {name!r}; {hint} (a strategy of your own: path/to/file.py:Name)")
    return _registered[name]


def _from_file(path: Path, attribute: str) -> type[Strategy]:
    if not path.is_file():
        raise StrategyError(f"strategy file {path}: no such file")
    _import_built_in()  # first, so that it is the file that cannot take one of their names
    name = f"regmix_active_user_{path.stem}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise StrategyError(f"strategy file {path}: not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    # Dataclasses look their module up there, to resolve annotations that are strings.
    sys.modules[name] = module
    try:
        module_spec.loader.exec_module(module)
    except StrategyError:
        del sys.modules[name]
        raise
    except Exception as error:
        del sys.modules[name]
        raise StrategyError(f"strategy file {path}: {type(error).__name__}: {error}") from error
    cls = getattr(module, attribute, None)
    if not (inspect.isclass(cls) and issubclass(cls, Strategy)):
        classes = [n for n, v in vars(module).items() if inspect.isclass(v) and issubclass(v, Strategy) and v.__module__ == name]
        raise StrategyError(f"{path} has no strategy class {attribute!r}; it has: {', '.join(classes) or 'none'}")
    if "name" not in vars(cls):  # an inherited name is the parent's
        cls.name = attribute
    return cls

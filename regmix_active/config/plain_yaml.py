"""YAML as data and nothing else: YAML 1.2 (``no`` is text, ``1e-3`` a number) without tags, so that reading it runs nothing.

A file is looked at event by event before anything is made of it. What could hide a value (duplicate keys), hold memory back
(aliases of aliases, endless nesting) or break a terminal or a path later on (control characters) is refused by line and key.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, DocumentStartEvent, Event, MappingStartEvent, NodeEvent, ScalarEvent
from ruamel.yaml.nodes import Node, ScalarNode
from ruamel.yaml.reader import ReaderError

from regmix_active.errors import ConfigError

LONGEST = 2**21
"""Characters of a file; more is a data file that somebody took for a configuration."""

DEEPEST = 20
"""Levels of nesting."""

MOST = 100_000
"""Values, those that aliases repeat included."""

DIGITS = 40
"""Digits of a whole number; Python itself refuses thousands of them, and without a line."""

UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")
"""What no text needs ..."""

UNNAMED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""... and what no name holds: line breaks and tabs, too."""

NAMES = ("str", "timestamp", "merge", "value")
"""What plain text may be taken for, and still be a name."""


class _Constructor(SafeConstructor):
    """Dates are text: YAML 1.2 knows none, and no key takes one. So are ``<<`` and ``=``, where they are values."""


for kind in ("timestamp", "merge", "value"):
    _Constructor.add_constructor(f"tag:yaml.org,2002:{kind}", SafeConstructor.construct_yaml_str)


def parse_yaml(text: str, origin: str) -> tuple[Any, Node | None]:
    """What a YAML document says, and the tree that knows where.

    Args:
        text: One document.
        origin: What to call it in messages.

    Raises:
        ConfigError: If it is not YAML, or more than plain data; names the line and the key.
    """
    if len(text) > LONGEST:
        raise ConfigError(f"{origin}: {len(text):,} characters are too many for a configuration; is it another file?")
    try:
        guard = _Guard(origin)
        for event in _yaml().parse(text):
            guard.look(event)
        return _yaml().load(text), _yaml().compose(text)
    except MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = (error.problem or "cannot be parsed").splitlines()[0]
        raise ConfigError(f"{origin}{line}: not a valid configuration: {problem}") from None
    except ReaderError as error:
        line = f":{text.count(chr(10), 0, error.position) + 1}"
        raise ConfigError(f"{origin}{line}: not valid YAML: the control character {chr(error.character)!r}; remove it") from None
    except (YAMLError, ValueError) as error:
        raise ConfigError(f"{origin}: not valid YAML: {(str(error).strip() or type(error).__name__).splitlines()[0]}") from None


def dotted(location: Sequence[int | str]) -> str:
    """A place in the data as messages write it: ``corpus.domains.books.path``."""
    return ".".join(str(part) for part in location)


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    return yaml


@dataclass
class _Open:
    """A mapping or a list that has begun.

    Attributes:
        anchor: Its name for aliases.
        key: What the next value belongs to; None in a mapping before a key.
        lines: Line of each key so far.
        size: Values in it, itself included.
    """

    anchor: str | None
    key: int | str | None = None
    lines: dict[str, int] = field(default_factory=dict)
    size: int = 1


class _Guard:
    """Follows a document from its beginning and refuses what is not plain data."""

    def __init__(self, origin: str) -> None:
        self._origin, self._open = origin, list[_Open]()
        self._sizes: dict[str, int | None] = {}
        self._resolver = _yaml().resolver

    def look(self, event: Event) -> None:
        """Take the next event.

        Raises:
            ConfigError: If it is refused.
        """
        if isinstance(event, DocumentStartEvent) and (event.tags or event.version not in (None, (1, 2))):
            self._refuse(event, "a %YAML or %TAG line changes what the rest means; leave it out")
        if isinstance(event, CollectionEndEvent):
            ended = self._open.pop()
            self._value(event, ended.size, ended.anchor)
        if not isinstance(event, NodeEvent):
            return
        names_next = bool(self._open) and self._open[-1].key is None
        if (tag := getattr(event, "tag", None)) is not None:
            key = event.value if names_next and isinstance(event, ScalarEvent) else None
            shown = str(tag).replace("tag:yaml.org,2002:", "!!")
            self._refuse(event, f"the tag {shown} is not allowed; write the plain value", key)
        if names_next:
            self._name(event)
        elif isinstance(event, AliasEvent):
            if (size := self._sizes.get(event.anchor)) is None:
                self._refuse(event, f"'*{event.anchor}' must name an '&{event.anchor}' that is complete before it")
            self._value(event, size)
        elif isinstance(event, ScalarEvent):
            if found := UNPRINTABLE.search(event.value):
                self._refuse(event, f"the control character {found.group()!r} is not allowed")
            if len(event.value) > DIGITS and self._kind(event) == "int":
                self._refuse(event, f"a number of {len(event.value)} digits is too large")
            self._anchor(event)
            self._value(event, 1, event.anchor)
        else:
            if len(self._open) == DEEPEST:
                self._refuse(event, f"nested more than {DEEPEST} levels deep")
            self._anchor(event)
            self._open.append(_Open(event.anchor, None if isinstance(event, MappingStartEvent) else 0))

    def _name(self, event: NodeEvent) -> None:
        """A key of the mapping at hand."""
        if not isinstance(event, ScalarEvent):
            self._refuse(event, "a key must be plain text")
        name, line, lines = event.value, event.start_mark.line + 1, self._open[-1].lines
        if UNNAMED.search(name):
            self._refuse(event, "control characters are not allowed in a key", name)
        if not name and not event.style:
            self._refuse(event, "a key is missing")
        if self._kind(event) not in NAMES:
            self._refuse(event, f"a key must be a string; if it is meant as a name, write it in quotes: '{name}'", name)
        if name in lines:
            self._refuse(event, f"duplicate key: it is on line {lines[name]}, too; keep one of them", name)
        lines[name] = line
        self._anchor(event)
        if event.anchor is not None:
            self._sizes[event.anchor] = 1
        self._open[-1].key = name

    def _anchor(self, event: NodeEvent) -> None:
        if event.anchor is not None:
            if event.anchor in self._sizes:
                self._refuse(event, f"'&{event.anchor}' is there twice; give one of them another name")
            self._sizes[event.anchor] = None  # until it is complete

    def _value(self, event: Event, size: int, anchor: str | None = None) -> None:
        """A complete value of what is open."""
        if anchor is not None:
            self._sizes[anchor] = size
        if not self._open:
            return
        place = self._open[-1]
        place.size += size
        if place.size > MOST:
            self._refuse(event, f"more than {MOST:,} values, counting what aliases repeat; write out what you need")
        place.key = place.key + 1 if isinstance(place.key, int) else None

    def _kind(self, event: ScalarEvent) -> str:
        """``str``, ``int``, ``float``, ``bool`` or ``null``."""
        return str(self._resolver.resolve(ScalarNode, event.value, event.implicit)).rpartition(":")[2]

    def _refuse(self, event: Event, problem: str, key: str | None = None) -> NoReturn:
        """Raise the error, with line and key."""
        location = [place.key for place in self._open if place.key is not None] + ([key] if key is not None else [])
        shown = ascii(dotted(location))[1:-1] if UNNAMED.search(dotted(location)) else dotted(location)
        where = f"key '{shown}': " if location else ""
        raise ConfigError(f"{self._origin}:{event.start_mark.line + 1}: {where}{problem}")

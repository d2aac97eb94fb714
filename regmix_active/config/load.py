"""From a YAML file, or the name of a preset, to a :class:`RunConfig`; every fault is named with file, line, key and remedy.

Files are YAML 1.2 (``no`` is a string, ``1e-3`` a number) without tags; duplicate keys are refused, and so are values that the
schema would have to turn into something else, such as a number in quotes.
"""

from __future__ import annotations

import difflib
import glob
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from regmix_active.config.plain_yaml import UNNAMED, dotted, parse_yaml
from regmix_active.config.schema import RunConfig
from regmix_active.errors import ConfigError


@dataclass(frozen=True)
class LoadedConfig:
    """A validated configuration and where it came from.

    Attributes:
        config: The configuration, overrides applied, paths made absolute (relative ones start from the file's folder).
        origin: What to call it in messages: a file, or a preset's name.
    """

    config: RunConfig
    origin: str


def presets() -> tuple[str, ...]:
    """Names of the configurations that come with the package."""
    folder = resources.files("regmix_active.configs")
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def preset_text(name: str) -> str:
    """The commented YAML of one preset."""
    return (resources.files("regmix_active.configs") / f"{name}.yaml").read_text(encoding="utf-8")


def load_preset(name: str) -> RunConfig:
    """One preset by name; a file of that name does not matter.

    Raises:
        ConfigError: If there is no such preset.
    """
    if name not in presets():
        close = difflib.get_close_matches(name, presets(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"presets are: {', '.join(presets())}"
        raise ConfigError(f"--preset {name}: no such preset; {hint}")
    return RunConfig.model_validate(parse_yaml(preset_text(name), f"preset {name}")[0])


def load_config(source: str | Path = "embedded", overrides: Iterable[tuple[str, Any]] = ()) -> LoadedConfig:
    """Load a configuration.

    Args:
        source: A YAML file, or the name of a preset (see :func:`presets`).
        overrides: Pairs of a dotted key and its value, such as ``("search.budget", 512)``; they win over the file.

    Raises:
        ConfigError: If the file cannot be read, is not YAML, or does not fit the schema.
    """
    path = Path(source)
    if isinstance(source, str) and source in presets() and not path.is_file():
        text, origin, base_dir = preset_text(source), f"preset {source}", Path.cwd()
    else:
        text, origin, base_dir = _read(path), str(path), path.resolve().parent
    data, tree = _parse(text, origin)
    given = list(overrides)
    for key, value in given:
        _assign(data, key, value)
    place = _Place(origin, tree, frozenset(key for key, _ in given))
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(error, data, place)) from None
    if lines := [f"{place.of(location)}: key '{dotted(location)}': {text}" for location, text in _turned(data, config)]:
        raise ConfigError("\n".join(lines))
    return LoadedConfig(_absolute_paths(config, base_dir), origin)


def parse_override(text: str) -> tuple[str, Any]:
    """``"search.budget=512"`` as a key and a YAML value.

    Raises:
        ConfigError: If there is no ``=``, or the value is not YAML.
    """
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {text}: write KEY=VALUE, for example --set search.batch_size=16")
    if UNNAMED.search(key):
        raise ConfigError(f"--set {text!a}: control characters are not allowed in a key")
    try:
        return key.strip(), parse_yaml(value, "")[0]
    except ConfigError as error:
        raise ConfigError(f"--set {text}: the value cannot be used ({str(error).partition(': ')[2]})") from None


def dump_config(config: RunConfig) -> str:
    """The resolved configuration as YAML, every key written out."""
    yaml = YAML()
    yaml.width = 4096
    yaml.default_flow_style = False
    stream = io.StringIO()
    yaml.dump(config.model_dump(mode="json"), stream)
    return stream.getvalue()


def _absolute_paths(config: RunConfig, base_dir: Path) -> RunConfig:
    corpus = config.corpus
    domains = corpus.domains and {
        name: domain.model_copy(update={"path": _absolute(domain.path, base_dir)}) for name, domain in corpus.domains.items()
    }
    file = corpus.tokenizer.file
    tokenizer = corpus.tokenizer.model_copy(update={"file": _absolute(file, base_dir)})
    search = config.search.model_copy(update={"strategy": _absolute_strategy(config.search.strategy, base_dir)})
    execution, proxy = config.execution, config.proxy
    if (launch := execution.accelerate_config) is not None:
        execution = execution.model_copy(update={"accelerate_config": _absolute_path(launch, base_dir)})
    # A folder or a file beside the configuration; what is not there is a name of the hub.
    if proxy.hf is not None and (local := base_dir / _home(proxy.hf)).exists():
        proxy = proxy.model_copy(update={"hf": str(local)})
    runner = config.runner
    if runner.command is not None:  # the run folder keeps the configuration, and the command must not run there
        runner = runner.model_copy(update={"folder": str(base_dir / _home(runner.folder or ""))})
    config = config.model_copy(update={"search": search, "execution": execution, "proxy": proxy, "runner": runner})
    return config.model_copy(update={"corpus": corpus.model_copy(update={"domains": domains, "tokenizer": tokenizer})})


def _absolute(path: str | tuple[str, ...] | None, base_dir: Path) -> str | tuple[str, ...] | None:
    if path is None or isinstance(path, str):
        return path and _absolute_path(path, base_dir)
    return tuple(_absolute_path(one, base_dir) for one in path)


def _absolute_path(path: str, base_dir: Path) -> str:
    written = _home(path)
    # Only what the user wrote is a glob: a folder above may have brackets in its name.
    base = Path(glob.escape(str(base_dir))) if glob.has_magic(path) else base_dir
    return str(base / written)


def _absolute_strategy(spec: str, base_dir: Path) -> str:
    file, separator, name = spec.rpartition(":")
    return f"{base_dir / _home(file)}:{name}" if separator and file.endswith(".py") else spec


def _home(path: str) -> Path:
    """The path with ``~`` spelt out; that of an unknown user stays, and is not found later."""
    return Path(os.path.expanduser(path))


def _read(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():  # a pipe would wait for ever, and can be read only once
            raise ConfigError(f"{path}: cannot be read (not a regular file); name a YAML file")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        close = difflib.get_close_matches(str(path), presets(), n=1)
        hint = f"did you mean the preset {close[0]!r}?" if close else f"presets are: {', '.join(presets())}"
        raise ConfigError(f"{path}: no such configuration file; {hint}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None


def _parse(text: str, origin: str) -> tuple[dict[str, Any], Node | None]:
    data, tree = parse_yaml(text, origin)
    if data is None:
        return {}, None
    if not isinstance(data, dict):
        raise ConfigError(f"{origin}: the top level must be keys and values, such as 'name: books', not {type(data).__name__}")
    return data, tree


def _assign(data: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    place = data
    for parent in parents:
        inner = place.get(parent)
        # A copy: an alias may have put the same mapping elsewhere, too.
        place[parent] = dict(inner) if isinstance(inner, dict) else {}
        place = place[parent]
    place[last] = value


@dataclass(frozen=True)
class _Place:
    """Where a value is from.

    Attributes:
        origin: The file.
        tree: Its YAML tree.
        overridden: Dotted keys that the command line gave.
    """

    origin: str
    tree: Node | None
    overridden: frozenset[str]

    def of(self, location: Sequence[int | str]) -> str:
        """``FILE:LINE``, or the command line."""
        key = dotted(location)
        ours = any(f"{key}.".startswith(f"{given}.") or given.startswith(f"{key}.") for given in self.overridden)
        return "command line" if ours else f"{self.origin}{_line(self.tree, location)}"


def _turned(written: Any, read: Any, location: tuple[int | str, ...] = ()) -> Iterator[tuple[tuple[int | str, ...], str]]:
    """Values that the schema turned into another kind, which is seldom what was meant, and what to do about each."""
    if isinstance(read, BaseModel):
        read = dict(read)
    if isinstance(written, dict):
        for key in [key for key in written if key in read]:
            yield from _turned(written[key], read[key], (*location, key))
    elif isinstance(written, list):
        for index, pair in enumerate(zip(written, read, strict=True)):
            yield from _turned(*pair, (*location, index))
    elif isinstance(read, bool) and not isinstance(written, bool):
        yield location, f"write true or false, without quotes (got {_shown(written)})"
    elif isinstance(written, bool) and not isinstance(read, bool):
        yield location, f"true or false where a number belongs (got {str(written).lower()})"
    elif isinstance(written, str) and isinstance(read, int | float):
        yield location, f"text where a number belongs; write it without quotes (got {_shown(written)})"


def _explain(error: ValidationError, data: dict[str, Any], place: _Place) -> str:
    faults: dict[tuple[int | str, ...], list[str]] = {}
    for fault in error.errors(include_url=False):
        location = _location(fault["loc"], data)
        texts = faults.setdefault(location, [])
        if fault["type"] == "extra_forbidden":
            known = _known_keys(location[:-1])
            close = difflib.get_close_matches(str(location[-1]), known, n=1)
            text = f"did you mean '{close[0]}'?" if close else f"known keys here: {', '.join(known)}"
        elif fault["type"] == "model_type":
            text = f"write its keys below it, or leave it out (got {_shown(fault['input'])})"
        else:
            message = fault["msg"].removeprefix("Value error, ")
            text = f"{message[0].lower()}{message[1:]}"
            if not texts and not isinstance(fault["input"], dict | BaseModel):
                text += f" (got {_shown(fault['input'])})"
        if fault["type"] == "extra_forbidden":
            texts.append(f"unknown key '{dotted(location)}'; {text}")
        elif texts:
            texts.append(text)  # another kind of value that would have done
        else:
            texts.append(f"key '{dotted(location)}': {text}" if location else text)
    lines = []
    for location, texts in faults.items():
        # Of the kinds of value that a key takes, the one that failed deepest is the one that was meant.
        if any(len(other) > len(location) and other[: len(location)] == location for other in faults):
            continue
        lines.append(f"{place.of(location)}: {'; or: '.join(texts)}")
    return "\n".join(lines)


def _location(location: Sequence[int | str], data: Any) -> tuple[int | str, ...]:
    """The parts of an error's location that are keys of the data; the others name kinds of value that were tried."""
    kept: list[int | str] = []
    for part in location:
        if isinstance(data, dict) and (found := next((key for key in data if str(key) == str(part)), None)) is not None:
            kept.append(part)
            data = data[found]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            kept.append(part)
            data = data[part]
    return tuple(kept)


def _known_keys(location: Sequence[int | str]) -> list[str]:
    from regmix_active.config.schema import DomainConfig

    if tuple(location[:2]) == ("corpus", "domains"):
        return list(DomainConfig.model_fields)
    model: type[BaseModel] = RunConfig
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


def _line(node: Node | None, location: Sequence[int | str]) -> str:
    """``:LINE`` of the deepest part of a key that the file holds."""
    line = None
    for part in location:
        if isinstance(node, MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line, found[1]
        elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
        else:
            break
    return "" if line is None else f":{line + 1}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."

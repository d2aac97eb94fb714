"""From a run folder, or from files, to what is handed over.

The weights are those of the run's ``mixture.yaml``. How many tokens there are, and are wanted, is what the user's files say, or
else ``mixture.yaml``, the configuration's ``mixture`` section, the corpus that the run was trained on (if the cache still holds it:
it is never built for this) or the tokens that a command's domains were declared with. Document lengths are the corpus's, too, and
so are the fields and the splits that its text is read from.
"""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from regmix_active.config.plain_yaml import parse_yaml
from regmix_active.config.schema import CorpusConfig, RunConfig
from regmix_active.errors import ConfigError, CorpusError
from regmix_active.search.finite import are_shares

from .handover import TOLERANCE, Handover

if TYPE_CHECKING:
    from regmix_active.corpus.store import TokenStore

ROUNDED = 1e-4
"""Weights of a file may miss 1 by so much: they were rounded, and are renormalised."""

SPLITS = ("train", "valid", "test")

T = TypeVar("T")


@dataclass(frozen=True)
class Facts:
    """Files with more facts, as the user names them on the command line; None where there is none.

    Attributes:
        paths: Paths by domain, or ``train``, ``valid`` and ``test``, each of them paths by domain.
        tokens: Tokens by domain.
        lengths: Mean tokens of a document by domain.
        target_tokens: Tokens that the target model is trained on.
        sequence_length: Tokens in one training row.
    """

    paths: Path | None = None
    tokens: Path | None = None
    lengths: Path | None = None
    target_tokens: int | None = None
    sequence_length: int | None = None


@dataclass(frozen=True)
class _Known:
    tokens: dict[str, float] = field(default_factory=dict)
    lengths: dict[str, float] = field(default_factory=dict)
    paths: dict[str, tuple[str, ...]] = field(default_factory=dict)
    text_keys: dict[str, str] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)


def from_run(folder: Path, config: RunConfig, facts: Facts, text_paths: bool = False) -> Handover:
    """The mixture that a run found.

    Args:
        folder: The run folder.
        config: Its configuration.
        facts: What the user adds.
        text_paths: Take the paths of the corpus, which is text, for those of the training data; with its fields and splits.

    Raises:
        ConfigError: If ``mixture.yaml`` or a file of the user's cannot be read.
    """
    from regmix_active.report.folder import RunFolder

    run = RunFolder(folder)
    weights = run.read_mixture()["weights"]
    content, _ = parse_yaml(run.mixture.read_text(encoding="utf-8"), str(run.mixture))
    known = _command(config) if config.runner.command is not None else _corpus(config.corpus)
    found = _handover(str(content.get("study") or config.name), weights, content, str(run.mixture))
    target = config.mixture.target_tokens
    found = replace(
        found,
        target_tokens=found.target_tokens or (None if target is None else int(target)),
        tokens={**_of(known.tokens, weights), **_of(config.mixture.tokens, weights), **found.tokens},
        lengths=_of(known.lengths, weights),
        paths=_of(known.paths, weights) if text_paths else {},
        text_keys=_of(known.text_keys, weights) if text_paths else {},
        splits=_of(known.splits, weights) if text_paths else {},
    )
    return with_facts(found, facts)


def cautions(config: RunConfig, facts: Facts, found: Handover) -> list[str]:
    """What to know about numbers that nobody gave."""
    said = []
    limited = config.mixture.target_tokens
    if limited is not None and found.target_tokens is not None and found.target_tokens != int(limited):
        said.append(
            f"the run was limited to {config.mixture.max_epochs:g} epochs in {limited:.3g} tokens, and not in "
            f"{found.target_tokens:.3g}; for a search with another limit set mixture.target_tokens"
        )
    guessed = facts.tokens is None and not config.mixture.tokens and config.runner.command is None
    if guessed and found.target_tokens is not None and found.tokens:
        said.append(
            "tokens and epochs count the corpus that the proxies were trained on, without its validation text; "
            "give --tokens FILE if the target run has other data"
        )
    return said


def from_file(file: Path, facts: Facts) -> Handover:
    """The mixture of a file: YAML or JSON of ``name: weight``, or of such a mapping under ``weights``; or CSV.

    So what ``--format json`` and ``--format csv`` write is read again.

    Raises:
        ConfigError: If a file cannot be read, or the weights are no mixture.
    """
    content = _read_csv(file) if file.suffix.lower() == ".csv" else _read(file, "--mixture")
    nested = isinstance(content.get("weights"), dict)
    weights = content["weights"] if nested else content
    study = content.get("study") if nested else None
    found = _handover(study if isinstance(study, str) else file.stem, weights, content if nested else {}, f"--mixture {file}")
    return with_facts(found, facts)


def _read_csv(file: Path) -> dict[str, Any]:
    """Columns ``domain`` and ``weight``, and ``tokens`` where it is there and filled."""
    origin = f"--mixture {file}"
    weights: dict[str, float] = {}
    tokens: dict[str, float] = {}
    for row in csv.DictReader(_text(file, "--mixture").splitlines()):
        name = row.get("domain")
        if name is None or row.get("weight") is None:
            raise ConfigError(f"{origin}: needs the columns domain and weight; --format csv writes such a file")
        if name in weights:
            raise ConfigError(f"{origin}: {name!r} is there twice; give each domain one row")
        for key, column in (("weight", weights), ("tokens", tokens)):
            if text := row.get(key):
                try:
                    column[name] = float(text)
                except ValueError:
                    raise ConfigError(f"{origin}: {key} of {name!r} is {text!r}, not a number") from None
        if name not in weights:
            raise ConfigError(f"{origin}: {name!r} has no weight; write 0 if it is left out")
    return {"weights": weights, "tokens": tokens}


def with_facts(found: Handover, facts: Facts) -> Handover:
    """Add what the user's files say; it wins over what was known.

    Raises:
        ConfigError: If a file cannot be read, or names an unknown domain.
    """
    if facts.tokens is not None:
        read = _numbers(_read(facts.tokens, "--tokens"), found.domains, f"--tokens {facts.tokens}", "a number of tokens")
        found = replace(found, tokens={**found.tokens, **read})
    if facts.lengths is not None:
        read = _numbers(_read(facts.lengths, "--lengths"), found.domains, f"--lengths {facts.lengths}", "a mean number of tokens")
        found = replace(found, lengths={**found.lengths, **read})
    if facts.paths is not None:
        found = _with_paths(found, facts.paths)
    return replace(
        found,
        target_tokens=facts.target_tokens if facts.target_tokens is not None else found.target_tokens,
        sequence_length=facts.sequence_length,
    )


def _handover(study: str, weights: Mapping[str, Any], content: Mapping[str, Any], origin: str) -> Handover:
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise ConfigError(f"{origin}: the weight of {name!r} is {weight!r}, not a number")
    total = math.fsum(weights.values())
    notes: tuple[str, ...] = ()
    if TOLERANCE < abs(total - 1) <= ROUNDED:
        weights = {name: weight / total for name, weight in weights.items()}
        notes = (f"the weights summed to {total:.9g}, as rounded ones do: each was divided by it",)
    tokens, target = content.get("tokens"), content.get("target_tokens")
    if target is not None and not _is_number(target):
        raise ConfigError(f"{origin}: target_tokens is {target!r}; write a number of tokens")
    known = _numbers(tokens, tuple(weights), f"{origin}: tokens", "a number of tokens") if isinstance(tokens, dict) else {}
    try:
        return Handover(study, weights, tokens=known, target_tokens=int(target) if target else None, notes=notes)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None


def _with_paths(found: Handover, file: Path) -> Handover:
    content = _read(file, "--paths")
    split = bool(content) and set(content) <= set(SPLITS) and all(isinstance(value, dict) for value in content.values())
    parts = content if split else {"train": content}
    train, valid, test = ({name: _path(name, value, found, file) for name, value in parts.get(part, {}).items()} for part in SPLITS)
    # Other files than the run's are read as the format's options say.
    keys, splits = ({k: v for k, v in known.items() if k not in train} for known in (found.text_keys, found.splits))
    paths = {**found.paths, **train}
    try:
        return replace(found, paths=paths, validation_paths=valid, test_paths=test, text_keys=keys, splits=splits)
    except ConfigError as error:
        raise ConfigError(f"--paths {file}: {error}") from None


def _path(name: str, value: object, found: Handover, file: Path) -> str | list[str]:
    _check_name(name, found.domains, f"--paths {file}")
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(path, str) for path in value):
        return value
    raise ConfigError(f"--paths {file}: the path of {name!r} is {value!r}; write text, or a list of it")


def _read(file: Path, option: str) -> dict[str, Any]:
    content, _ = parse_yaml(_text(file, option), f"{option} {file}")
    if not isinstance(content, dict):
        raise ConfigError(f"{option} {file}: write name: value, one line per domain")
    return content


def _text(file: Path, option: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{option} {file}: cannot be read ({reason}); name a YAML or JSON file") from None


def _numbers(content: Mapping[str, Any], domains: tuple[str, ...], origin: str, what: str) -> dict[str, float]:
    read = {}
    for name, value in content.items():
        _check_name(name, domains, origin)
        if not _is_number(value):
            raise ConfigError(f"{origin}: {name!r} has {value!r}; write {what}, above 0")
        read[name] = value
    return read


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _check_name(name: str, domains: tuple[str, ...], origin: str) -> None:
    if name not in domains:
        close = difflib.get_close_matches(name, domains, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"domains are: {', '.join(domains[:10])}{', …' * (len(domains) > 10)}"
        raise ConfigError(f"{origin}: there is no domain {name!r} in the mixture; {hint}")


def _of(known: Mapping[str, T], domains: Iterable[str]) -> dict[str, T]:
    return {name: known[name] for name in domains if name in known}


def _command(config: RunConfig) -> _Known:
    """What a configuration declares of the domains of the user's own trainer."""
    domains = config.runner.domains
    return _Known(tokens={} if are_shares(domains) else dict(domains))


def _corpus(corpus: CorpusConfig) -> _Known:
    """What the cache knows of the corpus, and where its text is."""
    said = _Known()
    for name, domain in (corpus.domains or {}).items():
        if domain.dataset is not None:
            said.paths[name] = (f"{domain.dataset}:{domain.subset}" if domain.subset else domain.dataset,)
            said.splits[name] = domain.split
        elif domain.path is not None:
            said.paths[name] = (domain.path,) if isinstance(domain.path, str) else domain.path
        said.text_keys[name] = domain.text_key
    if (store := cached_store(corpus)) is None:
        return said
    manifest = store.manifest
    tokens, lengths = {}, {}
    for record in manifest.domains:
        weighed = record.target_tokens or record.train.tokens  # what a weight is a share of
        tokens[record.name] = float(weighed)
        # Documents that were split by their tails have their beginnings on one side and their ends on the other.
        whole = weighed * (1 + record.validation.tokens / record.train.tokens) if record.split == "tail" else weighed
        lengths[record.name] = whole / record.train.documents
    return replace(said, tokens=tokens, lengths=lengths)


def cached_store(corpus: CorpusConfig) -> TokenStore | None:
    """The corpus, if the cache holds it."""
    from regmix_active.corpus.build import corpus_digest, default_cache_dir
    from regmix_active.corpus.store import MANIFEST, TokenStore

    try:
        folder = default_cache_dir() / corpus_digest(corpus)[:32]
        return TokenStore.open(folder) if (folder / MANIFEST).is_file() else None
    except CorpusError:  # its text has moved, or the cache is damaged: what is missing is asked for
        return None

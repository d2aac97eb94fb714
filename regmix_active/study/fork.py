"""A new study from an old one whose domains have changed: which runs still mean something, and why the others do not.

Domains are compared by name. A run carries over if the new study can name its mixture: what it trained on is still there, or is
part of a merged domain in the proportion that this has. Its losses carry over where the new study scores the same text. Nothing is
invented: the loss of a domain that is new stays unknown.

What may not change is what a loss means. Proxies of another shape or seed, or another tokenizer, refuse the fork as a whole.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from regmix_active.errors import ConfigError, StudyMismatchError
from regmix_active.study.imported import NEGLIGIBLE, ImportedRun, Intake, Refusal
from regmix_active.study.meaning import Meaning

MOST_ON_CHANGED = 0.01
"""A run may have spent so much on a domain whose text has changed."""

MOST_OFF = 0.05
"""Total variation between a run's proportion within merged domains and that of their union, up to which they count as the same."""

SAME_UNION = 0.01
"""A merged or split domain has the text of its parts if the token counts agree up to this share: duplicates may have gone."""

DATA_FACTS = ("corpus.fingerprint", "corpus.tokenizer", "corpus.tokens.", "corpus.text.")
"""Facts that change with the domains, by the beginning of their keys; they are compared domain by domain."""


@dataclass(frozen=True)
class Pools:
    """The text of a study's domains.

    Attributes:
        tokens: Tokens per domain, in the unit of the weights; only their proportions may be known.
        texts: Hash of each domain's tokens; empty where nothing but counts is known.
        absolute: Whether `tokens` are counts, so that a changed text shows in them.
        tokenizer: Hash of the tokenizer; None if unknown.
        tokenizer_file: Where it lies, if it still does.
    """

    tokens: Mapping[str, float]
    texts: Mapping[str, str] = field(default_factory=dict)
    absolute: bool = True
    tokenizer: str | None = None
    tokenizer_file: str | None = None

    @classmethod
    def of(cls, meaning: Meaning) -> Pools:
        """What a study's own facts say."""
        prefix = "corpus.tokens."
        counts = {key.removeprefix(prefix): float(n) for key, n in meaning.facts.items() if key.startswith(prefix)}
        if counts:
            return cls(counts, tokenizer=meaning.facts.get("corpus.tokenizer"))
        return cls(dict(zip(meaning.domains, meaning.natural, strict=True)), absolute=False)

    def total(self, names: Sequence[str]) -> float:
        """Tokens of some domains together."""
        return sum(self.tokens.get(name, 0.0) for name in names)

    def proportions(self, names: Sequence[str]) -> NDArray[np.float64]:
        """Shares of some domains in their union, shape ``(len(names),)``."""
        tokens = np.array([self.tokens.get(name, 0.0) for name in names])
        return np.ones(1) if len(names) == 1 else tokens / tokens.sum()


@dataclass(frozen=True)
class Link:
    """Old domains and what has become of them: one to one, merged (many to one), split (one to many), gone, or new."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    changed: bool = False
    """Whether the text is another one."""

    @property
    def name(self) -> str:
        """For messages."""
        return " + ".join(self.before or self.after)


def parse_groups(texts: Sequence[str], option: str) -> dict[str, tuple[str, ...]]:
    """``C=A,B`` as C and its parts.

    Raises:
        ConfigError: If one is written otherwise, or a name is there twice.
    """
    groups: dict[str, tuple[str, ...]] = {}
    seen: set[str] = set()
    for text in texts:
        whole, _, rest = (part.strip() for part in text.partition("="))
        parts = tuple(part.strip() for part in rest.split(",") if part.strip())
        if not whole or not parts or (option == "--split" and len(parts) < 2):
            raise ConfigError(f"{option} {text}: write WHOLE=PART,PART, such as {option} web=news,blogs")
        if whole in groups or seen & set(parts) or len(set(parts)) < len(parts):
            raise ConfigError(f"{option} {text}: a domain is named twice; each belongs to one group")
        groups[whole] = parts
        seen |= set(parts)
    return groups


class Fork:
    """What has become of the domains of an old study, and what that makes of its runs."""

    def __init__(
        self,
        old: Meaning,
        new: Meaning,
        *,
        merges: Mapping[str, tuple[str, ...]] | None = None,
        splits: Mapping[str, tuple[str, ...]] | None = None,
        before: Pools | None = None,
        after: Pools | None = None,
    ) -> None:
        """Compare the domains, and refuse what would make a loss mean something else.

        Args:
            old: Meaning of the old study.
            new: That of the new one.
            merges: New domains, each with the old ones that it is made of; one is a renamed domain.
            splits: Old domains, each with the new ones that it was cut into.
            before: Text of the old domains; default: what the facts say.
            after: Text of the new domains.

        Raises:
            ConfigError: If `merges` or `splits` name a domain that is not there, or one twice.
            StudyMismatchError: If losses mean something else, with one line per difference.
        """
        self.old, self.new, self.merges, self.splits = old, new, dict(merges or {}), dict(splits or {})
        self.before, self.after = before or Pools.of(old), after or Pools.of(new)
        self._check_names()
        self.links = tuple(self._links())
        self._check_meaning()
        self.sources = self._loss_sources()

    def carry(self, runs: Sequence[ImportedRun]) -> Intake:
        """The runs of the old study, weights in the order of its domains, as imported runs of the new one."""
        kept: list[ImportedRun] = []
        refused: list[Refusal] = []
        for run in runs:
            notes = list(run.notes)
            weights = self._weights(run, notes)
            if isinstance(weights, Refusal):
                refused.append(weights)
                continue
            losses = self._losses(run, notes)
            if losses:
                row = np.array([weights[name] for name in self.new.domains])
                kept.append(ImportedRun(run.name, row / row.sum(), losses, tuple(notes)))
            else:
                refused.append(Refusal(run.name, "has no loss that the new study scores on the same text"))
        return Intake(tuple(kept), tuple(refused), tuple(self._notes()))

    def _groups(self) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
        """Option, old domains and new domains of each group."""
        merged = [("--merge", parts, (whole,)) for whole, parts in self.merges.items()]
        return [*merged, *(("--split", (whole,), parts) for whole, parts in self.splits.items())]

    def _check_names(self) -> None:
        groups = self._groups()
        for side, which, known, other in (
            (1, "old", self.old.domains, self.new.domains),
            (2, "new", self.new.domains, self.old.domains),
        ):
            names = [(option, name) for option, *sides in groups for name in sides[side - 1]]
            opposite = {name for _, *sides in groups for name in sides[2 - side]}
            for i, (option, name) in enumerate(names):
                if name not in known:
                    close = difflib.get_close_matches(name, known, n=1)
                    hint = f"did you mean '{close[0]}'?" if close else f"it has: {', '.join(known)}"
                    raise ConfigError(f"{option}: the {which} study mixes no domain '{name}'; {hint}")
                if name in [seen for _, seen in names[:i]]:
                    raise ConfigError(f"{option}: '{name}' is in two groups; each domain belongs to one")
                if name in other and name not in opposite:
                    has = "the new study still has" if which == "old" else "the old study has"
                    raise ConfigError(f"{option}: {has} a domain '{name}', too, that is in no group; give one of them another name")

    def _links(self) -> Iterator[Link]:
        grouped_old, grouped_new = set(), set()
        for _, olds, news in self._groups():
            grouped_old |= set(olds)
            grouped_new |= set(news)
            yield Link(olds, news, self._changed(olds, news))
        for name in self.old.domains:
            if name not in grouped_old:
                stays = name in self.new.domains
                yield Link((name,), (name,) if stays else (), stays and self._changed((name,), (name,)))
        for name in self.new.domains:
            if name not in grouped_new and name not in self.old.domains:
                yield Link((), (name,))

    def _changed(self, olds: Sequence[str], news: Sequence[str]) -> bool:
        """Whether old and new domains hold other text, as far as one can tell."""
        one = len(olds) == len(news) == 1
        if one and olds[0] in self.before.texts and news[0] in self.after.texts:
            return self.before.texts[olds[0]] != self.after.texts[news[0]]
        if not (self.before.absolute and self.after.absolute):
            return False
        a, b = self.before.total(olds), self.after.total(news)
        return a != b if one else abs(a - b) > SAME_UNION * max(a, b)

    def _check_meaning(self) -> None:
        def rest(meaning: Meaning) -> Meaning:
            facts = {key: fact for key, fact in meaning.facts.items() if not key.startswith(DATA_FACTS)}
            return dataclasses.replace(self.new, facts=facts)

        lines = rest(self.old).differences(rest(self.new))
        same_pools = all(len(link.before) == len(link.after) == 1 and not link.changed for link in self.links)
        if self.old.facts.get("proxy.trunk_tokens") and not same_pools:
            lines.append("proxy.trunk_tokens: the shared trunk trains on all domains; with others every proxy starts elsewhere")
        if tokenizer := self._other_tokenizer():
            lines.append(tokenizer)
        if lines:
            raise StudyMismatchError(
                "losses of the new study mean something else, so no run of the old one carries over (old → new):\n  "
                + "\n  ".join(lines)
                + "\nIn a fork the domains may change, and nothing else: take the rest from the old study, or do without its runs."
            )

    def _other_tokenizer(self) -> str | None:
        """A loss is per token: text that another tokenizer cuts has other losses."""
        before, after = self.before, self.after
        if before.tokenizer is not None and after.tokenizer is not None:
            other = before.tokenizer != after.tokenizer
        else:
            # Without hashes: another tokenizer changes all counts at once, other text hardly ever does.
            same = [link for link in self.links if len(link.before) == len(link.after) == 1]
            other = before.absolute and after.absolute and len(same) > 1 and all(link.changed for link in same)
        if not other:
            return None
        line = (
            "corpus.tokenizer: it is trained on the text of all domains, so that with other domains it is another one, and a loss "
            "per token is one of other tokens; "
        )
        if before.tokenizer_file is None:
            return line + "the old one would have to be named in corpus.tokenizer.file, but the corpus cache no longer holds it"
        return line + f"keep the old one with corpus.tokenizer.file: {before.tokenizer_file}"

    def _loss_sources(self) -> dict[str, tuple[str, ...]]:
        """Losses of the new study by those of the old that they are made of; nothing for those that are unknown."""
        grouped = {*self.merges, *self.splits, *(part for parts in self.splits.values() for part in parts)}
        sources: dict[str, tuple[str, ...]] = {}
        for name in self.new.loss_names:
            made_of = self.merges.get(name) or (() if name in grouped else (name,))
            if made_of and all(part in self.old.loss_names for part in made_of) and not self._changed(made_of, (name,)):
                sources[name] = made_of
        return sources

    def _weights(self, run: ImportedRun, notes: list[str]) -> dict[str, float] | Refusal:
        given = dict(zip(self.old.domains, run.weights.tolist(), strict=True))
        weights = dict.fromkeys(self.new.domains, 0.0)
        for link in self.links:
            share = sum(given[name] for name in link.before)
            if share <= NEGLIGIBLE:
                continue
            if not link.after and share <= MOST_ON_CHANGED:
                notes.append(f"left out {100 * share:.2g} % on '{link.name}', which is gone")
                continue
            if not link.after:
                return Refusal(run.name, f"spent {{share}} on '{link.name}', which is gone", share)
            if link.changed and share > MOST_ON_CHANGED:
                return Refusal(run.name, f"spent {{share}} on '{link.name}', whose text has changed", share)
            if len(link.before) > 1:
                mixed = np.array([given[name] for name in link.before]) / share
                off = float(np.abs(mixed - self.before.proportions(link.before)).sum() / 2)
                whole = link.after[0]
                if off > MOST_OFF:
                    return Refusal(run.name, f"mixed {link.name} {{share}} otherwise than their union '{whole}' does", off)
                if off > NEGLIGIBLE:
                    notes.append(f"mixed {link.name} {100 * off:.2g} % otherwise than '{whole}' does")
            for name, part in zip(link.after, self.after.proportions(link.after), strict=True):
                weights[name] += share * float(part)
            if len(link.after) > 1:
                notes.append(f"weight of '{link.name}' shared among {', '.join(link.after)} by their tokens")
        return weights

    def _losses(self, run: ImportedRun, notes: list[str]) -> dict[str, float]:
        losses = {}
        for name, made_of in self.sources.items():
            if not all(part in run.losses for part in made_of):
                continue
            shares = self.before.proportions(made_of)
            losses[name] = float(shares @ np.array([run.losses[part] for part in made_of]))
            if len(made_of) > 1:
                parts = " + ".join(f"{share:.3g} {part}" for share, part in zip(shares, made_of, strict=True))
                notes.append(f"loss of '{name}' averaged: {parts}")
        return losses

    def _notes(self) -> Iterator[str]:
        for link in self.links:
            if not link.after:
                yield f"gone: '{link.name}'" + ("; it is still scored" if link.name in self.sources else "")
            elif not link.before:
                yield f"new: '{link.name}'"
            elif link.before != link.after:
                verb = "renamed" if len(link.before) == len(link.after) else "merged" if len(link.before) > 1 else "split"
                yield f"{verb}: {link.name} → {' + '.join(link.after)}"
            if link.changed:
                a, b = self.before.total(link.before), self.after.total(link.after)
                yield f"the text of '{link.name}' has changed: {a:,.0f} → {b:,.0f} tokens"
        if unknown := [name for name in self.new.loss_names if name not in self.sources]:
            yield f"losses that no run of the old study has: {', '.join(unknown)}"

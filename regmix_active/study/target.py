"""The target: which losses matter, and how much. All losses are recorded; the target is applied afterwards.

A target is a weighed sum of losses, or the worst of them; of the losses themselves or of their excess over references; and it may
set limits to any of them. References and limits can be the losses of the natural mixture, which only a history or a belief knows:
:meth:`Target.terms` and :meth:`Target.ceilings` take them as numbers.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regmix_active.errors import ConfigError
from regmix_active.study.spec import ALL, KEYS, MEAN, NATURAL, Natural, is_structured, number
from regmix_active.study.terms import SLACK, Limit, Terms


@dataclass(frozen=True)
class Target:
    """What is minimised; smaller is better.

    Attributes:
        loss_names: Names of the losses, in the order of every loss vector.
        weights: Shape ``(m,)``, ≥ 0, sum 1, so that a weighed sum is in nats per token too.
        worst: The largest term is the target, not their sum. Terms are then multiplied by their weights over the largest weight:
            equal weights leave them as they are.
        excess_over: What is taken from each loss: nothing (None), its value at the natural mixture (``natural``), or given numbers,
            shape ``(m,)``, nats per token.
        relative: Excesses are shares of their references: 0.01 is one percent.
        limits: What other losses must keep.
    """

    loss_names: tuple[str, ...]
    weights: NDArray[np.float64]
    worst: bool = False
    excess_over: Natural | NDArray[np.float64] | None = None
    relative: bool = False
    limits: tuple[Limit, ...] = ()

    @classmethod
    def parse(cls, spec: str | Mapping[str, Any], loss_names: Sequence[str]) -> Target:
        """A target from its configuration: ``mean``, a loss's name, weights by name, or the structured form.

        Weights are numbers or fractions (``"7/52"``). The structured form is ``{weights: mean | {...}, worst: bool, excess_over:
        natural | {name: nats} | null, relative: bool, limits: {name or "all": {at_most or above_natural, probability}}}``; see
        :func:`is_structured`.

        Raises:
            ConfigError: If a name is not one of `loss_names`, no weight is above zero, or a value is not what its key takes.
        """
        names = tuple(loss_names)
        if not is_structured(spec):
            return cls(names, _weights(spec, names))
        assert isinstance(spec, Mapping)
        if unknown := sorted(set(spec) - set(KEYS)):
            close = difflib.get_close_matches(unknown[0], KEYS, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"the keys are: {', '.join(KEYS)}"
            raise ConfigError(f"target: unknown key '{unknown[0]}' beside {', '.join(sorted(set(spec) & set(KEYS)))}; {hint}")
        weights = _weights(spec.get("weights") or MEAN, names)
        reference, relative = spec.get("excess_over"), bool(spec.get("relative", False))
        if relative and reference is None:
            raise ConfigError("target: relative: true needs excess_over, of which the excess is a share; add excess_over: natural")
        over: Natural | NDArray[np.float64] | None = None
        if reference is not None:
            over = NATURAL if reference == NATURAL else _references(reference, names, weights > 0, relative)
        limits = spec.get("limits") or {}
        if not isinstance(limits, Mapping):
            raise ConfigError(f"target: limits: write them by loss, such as {{code: {{above_natural: 0.01}}}}, got {limits!r}")
        for name in limits:
            if name != ALL:
                _check_name(name, names, "limits: ")
        parsed = tuple(Limit.parse(name, given) for name, given in limits.items())
        return cls(names, weights, bool(spec.get("worst", False)), over, relative, parsed)

    def __call__(self, losses: NDArray[np.float64], references: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Target of each row of losses.

        Args:
            losses: Shape ``(n, m)``, nats per token.
            references: Losses of the natural mixture, shape ``(m,)``; without them a target over the natural mixture counts the
                losses themselves.

        Returns:
            Shape ``(n,)``, in :attr:`unit`; NaN where a loss that it weighs is missing.
        """
        return self.terms(references)(losses)

    def terms(self, references: NDArray[np.float64] | None = None) -> Terms:
        """The arithmetic, with the losses of the natural mixture ``(m,)`` as numbers."""
        counts = self.weights > 0
        scale = self.weights / self.weights.max() if self.worst else self.weights
        over = references if isinstance(self.excess_over, str) else self.excess_over
        if over is None:
            return Terms(scale, np.zeros_like(scale), self.worst)
        if self.relative:
            # A share of a loss of nothing is not defined; losses of text are far above.
            return Terms(np.where(counts, scale / np.where(counts, np.maximum(over, 1e-9), 1.0), 0.0), scale, self.worst)
        return Terms(scale, np.where(counts, scale * np.where(counts, over, 0.0), 0.0), self.worst)

    def limited(self, limit: Limit) -> NDArray[np.intp]:
        """Columns of the losses that a limit is for."""
        if limit.name in self.loss_names:
            return np.array([self.loss_names.index(limit.name)])
        own = {other.name for other in self.limits}
        return np.array([j for j, name in enumerate(self.loss_names) if name not in own], dtype=np.intp)

    def ceilings(self, references: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """The largest loss that the limits allow, with the losses of the natural mixture ``(m,)``; infinite without a limit.

        Raises:
            ValueError: If a limit is above the natural mixture's loss, and `references` are not given.
        """
        ceilings = np.full(len(self.loss_names), np.inf)
        for limit in self.limits:
            columns = self.limited(limit)
            if limit.at_most is not None:
                ceilings[columns] = limit.at_most
            elif references is None:
                raise ValueError("limits above the natural mixture need its losses")
            else:
                ceilings[columns] = references[columns] * (1 + (limit.above_natural or 0.0))
        return ceilings

    def violations(self, losses: NDArray[np.float64], references: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """By how much each row of losses ``(n, m)`` breaks the limit that it breaks most, nats per token; 0 if it keeps all of them
        (:data:`~regmix_active.study.terms.SLACK` breaks none), infinite if a limited loss is missing; shape ``(n,)``.
        """
        if not self.limits:
            return np.zeros(len(losses))
        ceilings = self.ceilings(references)
        columns = np.isfinite(ceilings)
        over: NDArray[np.float64] = np.maximum(losses[:, columns] - ceilings[columns], 0.0).max(axis=1, initial=0.0)
        return np.where(np.isnan(over), np.inf, np.where(over > SLACK, over, 0.0))

    @property
    def needed(self) -> NDArray[np.bool_]:
        """Losses that it weighs or limits, shape ``(m,)``."""
        needed: NDArray[np.bool_] = self.weights > 0
        for limit in self.limits:
            needed[self.limited(limit)] = True
        return needed

    @property
    def needs_natural(self) -> bool:
        """Whether it depends on the losses of the natural mixture."""
        return isinstance(self.excess_over, str) or any(limit.above_natural is not None for limit in self.limits)

    @property
    def unit(self) -> str:
        """What its values are in."""
        return "share of the reference" if self.relative else "nats per token"

    def narrowed(self, needed: NDArray[np.bool_] | None = None) -> Target:
        """The same target over fewer losses: the :attr:`needed` ones, or a mask of them and more, shape ``(m,)``.

        A limit to all losses needs all of them, so that it never means fewer.
        """
        kept = self.needed if needed is None else needed
        over = self.excess_over if self.excess_over is None or isinstance(self.excess_over, str) else self.excess_over[kept]
        names = tuple(name for name, keep in zip(self.loss_names, kept, strict=True) if keep)
        return replace(self, loss_names=names, weights=self.weights[kept], excess_over=over)

    def spec(self) -> str | dict[str, Any]:
        """The plain form, of which YAML and JSON are made, and which :meth:`parse` takes back."""
        weights: str | dict[str, Any] = {
            name: float(weight) for name, weight in zip(self.loss_names, self.weights, strict=True) if weight
        }
        if np.allclose(self.weights, self.weights[0], rtol=1e-12, atol=0):
            weights = MEAN
        content: dict[str, Any] = {"weights": weights}
        if self.worst:
            content["worst"] = True
        if isinstance(self.excess_over, str):
            content["excess_over"] = NATURAL
        elif self.excess_over is not None:
            pairs = zip(self.loss_names, self.excess_over, strict=True)
            content["excess_over"] = {name: float(nats) for name, nats in pairs if np.isfinite(nats)}
        if self.relative:
            content["relative"] = True
        if self.limits:
            content["limits"] = {limit.name: limit.spec() for limit in self.limits}
        return content if len(content) > 1 else weights

    def describe(self) -> str:
        """In words, for tables: ``mean of 12 losses``, ``0.7 books + 0.3 code, code at most natural + 1 % (90 %)`` or
        ``worst of 12 losses over natural``.
        """
        words = self._worst_in_words() if self.worst and (self.weights > 0).sum() > 1 else self._sum_in_words()
        if self.excess_over is not None:
            words += f" over {NATURAL if isinstance(self.excess_over, str) else 'given losses'}"
            words += ", relative" * self.relative
        return ", ".join([words, *(limit.describe() for limit in self.limits)])

    def _sum_in_words(self) -> str:
        if len(self.weights) > 1 and np.allclose(self.weights, self.weights[0]):
            return f"mean of {len(self.weights)} losses"
        parts = [(w, name) for w, name in zip(self.weights, self.loss_names, strict=True) if w > 0]
        return " + ".join(name if np.isclose(w, 1) else f"{w:.3g} {name}" for w, name in parts)

    def _worst_in_words(self) -> str:
        scale = self.terms().scale if self.excess_over is None else self.weights / self.weights.max()
        parts = [(w, name) for w, name in zip(scale, self.loss_names, strict=True) if w > 0]
        if len(parts) > 4 and all(np.isclose(w, 1) for w, _ in parts):
            return f"worst of {len(parts)} losses"
        return "worst of " + ", ".join(name if np.isclose(w, 1) else f"{w:.3g} {name}" for w, name in parts)


def _weights(spec: object, names: tuple[str, ...]) -> NDArray[np.float64]:
    """Weights over all losses, shape ``(m,)``, sum 1."""
    if isinstance(spec, str) and spec == MEAN:
        return np.full(len(names), 1 / len(names))
    if not isinstance(spec, str | Mapping):
        raise ConfigError(f"target: write mean, the name of a loss, or weights such as {{books: 2, code: 1}}, got {spec!r}")
    given: dict[str, Any] = {spec: 1.0} if isinstance(spec, str) else dict(spec)
    numbers: dict[str, float] = {}
    for name, weight in given.items():
        _check_name(name, names)
        numbers[name] = number(weight, f"target: the weight of '{name}'")
        if not (np.isfinite(numbers[name]) and numbers[name] >= 0):
            raise ConfigError(f"target: the weight of '{name}' is {weight}; weights are finite and >= 0")
    weights = np.array([numbers.get(name, 0.0) for name in names])
    if weights.sum() <= 0:
        raise ConfigError("target: needs at least one weight above zero, such as {books: 1}")
    return weights / weights.sum()


def _references(given: object, names: tuple[str, ...], counts: NDArray[np.bool_], relative: bool) -> NDArray[np.float64]:
    """Given references of all losses that count, shape ``(m,)``; NaN where none is given."""
    if not isinstance(given, Mapping):
        raise ConfigError(f"target: excess_over: write natural, or a loss for each name such as {{books: 3.1}}, got {given!r}")
    references = np.full(len(names), np.nan)
    for name, nats in given.items():
        _check_name(name, names, "excess_over: ")
        value = number(nats, f"target: excess_over.{name}")
        if not np.isfinite(value) or (relative and value <= 0):
            rule = "finite and above 0" if relative else "finite"
            raise ConfigError(f"target: excess_over.{name} is {nats}; a reference is {rule}")
        references[names.index(name)] = value
    if missing := [name for name, count, value in zip(names, counts, references, strict=True) if count and np.isnan(value)]:
        raise ConfigError(f"target: excess_over has no reference for '{missing[0]}', which the target weighs; add it")
    return references


def _check_name(name: str, names: tuple[str, ...], where: str = "") -> None:
    if name not in names:
        close = difflib.get_close_matches(str(name), names, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"the losses are: {', '.join(names)}"
        raise ConfigError(f"target: {where}unknown loss '{name}'; {hint}")

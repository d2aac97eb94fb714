"""Experiment trackers: every proxy's result, and at the end the answer, by the tracking classes of Accelerate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from regmix_active.errors import ConfigError
from regmix_active.observer import Observer
from regmix_active.proxy.base import ProxyResult

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

    from regmix_active.recommend.simulate import Recommendation

Scalar = str | int | float | bool | None


class TrackedSearch(Observer):
    """Sends what happens to trackers; a context manager, so that they are told of the end however it comes.

    Per proxy: ``target``, ``best``, ``slot``, ``tokens``, ``seconds``, ``loss/<domain>`` (nats per token) and ``weight/<domain>``
    (its share of the training tokens); one without a target counts as ``failed`` or ``stopped``. At the end ``found/<domain>``,
    ``natural/<domain>`` and the predicted targets ``predicted/found``, ``predicted/natural``. Steps count proxies, those of earlier
    sessions included.
    """

    def __init__(self, trackers: Sequence[GeneralTracker], config: Mapping[str, Any]) -> None:
        """Start the trackers.

        Args:
            trackers: Instances, such as those of :func:`make_trackers`.
            config: The configuration, a tree of plain values; sent flat, with dots between the keys.
        """
        _be_alone()
        self._trackers, self._step, self._best, self._found = list(trackers), 0, math.inf, False
        self._missing: dict[str, int] = {}
        for tracker in self._trackers:
            tracker.start()
            tracker.store_init_configuration(flat(config))

    def on_start(self, completed: int, budget: int, best: float | None) -> None:
        """Continue the count."""
        self._step = completed
        self._best = math.inf if best is None else best

    def on_result(self, result: ProxyResult, value: float | None) -> None:
        """Send a proxy."""
        if value is None:
            what = "stopped" if result.stopped else "failed"
            self._missing[what] = self._missing.get(what, 0) + 1
            self._log({what: self._missing[what]})
            return
        self._step += 1
        shares = {f"weight/{name}": float(share) for name, share in result.shares.items()}
        losses = {f"loss/{name}": float(loss) for name, loss in result.losses.items()}
        values = {"target": value, "slot": result.slot, "tokens": result.tokens, "seconds": result.seconds, **losses, **shares}
        if self._found:  # trained to verify the answer, with other seeds: no part of the search
            self._log({f"verification/{name}": one for name, one in values.items()})
            return
        self._best = min(self._best, value)
        self._log({**values, "best": self._best})

    def on_recommendation(self, found: Recommendation) -> None:
        """Send the answer."""
        self._found = True
        values: dict[str, float] = {}
        for name, prediction in (("found", found.found), ("natural", found.natural)):
            values[f"predicted/{name}"] = float(prediction.mean)
            weights = zip(found.history.space.domains, prediction.weights, strict=True)
            values |= {f"{name}/{domain}": float(weight) for domain, weight in weights}
        self._log(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for tracker in self._trackers:
            tracker.finish()

    def _log(self, values: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(dict(values), step=self._step)


def make_trackers(names: Sequence[str], run_name: str, folder: Path) -> list[GeneralTracker]:
    """Make trackers by Accelerate's names; nothing is contacted before they start.

    Args:
        names: From ``execution.log_with``.
        run_name: Name of the run, or of the project.
        folder: Where trackers that keep files put them.

    Raises:
        ConfigError: If a name is unknown, or its package is not installed.
    """
    if not names:
        return []
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    known = {str(name): factory for name, factory in LOGGER_TYPE_TO_CLASS.items()}
    # Own ones, registered with accelerate.tracking.register_tracker_class, need no package.
    own = set(known) - {str(each.value) for each in LoggerType}
    there = own | {str(each.value) for each in get_available_trackers()}
    made = []
    for name in dict.fromkeys(names):
        if name not in known:
            raise ConfigError(f"execution.log_with: unknown tracker {name!r}; the trackers are: {', '.join(sorted(known))}")
        if name not in there:
            installed = f"installed here: {', '.join(sorted(there))}" if there else "no tracker is installed here"
            raise ConfigError(f"execution.log_with: {name!r} is not installed (pip install {name}); {installed}")
        factory = known[name]
        made.append(factory(run_name, str(folder)) if factory.requires_logging_directory else factory(run_name))
    return made


class Observers(Observer):
    """Several observers as one."""

    def __init__(self, *observers: Observer) -> None:
        """Tell all of them, in this order."""
        self._observers = observers

    def on_stage(self, text: str) -> None:
        """See :meth:`Observer.on_stage`."""
        for observer in self._observers:
            observer.on_stage(text)

    def on_warning(self, text: str) -> None:
        """See :meth:`Observer.on_warning`."""
        for observer in self._observers:
            observer.on_warning(text)

    def on_start(self, completed: int, budget: int, best: float | None) -> None:
        """See :meth:`Observer.on_start`."""
        for observer in self._observers:
            observer.on_start(completed, budget, best)

    def on_round(self, index: int, size: int, unfinished: int, proposer: str) -> None:
        """See :meth:`Observer.on_round`."""
        for observer in self._observers:
            observer.on_round(index, size, unfinished, proposer)

    def on_result(self, result: ProxyResult, value: float | None) -> None:
        """See :meth:`Observer.on_result`."""
        for observer in self._observers:
            observer.on_result(result, value)

    def on_recommendation(self, found: Recommendation) -> None:
        """See :meth:`Observer.on_recommendation`."""
        for observer in self._observers:
            observer.on_recommendation(found)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Scalar]:
    """A tree of plain values as one level of keys with dots; lists become text."""
    values: dict[str, Scalar] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value if isinstance(value, Scalar) else str(value)
    return values


def _be_alone() -> None:
    """Tell Accelerate, which asks before it logs, that this is the main process, without touching a GPU."""
    from accelerate import PartialState

    if not PartialState._shared_state:
        PartialState(cpu=True)

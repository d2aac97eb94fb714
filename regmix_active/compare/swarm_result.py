"""What a benchmark of the swarm measured: figures of every repeat, and what they come to."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from regmix_active.compare.swarm_child import Outcome, Task
from regmix_active.proxy.planning.roofline import DevicePeak, TokenCost, floor_seconds

Mode = Literal["one-thread", "all-cores", "both"]

PROCESS_SEEDS, REPEAT_SEEDS = 1_000, 100_000
"""Seeds of two processes, and of two repeats, differ by so much."""

ALARM = 3.0
"""Standard deviations between seeds by which a method's loss may differ from the others'."""


@dataclass(frozen=True)
class Settings:
    """What was asked for.

    Attributes:
        stacks: Proxies per stack of the swarm.
        tokens: Training tokens of one proxy.
        repeats: How often each method runs.
        processes: Worker processes where all cores work.
        mode: What is measured on the CPU.
    """

    stacks: tuple[int, ...] = (1, 2, 4, 8, 16)
    tokens: int = 40_960
    repeats: int = 3
    processes: int = 2
    mode: Mode = "both"


@dataclass(frozen=True)
class Method:
    """One way of training, and in how many processes.

    Attributes:
        name: What tables call it.
        task: What each process does, seeds apart.
        stack: Proxies per stack of the swarm; None for rivals.
        processes: That train at the same time.
        proxies: That each process of a rival trains, one after the other.
        skipped: Why it is not run, or None.
    """

    name: str
    task: Task | None
    stack: int | None = None
    processes: int = 1
    proxies: int = 1
    skipped: str | None = None

    def seeds(self, repeat: int, process: int) -> tuple[tuple[int, ...], ...]:
        """Seeds of the stacks that a process trains. Process 0 of every method begins with the same one."""
        first = repeat * REPEAT_SEEDS + process * PROCESS_SEEDS
        if self.stack is not None:
            return (tuple(range(first, first + self.stack)),)
        return tuple((first + i,) for i in range(self.proxies))


@dataclass(frozen=True)
class Section:
    """Methods that are compared with each other.

    Attributes:
        title: `one thread`, `all cores`, or a preset on a GPU.
        unit: Of their speed.
        methods: The swarm's first.
        cost: Of a token; None where nothing is measured.
        steps: Optimiser steps of one proxy.
        unmeasured: Why nothing is measured, or None.
    """

    title: str
    unit: str
    methods: tuple[Method, ...]
    cost: TokenCost | None = None
    steps: int = 0
    unmeasured: str | None = None


@dataclass(frozen=True)
class Measurement:
    """One method in one repeat.

    Attributes:
        section: Title.
        method: Name.
        repeat: From 0.
        load: Load average over the last minute, before it began; what ran before is in it.
        outcomes: Of each process.
    """

    section: str
    method: str
    repeat: int
    load: float | None
    outcomes: tuple[Outcome, ...]

    @property
    def wall_s(self) -> float:
        """From the first process's start to the last one's end, seconds."""
        return max(o.ended for o in self.outcomes) - min(o.began for o in self.outcomes)

    @property
    def speed(self) -> float:
        """Tokens per CPU-second on one thread, tokens per second elsewhere."""
        if self.section == "one thread":
            return self.outcomes[0].tokens / self.outcomes[0].cpu_s
        return sum(o.tokens for o in self.outcomes) / self.wall_s

    @property
    def loss(self) -> float:
        """Validation loss of the proxy that every method trains in this repeat, nats per token."""
        return self.outcomes[0].losses[self.repeat * REPEAT_SEEDS]

    @property
    def memory(self) -> int:
        """Peak memory of all processes together, bytes; GPU memory on a GPU."""
        return sum(o.gpu_peak_bytes or o.peak_bytes for o in self.outcomes)


@dataclass(frozen=True)
class Range:
    """A figure over repeats."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Range:
        """Median and extremes."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass
class SwarmBenchmark:
    """All that was measured.

    Attributes:
        settings: What was asked for.
        sections: What was compared.
        machine: Facts about this machine.
        measurements: In the order in which they were made.
        failures: Reason by (section, method); a method that failed is not run again.
        peaks: What the device reaches, by section.
    """

    settings: Settings
    sections: tuple[Section, ...]
    machine: dict[str, Any]
    measurements: list[Measurement] = field(default_factory=list)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)
    peaks: dict[str, DevicePeak] = field(default_factory=dict)

    def of(self, section: Section, method: Method) -> list[Measurement]:
        """Measurements of a method, by repeat."""
        return [m for m in self.measurements if (m.section, m.method) == (section.title, method.name)]

    def speed(self, section: Section, method: Method) -> Range | None:
        """In the section's unit."""
        found = [m.speed for m in self.of(section, method)]
        return Range.of(found) if found else None

    def best(self, section: Section) -> Method | None:
        """The swarm's fastest stack."""
        speeds = [(speed.median, m) for m in section.methods if m.stack and (speed := self.speed(section, m))]
        return max(speeds, key=lambda pair: pair[0])[1] if speeds else None

    def ratio(self, section: Section, rival: Method) -> Range | None:
        """How many times as fast as the rival the swarm's fastest stack is; each ratio is one of two runs of the same repeat."""
        if (best := self.best(section)) is None:
            return None
        ours = {m.repeat: m.speed for m in self.of(section, best)}
        ratios = [ours[m.repeat] / m.speed for m in self.of(section, rival) if m.repeat in ours]
        return Range.of(ratios) if ratios else None

    def share(self, section: Section, method: Method) -> float | None:
        """Share of the roofline that a method reaches."""
        speed, peak = self.speed(section, method), self.peaks.get(section.title)
        if speed is None or peak is None or section.cost is None:
            return None
        return speed.median * floor_seconds(section.cost, peak)

    def seed_spread(self) -> float | None:
        """Standard deviation of the loss between seeds, nats per token; None from fewer than three seeds."""
        by_seed: dict[int, list[float]] = {}
        for m in self._compared():
            for outcome in m.outcomes:
                for seed, loss in outcome.losses.items():
                    by_seed.setdefault(seed, []).append(loss)
        means = [statistics.fmean(losses) for losses in by_seed.values() if all(map(math.isfinite, losses))]
        return statistics.stdev(means) if len(means) >= 3 else None

    def deviation(self, section: Section, method: Method) -> float | None:
        """Median over repeats of a method's loss less the median of all methods' for the same proxy, nats per token."""
        if "GPU" in section.title or not (own := self.of(section, method)):
            return None
        losses = {m.repeat: [o.loss for o in self._compared() if o.repeat == m.repeat and math.isfinite(o.loss)] for m in own}
        middle = {repeat: statistics.median(found) if found else math.nan for repeat, found in losses.items()}
        return statistics.median(m.loss - middle[m.repeat] for m in own)

    def unequal(self, section: Section, method: Method) -> bool:
        """Whether its loss differs from the others' by more than seeds explain."""
        deviation, spread = self.deviation(section, method), self.seed_spread()
        if deviation is None or spread is None:
            return False
        return not abs(deviation) <= ALARM * spread / len(self.of(section, method)) ** 0.5

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON has it: None for what is not a number."""
        content = {
            "settings": dataclasses.asdict(self.settings),
            "machine": self.machine,
            "seed_spread": self.seed_spread(),
            "sections": [self._section(section) for section in self.sections],
        }
        return _plain(content)

    def _compared(self) -> Iterable[Measurement]:
        return (m for m in self.measurements if "GPU" not in m.section)

    def _section(self, section: Section) -> dict[str, Any]:
        peak = self.peaks.get(section.title)
        best = self.best(section)
        floor = floor_seconds(section.cost, peak) if section.cost and peak else None
        return {
            "title": section.title,
            "unit": section.unit,
            "unmeasured": section.unmeasured,
            "steps": section.steps,
            "token_cost": section.cost and dataclasses.asdict(section.cost),
            "device_peak": peak and dataclasses.asdict(peak),
            "floor_seconds_per_token": floor,
            "best": best and best.name,
            "methods": [self._method(section, method) for method in section.methods],
        }

    def _method(self, section: Section, method: Method) -> dict[str, Any]:
        speed, ratio = self.speed(section, method), self.ratio(section, method)
        return {
            "name": method.name,
            "stack": method.stack,
            "processes": method.processes,
            "unmeasured": section.unmeasured or method.skipped or self.failures.get((section.title, method.name)),
            "speed": speed and dataclasses.asdict(speed),
            "best_is_times_as_fast": ratio and dataclasses.asdict(ratio),
            "share_of_roofline": self.share(section, method),
            "loss_deviation": self.deviation(section, method),
            "loss_unequal": self.unequal(section, method),
            "repeats": [
                {
                    "repeat": m.repeat,
                    "position": self.measurements.index(m),
                    "load": m.load,
                    "speed": m.speed,
                    "wall_s": m.wall_s,
                    "loss": m.loss,
                    "memory_bytes": m.memory,
                    "processes": [
                        o.model_dump(mode="json", exclude={"error", "peak_flops", "peak_copy_bytes"}) for o in m.outcomes
                    ],
                }
                for m in self.of(section, method)
            ],
        }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

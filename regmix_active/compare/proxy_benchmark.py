"""``regmix-active benchmark proxy``: a proxy setting against a larger one, and its noise between seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regmix_active.compare.fidelity import (
    REFERENCE,
    TESTED,
    Plan,
    Progress,
    Setting,
    Trained,
    jobs_of,
    noise_jobs,
    noise_of,
    plan_mixtures,
    same_text,
    seeds_of,
    train,
)
from regmix_active.compare.proxy_ranks import Array, Losses, Measure, Rank, measures, rank_all
from regmix_active.compare.seed_noise import Noise, Way
from regmix_active.config.schema import ProxyConfig, RunConfig
from regmix_active.study.target import Target

COMPUTE = 10.0
"""Times the compute of the setting under test that a reference should have, to speak for larger models."""


def default_reference(proxy: ProxyConfig) -> dict[str, Any]:
    """Overrides that make a reference of a proxy: three times its width, depth and feed-forward size, half its learning rate.

    The default proxy of one layer and width 32 becomes one of three layers and width 96. At equal tokens that would be 9.9 times
    its compute, so it gets a twentieth more of them.
    """
    return {
        "proxy.layers": 3 * proxy.layers,
        "proxy.width": 3 * proxy.width,
        "proxy.heads": 2 * proxy.heads if (3 * proxy.width) % (4 * proxy.heads) == 0 else proxy.heads,
        "proxy.kv_heads": None,
        "proxy.ffn": 3 * proxy.ffn,
        "proxy.tokens": proxy.tokens * 21 // 20,
        "proxy.learning_rate": proxy.learning_rate / 2,
        "proxy.trunk_tokens": 0,
    }


@dataclass(frozen=True)
class Cost:
    """What one proxy of a setting costs.

    Attributes:
        flops: Floating-point operations of its training.
        cpu_seconds: Processor time on one thread; NaN where it was not measured.
        parameters: Its parameters.
        tokens: Its training tokens.
        vocab_size: Its token ids.
    """

    flops: float
    cpu_seconds: float
    parameters: int
    tokens: int
    vocab_size: int

    @classmethod
    def of(cls, setting: Setting, trained: Trained) -> Cost:
        """From what was trained."""
        return cls(setting.flops, trained.cpu_seconds, setting.parameters, setting.proxy.tokens, setting.store.vocab_size)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "cpu_seconds": None if math.isnan(self.cpu_seconds) else self.cpu_seconds}


@dataclass(frozen=True, eq=False)
class RankReport:
    """How faithfully a setting ranks.

    Attributes:
        loss_names: Every domain, those only scored included.
        score_only: These.
        plan: The mixtures.
        cost: Of the setting under test.
        reference_cost: Of the reference.
        tested: Losses of the setting under test.
        reference: Losses of the reference.
        ranks: ``{measure: {part of the mixtures: rank}}``.
        failures: Why proxies failed; their mixtures are left out.
    """

    loss_names: tuple[str, ...]
    score_only: tuple[str, ...]
    plan: Plan
    cost: Cost
    reference_cost: Cost
    tested: Losses
    reference: Losses
    ranks: Mapping[str, Mapping[str, Rank]]
    failures: tuple[str, ...]

    @property
    def measures(self) -> list[Measure]:
        """What ranks are by."""
        return measures(self.loss_names, self.score_only)

    def singles(self, part: str) -> list[tuple[float, str]]:
        """Every single loss's correlation on a part and its name, from the worst."""
        return sorted((self.ranks[name][part].spearman, name) for name in self.loss_names)

    def spread(self, measure: Measure, part: str) -> float:
        """Standard deviation of the reference over a part's mixtures, in the measure's unit."""
        return float(np.nanstd(self.reference.values(measure).mean(axis=0)[self.plan.parts[part]]))

    def as_dict(self) -> dict[str, Any]:
        """Every figure, ready for JSON."""
        single = {measure.name: measure for measure in self.measures}
        return {
            "cost": self.cost.as_dict(),
            "reference_cost": self.reference_cost.as_dict(),
            "compute_ratio": self.reference_cost.flops / self.cost.flops,
            "domains": list(self.loss_names),
            "score_only": list(self.score_only),
            "mixtures": self.plan.weights.tolist(),
            "wide": self.plan.wide.tolist(),
            "ranks": {
                name: {
                    part: {**rank.as_dict(), "reference_std": _known(self.spread(single[name], part))} for part, rank in by.items()
                }
                for name, by in self.ranks.items()
            },
            "losses": _listed(self.tested.nats),
            "reference_losses": _listed(self.reference.nats),
            "failures": list(self.failures),
        }


@dataclass(frozen=True, eq=False)
class NoiseReport:
    """How much seeds change the target.

    Attributes:
        shown: What noise is of, in words: the target, and the mean of all losses.
        loss_names: Every domain.
        mixtures: How many, all near the uniform one.
        seeds: Per mixture.
        cost: Of one proxy.
        noise: Of each of these, in every way of drawing random numbers.
    """

    shown: tuple[str, ...]
    loss_names: tuple[str, ...]
    mixtures: int
    seeds: int
    cost: Cost
    noise: Mapping[str, Mapping[Way, Noise]]

    def median_ratio(self, way: Way) -> float:
        """Median over the single losses: of many ratios, surer than any one of them."""
        return float(np.median([self.noise[name][way].ratio for name in self.loss_names]))

    def as_dict(self) -> dict[str, Any]:
        """Every figure, ready for JSON."""
        return {
            "target": self.shown[0],
            "mixtures": self.mixtures,
            "seeds": self.seeds,
            "cost": self.cost.as_dict(),
            "noise": {
                name: [{"common_seeds": way.common, "draws": way.draws, **noise.as_dict()} for way, noise in ways.items()]
                for name, ways in self.noise.items()
            },
        }


def benchmark_ranks(
    config: RunConfig,
    setting: Setting,
    reference: Setting,
    *,
    mixtures: int,
    seeds: int,
    reference_seeds: int,
    folder: Path,
    jobs: int,
    progress: Progress,
) -> RankReport:
    """Train the same mixtures in both settings, with different seeds, and compare their ranks.

    Args:
        config: Gives the study's seed, the initial design and the domains that are only scored.
        setting: Under test.
        reference: What it is compared with.
        mixtures: How many.
        seeds: Trainings of each mixture in the setting under test; correlations are of single seeds, and averaged.
        reference_seeds: Trainings of each mixture in the reference, whose losses are averaged.
        folder: Where trainings are kept.
        jobs: Processes.
        progress: Told about every finished job.
    """
    plan = plan_mixtures(config, reference.store, mixtures)
    groups = {}
    for name, one, stream, count in (("reference", reference, REFERENCE, reference_seeds), ("tested", setting, TESTED, seeds)):
        weights = same_text(plan.weights, reference.store, one.store)
        own = []
        for index in range(count):  # one seed after the other, so that more seeds train nothing twice
            own += jobs_of(one, weights, [seeds_of(config, stream, index)] * mixtures, plan.mixed)
        groups[name] = (one, own)
    trained = train(groups, folder, jobs, progress)
    names = reference.store.domains
    tested_losses = trained["tested"].losses(names, seeds)
    reference_losses = trained["reference"].losses(names, reference_seeds)
    return RankReport(
        names,
        config.score_only,
        plan,
        Cost.of(setting, trained["tested"]),
        Cost.of(reference, trained["reference"]),
        tested_losses,
        reference_losses,
        rank_all(tested_losses, reference_losses, measures(names, config.score_only), plan.parts),
        tuple(trained["tested"].failures + trained["reference"].failures),
    )


def benchmark_noise(
    config: RunConfig, setting: Setting, *, mixtures: int, seeds: int, folder: Path, jobs: int, progress: Progress
) -> NoiseReport:
    """Train near-uniform mixtures with many seeds, in every way of drawing random numbers.

    Args:
        config: Gives the study's seed, the target and the domains that are only scored.
        setting: What trains.
        mixtures: How many, at least two.
        seeds: Trainings of each mixture in each way, at least two.
        folder: Where trainings are kept.
        jobs: Processes.
        progress: Told about every finished job.
    """
    plan = plan_mixtures(config, setting.store, mixtures, wide=False)
    ways = list(noise_jobs(config, setting, plan, seeds))
    trained = train({str(way): (one, own) for way, one, own in ways}, folder, jobs, progress)
    by_way = {way: trained[str(way)] for way, _, _ in ways}
    names = setting.store.domains
    target = Target.parse(config.target, names)
    shown = tuple(dict.fromkeys([target.describe(), Target.parse("mean", names).describe()]))
    cost = Cost.of(setting, by_way[ways[0][0]])
    return NoiseReport(shown, names, mixtures, seeds, cost, noise_of(by_way, target, seeds))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _listed(values: Array) -> Any:
    return [_listed(inner) for inner in values] if values.ndim > 1 else [_known(value) for value in values.tolist()]

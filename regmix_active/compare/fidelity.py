"""How faithfully does a small proxy rank mixtures? The same mixtures are trained in one setting and in a larger one.

Half of the mixtures are those of the search's initial design, which a search must tell apart to get near the best; the other half
lie near the uniform one, where losses hardly differ and the seeds' noise shows. A mixture is shares of the tokens of the
reference's tokenizer; a setting with another tokenizer trains on the same text, not on the same numbers.

Trainings are proxy jobs in one folder, named by a hash of all that they depend on: what is there already is not trained again, so
one reference serves many settings.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regmix_active.atomic import write_atomically
from regmix_active.compare.proxy_ranks import Array, Losses
from regmix_active.compare.seed_noise import WAYS, Noise, Way, seed_noise
from regmix_active.config.schema import ProxyConfig, RunConfig
from regmix_active.corpus.store import TokenStore, convert_shares
from regmix_active.errors import ConfigError, ProxyError
from regmix_active.execution.parallel import compute
from regmix_active.mixture.initial import INITIAL_DESIGNS
from regmix_active.mixture.space import MixtureSpace
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.proxy.job import ProxyJob, read_results, run_job
from regmix_active.proxy.planning.roofline import token_cost
from regmix_active.proxy.runner import mixed_domains
from regmix_active.study.target import Target

NEAR_UNIFORM = 10.0
"""Dirichlet parameter per domain of the mixtures near the uniform one: each weight varies by about 30 % of itself."""

STACK = 2
"""Proxies per job: few, so that all processes are busy to the end. More would be a little faster, and other jobs than those that
folders hold already."""

TESTED, REFERENCE, NOISE = 5, 6, 7
"""Streams of seeds below the study's: no two of them share one."""

Progress = Callable[[int, int, float], None]
"""Called with jobs done, jobs in all, and the share of their work that is done."""


@dataclass(frozen=True, eq=False)
class Setting:
    """A proxy setting and its tokens.

    Attributes:
        proxy: Shape and training.
        store: The tokens.
    """

    proxy: ProxyConfig
    store: TokenStore

    @property
    def flops(self) -> float:
        """Floating-point operations of one training, a trunk that all share left out."""
        return token_cost(self.proxy, self.store.vocab_size).flops * self.proxy.tokens

    @property
    def parameters(self) -> int:
        """Parameters of one proxy."""
        return token_cost(self.proxy, self.store.vocab_size).parameters


@dataclass(frozen=True, eq=False)
class Plan:
    """The mixtures of a comparison.

    Attributes:
        weights: Shares of the reference's tokens for all domains of the store, shape ``(n, d)``; zero for those only scored.
        wide: Which come from the initial design, shape ``(n,)``; the others are near the uniform mixture.
        mixed: Domains that are trained on, shape ``(d,)``.
    """

    weights: Array
    wide: NDArray[np.bool_]
    mixed: NDArray[np.bool_]

    @property
    def parts(self) -> dict[str, NDArray[np.bool_]]:
        """The parts that ranks are reported for."""
        return {"all": np.ones_like(self.wide), "wide": self.wide, "near uniform": ~self.wide}


def plan_mixtures(config: RunConfig, reference: TokenStore, n: int, *, wide: bool = True) -> Plan:
    """Choose mixtures.

    Args:
        config: Gives the seed, the initial design and the domains that are only scored.
        reference: Gives the domains and their natural shares.
        n: How many.
        wide: Half of them from the initial design; all near the uniform mixture otherwise.
    """
    mixed = mixed_domains(reference.domains, config.score_only)
    natural = reference.natural_shares[mixed]
    names = tuple(name for name, trained in zip(reference.domains, mixed, strict=True) if trained)
    space = MixtureSpace(names, natural / natural.sum())
    n_wide = n // 2 if wide else 0
    near = space.dirichlet(n - n_wide, np.full(space.dim, NEAR_UNIFORM), np.random.default_rng([config.seed, 1]))
    rows = near
    if n_wide:
        design = INITIAL_DESIGNS[config.search.initial_design](space, n_wide, np.random.default_rng([config.seed, 0]))
        rows = np.concatenate([design, near])
    weights = np.zeros((n, len(mixed)))
    weights[:, mixed] = rows
    return Plan(weights, np.arange(n) < n_wide, mixed)


def same_text(weights: Array, written_for: TokenStore, store: TokenStore) -> Array:
    """Mixtures in the tokens of a store.

    Args:
        weights: Shares of the tokens that another store's weights are shares of, shape ``(n, d)``.
        written_for: That store.
        store: The store to train on.

    Raises:
        ConfigError: If the two have other domains.
    """
    if store.domains != written_for.domains:
        raise ConfigError(
            f"--reference-set: the reference has other domains ({', '.join(written_for.domains)}) than the setting under test "
            f"({', '.join(store.domains)}); a comparison needs the same text: set corpus keys that keep the domains"
        )
    if not np.array_equal(written_for.bytes_per_weighed_token, store.bytes_per_weighed_token):
        weights = convert_shares(weights, written_for.bytes_per_weighed_token, store.bytes_per_weighed_token)
    return store.proxy_weights(weights)


def seeds_of(config: RunConfig, stream: int, index: int) -> tuple[int, int]:
    """Seeds of initial weights and of blocks: the `index`-th pair of a stream."""
    init, data = np.random.SeedSequence([config.seed, stream, index]).generate_state(2)
    return int(init), int(data)


def jobs_of(setting: Setting, weights: Array, seeds: Sequence[tuple[int, int]], mixed: NDArray[np.bool_]) -> list[ProxyJob]:
    """One request per row, in stacks.

    Args:
        setting: What trains.
        weights: Shares of the store's tokens, shape ``(n, d)``.
        seeds: Of each row.
        mixed: Domains that are trained on, shape ``(d,)``: a shared trunk mixes them evenly.
    """
    requests = [ProxyRequest(i, row, *pair) for i, (row, pair) in enumerate(zip(weights, seeds, strict=True))]
    trunk = tuple(setting.store.proxy_weights(mixed / mixed.sum()).tolist()) if setting.proxy.trunk_tokens else None
    return [
        ProxyJob(tuple(requests[i : i + STACK]), setting.proxy, setting.store.path, setting.store.fingerprint, trunk=trunk)
        for i in range(0, len(requests), STACK)
    ]


@dataclass(frozen=True, eq=False)
class Trained:
    """What jobs gave.

    Attributes:
        results: In the order of the requests.
        cpu_seconds: Processor time of one proxy, start and validation included; the median over the jobs.
    """

    results: tuple[ProxyResult, ...]
    cpu_seconds: float

    @property
    def failures(self) -> list[str]:
        """Why proxies failed."""
        return [result.failure for result in self.results if result.failure]

    def losses(self, names: Sequence[str], seeds: int) -> Losses:
        """Of all results, in blocks of one seed: shape ``(seeds, mixtures, d)``."""
        nats, bits = (
            np.array([[getattr(result, unit).get(name, np.nan) for name in names] for result in self.results])
            for unit in ("losses", "bits_per_byte")
        )
        return Losses(nats.reshape(seeds, -1, len(names)), bits.reshape(seeds, -1, len(names)))


def train(
    groups: Mapping[str, tuple[Setting, Sequence[ProxyJob]]], folder: Path, jobs: int, progress: Progress
) -> dict[str, Trained]:
    """Train all jobs that the folder does not hold already, the longest first.

    Args:
        groups: Jobs of each setting, by name.
        folder: Where jobs and results are kept.
        jobs: Processes, one thread each.
        progress: Told about every finished job.

    Raises:
        ProxyError: If a job fails, or its process dies.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waiting: dict[Path, float] = {}
    for setting, own in groups.values():
        for job in own:
            if read_results(job.result_path(folder)) is None:
                waiting[job.write(folder)] = setting.flops * len(job.requests)
    order = sorted(waiting, key=lambda path: -waiting[path])
    whole, done = sum(waiting.values()), 0.0
    progress(0, len(order), 0.0)
    for count, (position, outcome) in enumerate(compute(_train, order, jobs), start=1):
        if isinstance(outcome, Exception):
            raise ProxyError(f"{order[position]}: {outcome}") from outcome
        done += waiting[order[position]]
        progress(count, len(order), done / whole)
    return {name: _collected(own, folder) for name, (_, own) in groups.items()}


def _train(path: Path) -> None:
    """One job in a process with one thread; what it cost is written beside its result."""
    from regmix_active.threads import one_thread

    began = time.process_time()
    with one_thread():
        run_job(str(path), "cpu")
    seconds = time.process_time() - began
    write_atomically(_cost_file(path), json.dumps({"cpu_seconds": seconds}))


def _cost_file(job: Path) -> Path:
    return job.with_name(job.name.replace(".job.json", ".cost.json"))


def _collected(jobs: Sequence[ProxyJob], folder: Path) -> Trained:
    results: list[ProxyResult] = []
    costs = []
    for job in jobs:
        found = read_results(job.result_path(folder))
        assert found is not None, "compute() ended without an error"
        results += found
        try:
            cost = json.loads((folder / f"{job.key}.cost.json").read_text(encoding="utf-8"))["cpu_seconds"]
            costs.append(cost / len(job.requests))
        except (OSError, ValueError, KeyError):  # killed between the two files
            continue
    return Trained(tuple(results), float(np.median(costs)) if costs else float("nan"))


def noise_jobs(config: RunConfig, setting: Setting, plan: Plan, seeds: int) -> Iterator[tuple[Way, Setting, list[ProxyJob]]]:
    """The jobs of each way of drawing random numbers: every mixture, `seeds` times."""
    weights = same_text(plan.weights, setting.store, setting.store)
    n = len(weights)
    for number, way in enumerate(WAYS):
        own = replace(setting, proxy=setting.proxy.model_copy(update={"domain_draws": way.draws}))
        # Ways with common seeds share theirs; every other proxy has a pair that no proxy else has.
        pairs = [
            seeds_of(config, NOISE, s if way.common else 1000 * (number + 1) + s * n + i) for s in range(seeds) for i in range(n)
        ]
        yield way, own, jobs_of(own, np.tile(weights, (seeds, 1)), pairs, plan.mixed)


def noise_of(trained: Mapping[Way, Trained], target: Target, seeds: int) -> dict[str, dict[Way, Noise]]:
    """Noise in every way: of the target, of the mean of all losses, and of each loss.

    Raises:
        ProxyError: If a proxy failed: the table has no value for it.
    """
    for way, found in trained.items():
        if found.failures:
            raise ProxyError(f"{way}: a proxy failed ({found.failures[0]}); lower proxy.learning_rate, then measure again")
    nats = {way: found.losses(target.loss_names, seeds).nats for way, found in trained.items()}
    whole = [target, Target.parse("mean", target.loss_names)]
    wanted = {one.describe(): one.weights for one in whole}
    wanted |= {name: row for name, row in zip(target.loss_names, np.eye(len(target.loss_names)), strict=True) if name not in wanted}
    return {name: seed_noise({way: (losses @ weights).T for way, losses in nats.items()}) for name, weights in wanted.items()}

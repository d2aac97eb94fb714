"""The front door: from a configuration to a found mixture, with every part replaceable."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regmix_active.compare.verify import FOUND, Verification, verify
from regmix_active.config.load import LoadedConfig, load_config
from regmix_active.config.schema import RunConfig, SearchConfig
from regmix_active.errors import ConfigError, ProxyError, StudyError
from regmix_active.observer import Observer
from regmix_active.proxy.base import ProxyRunner
from regmix_active.recommend.simulate import Recommendation, judge, recommend
from regmix_active.report.folder import RunFolder, rounded
from regmix_active.search.finite import target_tokens_of
from regmix_active.search.loop import SearchLoop
from regmix_active.search.meanings import command_meaning, runner_meaning, swarm_meaning
from regmix_active.search.spaces import feasible_space, needless
from regmix_active.strategies import Strategy, load_strategy
from regmix_active.study.imported import ImportedRun
from regmix_active.study.lock import RUN_LOCK, exclusive, study_lock
from regmix_active.study.meaning import Meaning
from regmix_active.study.place import Place, absolute_url
from regmix_active.study.record import StudyRecord
from regmix_active.study.storage import default_storage, open_storage, open_study, public_url
from regmix_active.study.target import Target
from regmix_active.surrogate.base import Surrogate
from regmix_active.surrogate.registry import load_surrogate

if TYPE_CHECKING:
    from regmix_active.execution.ranks import Member

log = logging.getLogger(__name__)

HYPERVOLUME = "hypervolume"
"""The strategy that looks for trade-offs between several targets."""


class ActiveSearch:
    """One search: its configuration, its run folder and its parts.

    Making one reads nothing but the configuration; :meth:`run` builds the corpus, opens or continues the study and trains.
    Proxies train in processes of their own, which import the script that made the search: keep its start below
    ``if __name__ == "__main__":``.
    """

    def __init__(
        self,
        config: RunConfig | LoadedConfig | str | Path | None = None,
        *,
        out: str | Path | None = None,
        runner: ProxyRunner | None = None,
        natural: Sequence[float] | None = None,
        facts: Mapping[str, str | int | float] | None = None,
        strategy: Strategy | str | None = None,
        surrogate: Surrogate | str | None = None,
        observer: Observer | None = None,
        member: Member | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            config: A configuration, a YAML file, or the name of a preset; default: the preset ``embedded``, or the schema's
                defaults (the mean of all losses) with a `runner` of your own.
            out: Run folder; default ``runs/NAME``.
            runner: What turns mixtures into losses; default: a swarm of proxies on the configuration's corpus.
            natural: Natural share per domain of `runner`, which has no token counts; default: uniform.
            facts: What else the losses of `runner` depend on, such as its model and data; a study that was made with other
                facts is refused instead of continued.
            strategy: Overrides ``search.strategy``: an instance (which brings its own surrogate), or a name.
            surrogate: Overrides ``search.surrogate``: an instance, or a name.
            observer: Told what happens.
            member: Rank 0 of a launch (:func:`regmix_active.execution.ranks.join`), whose ranks then train.

        Raises:
            ConfigError: If the configuration, or the name of a surrogate, is wrong.
        """
        if config is None:
            config = RunConfig() if runner is not None else "embedded"
        if isinstance(config, LoadedConfig):
            config = config.config
        self.config = config if isinstance(config, RunConfig) else load_config(config).config
        settings = self.config.search
        if surrogate is None and isinstance(strategy, Strategy):
            surrogate = getattr(strategy, "surrogate", None)
        self.surrogate = surrogate if isinstance(surrogate, Surrogate) else load_surrogate(surrogate or settings.surrogate)
        self.folder = RunFolder(Path(out) if out is not None else Path("runs") / self.config.name)
        self.observer = observer or Observer()
        self._strategy = strategy or settings.strategy
        self._runner, self._natural, self._facts = runner, natural, facts or {}
        self._member = member
        self._guard: Callable[[], None] | None = None

    @cached_property
    def strategy(self) -> Strategy:
        """What chooses the mixtures; loaded when a search needs it, so that looking at a run executes no file.

        Raises:
            StrategyError: If it cannot be loaded.
        """
        if isinstance(self._strategy, Strategy):
            return self._strategy
        options, name = self.config.search.strategy_options, self._strategy
        if self.config.targets and name == SearchConfig().strategy and not options:  # nobody chose it, and it knows one target
            name = HYPERVOLUME
        return load_strategy(name, options, self.surrogate)

    @property
    def storage(self) -> str:
        """URL of the storage that holds the study."""
        return absolute_url(self.config.study.storage or default_storage(self.folder.path))

    def run(self, budget: int | None = None) -> Recommendation:
        """Train proxies until the study has `budget` completed ones, then simulate and average; continues what it finds.

        Args:
            budget: Completed proxy runs in the whole study; default ``search.budget``.

        Raises:
            ConfigError: If the budget is too small for the surrogate, or no mixture is allowed.
            StrategyError: If the strategy cannot be loaded, or fails.
            StudyMismatchError: If the run folder holds a study of another meaning.
            StudyBusyError: If another process is writing it.
            ProxyError: If too many proxies in a row fail.
        """
        settings = self.config.search if budget is None else self.config.search.model_copy(update={"budget": budget})
        if settings.budget < self.surrogate.minimum_runs:
            raise ConfigError(
                f"search.budget: {settings.budget} proxies are too few for the surrogate {self.surrogate.name!r}, "
                f"which needs {self.surrogate.minimum_runs}; 64 is a good start"
            )
        if self.config.study.storage is not None:  # a wrong one is told before the corpus is read
            Place.parse(self.storage).check_folder()
        strategy, config = self.strategy, self.config.model_copy(update={"search": settings})
        # The locks first: whoever is refused must not have touched what the other one trains with.
        with self._writing(), self._running(self.folder.jobs) as (runner, meaning):
            target = Target.parse(config.target, runner.loss_names)
            space = feasible_space(config, meaning)  # before anything is written
            for note in [*needless(space), *self._single(strategy)]:
                self.observer.on_warning(note)
            record = self.open_record(create=True)
            record.allow(space)
            # The study is in the storage, so it need not say where; and a URL may hold a password.
            record.claim(meaning, config.model_dump(mode="json", exclude={"study"}), config.target)
            self.folder.write_config(config)
            log.info("study %s in %s, budget %d", config.name, public_url(self.storage), settings.budget)
            loop = SearchLoop(
                record,
                runner,
                strategy,
                target,
                settings,
                config.seed,
                common_random_numbers=config.proxy.common_random_numbers,
                observer=self.observer,
                surrogate=self.surrogate,
                targets=self._targets(runner.loss_names),
            )
            try:
                loop.run()
            except (KeyboardInterrupt, ProxyError):  # a search that was stopped shows what it has
                self.folder.write_trials(record, target)
                raise
            self.folder.write_trials(record, target)
            found = self._recommended(record, target, None, self._targets(runner.loss_names))
            self._write(found, record, loop.stopped)
        return found

    def recommend(self, target: Any = None, top_k: int | None = None) -> Recommendation:
        """Answer again from the study, without training: another target, another k, another surrogate.

        Args:
            target: As ``target`` in the configuration; default: the configuration's.
            top_k: Number of mixtures averaged; default ``recommend.top_k``.

        Raises:
            StudyError: If there is no study, or it holds too few finished proxies.
        """
        self.open_record()  # what is not there is told before a folder is made
        with self._writing():
            record = self.open_record()
            spec = self.config.target if target is None else target
            names = record.meaning.loss_names
            found = self._recommended(record, Target.parse(spec, names), top_k, self._targets(names) if target is None else ())
            self._write(found, record, self.folder.stopped())
        return found

    def answer(self) -> Recommendation:
        """The answer that ``mixture.yaml`` holds, with what the study says about it; computed if there is none.

        Raises:
            StudyError: If there is no study, or it holds too few finished proxies.
            ConfigError: If the file was changed into something that is not a mixture of the study's domains.
        """
        if not self.folder.mixture.is_file():
            return self.recommend()
        written, record = self.folder.read_mixture(), self.open_record()
        spec = written.get("target_spec", written["target_weights"])
        history = record.history(Target.parse(spec, record.meaning.loss_names))
        try:
            weights = history.space.from_dict(written["weights"])
        except (TypeError, ValueError) as error:
            again = f"write it anew with: regmix-active recommend {self.folder.path}"
            raise ConfigError(f"{self.folder.mixture}: {error}; {again}") from None
        return judge(history, self.surrogate, weights, written["simulated"], written["averaged"], rule=written["rule"])

    def verify(self, found: Recommendation, seeds: int | None = None) -> Verification:
        """Train the found, natural, uniform and best trained mixtures with fresh seeds; see :mod:`regmix_active.compare.verify`.

        Args:
            found: What :meth:`run`, :meth:`recommend` or :meth:`answer` returned.
            seeds: Fresh seeds per mixture; default ``verify.seeds``.
        """
        mixtures = {FOUND: found.found, "natural": found.natural, "uniform": found.uniform, "best trained": found.best_trained}
        with self._writing(), self._running(self.folder.jobs / "verify") as (runner, meaning):
            record = self.open_record()
            record.check(meaning)
            self.observer.on_stage("verifying")
            verification = verify(
                {name: prediction.weights for name, prediction in mixtures.items()},
                runner,
                found.history.target,
                seeds or self.config.verify.seeds,
                self.config.seed,
                self.observer,
                allowed={name: prediction.allowed for name, prediction in mixtures.items()},
            )
            log.info("%s", verification.verdict)
            self.folder.write_verification(verification, found)
            self.folder.write_summary(found, verification)
        return verification

    def meaning(self) -> Meaning:
        """What the losses of this search mean; reads (or builds) the corpus, trains and measures nothing.

        Raises:
            CorpusError: If the text cannot be read.
        """
        if self._runner is not None:
            runner = self._runner
            if self.config.mixture.match_repetition:
                raise ConfigError(
                    "mixture.match_repetition: a runner of your own chooses its text itself; match it there, and say so in `facts`"
                )
            return runner_meaning(runner.domains, self._natural, runner.loss_names, self.config.seed, self._facts)
        if self.config.runner.command is not None:
            return command_meaning(self.config)
        from regmix_active.corpus.build import build_store

        self.observer.on_stage("reading the corpus")
        return swarm_meaning(self.config, build_store(self.config.corpus, progress=self.observer.on_stage))

    def add_runs(self, runs: Sequence[ImportedRun], source: str, meaning: Meaning | None = None) -> int:
        """Add finished runs of others to the study, which begins with them if it is new; they do not count towards the budget.

        Args:
            runs: What was trained, and its losses; those that are in the study already are left out.
            source: Where they are from, for tables.
            meaning: What :meth:`meaning` said, if it was asked already.

        Returns:
            How many were added.

        Raises:
            ConfigError: If the target names a loss that is not there.
            StudyMismatchError: If the run folder holds a study of another meaning.
            StudyBusyError: If another process is writing it.
        """
        meaning = meaning or self.meaning()
        Target.parse(self.config.target, meaning.loss_names)  # before anything is written
        with self._writing():
            record = self.open_record(create=True)
            record.claim(meaning, self.config.model_dump(mode="json", exclude={"study"}), self.config.target)
            self.folder.write_config(self.config)
            added = record.add_imported(runs, source)
            log.info("%d runs of %s imported", added, source)
        return added

    def open_record(self, *, create: bool = False) -> StudyRecord:
        """The study of this search.

        Args:
            create: Start it if it is missing.

        Raises:
            StudyError: If it is missing, or not a mixture search's.
        """
        if not create and self.config.study.storage is None and not self.folder.study.is_file():
            raise StudyError(
                f"{self.folder.path}: no study there ({self.folder.study.name} is missing); start one: regmix-active run"
            )
        storage = open_storage(self.storage, writing=create)
        record = StudyRecord(open_study(storage, self.storage, self.config.name, create=create), self._guard)
        if not create:
            record.allow(feasible_space(self.config, record.meaning, searched=False))
        return record

    def _targets(self, loss_names: Sequence[str]) -> tuple[Target, ...]:
        """Those of which a trade-off is sought; none if there is one target only."""
        return tuple(Target.parse(spec, loss_names) for spec in self.config.targets.values())

    def _single(self, strategy: Strategy) -> list[str]:
        """A warning where several targets are asked for and the strategy, one of ours, looks at one."""
        ours = type(strategy).__module__.startswith("regmix_active.")
        if not self.config.targets or not ours or strategy.name == HYPERVOLUME:
            return []
        return [
            f"search.strategy: {strategy.name} trains for `target` alone, not for trade-offs between "
            f"{', '.join(self.config.targets)}; for these, set it to {HYPERVOLUME}"
        ]

    def _recommended(
        self, record: StudyRecord, target: Target, top_k: int | None, targets: tuple[Target, ...] = ()
    ) -> Recommendation:
        history = replace(record.history(target), targets=targets)
        if history.known < self.surrogate.minimum_runs:
            raise StudyError(
                f"{self.folder.path}: the study holds {history.known} completed proxies; the surrogate {self.surrogate.name!r} "
                f"needs {self.surrogate.minimum_runs} or more: continue it with a larger --budget"
            )
        self.observer.on_stage("simulating")
        rng = np.random.default_rng([self.config.seed, 4])
        settings = self.config.recommend
        found = recommend(
            history,
            self.surrogate,
            settings.simulations,
            top_k or settings.top_k,
            rng,
            settings.caution,
            rule=settings.rule,
            level=settings.interval,
            draws=settings.draws or None,
            watch=self._watch,
        )
        return found if found.pareto is None else replace(found, names=tuple(self.config.targets))

    def _watch(self, text: str, done: int, total: int) -> None:
        """Pass on how the answer comes along."""
        self.observer.on_stage(f"{text} ({done / total:.0%})" if done else text)

    def _write(self, found: Recommendation, record: StudyRecord, stopped: str | None) -> None:
        tokens = None
        if self.config.mixture.target_tokens is not None:
            tokens = dict(zip(record.meaning.domains, target_tokens_of(self.config, record.meaning).tolist(), strict=True))
        self.folder.write_mixture(found, record, stopped=stopped, target_tokens=self.config.mixture.target_tokens, tokens=tokens)
        self.folder.write_summary(found)
        if found.pareto is None:
            log.info("found %s, predicted %.4f %s", rounded(found.weights), found.found.mean, found.history.target.unit)
        else:
            log.info("found %s, the balanced one of %d trade-offs", rounded(found.weights), len(found.pareto.weights))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """The run folder and the study, for this process alone; what happens goes to the folder's log."""
        new = not self.folder.path.exists()
        self.folder.create()
        try:
            with (
                exclusive(self.folder.path / RUN_LOCK, str(self.folder.path)),
                self.folder.logging(),  # before the study, whose repair is told
                study_lock(self.storage, self.config.name) as held,
            ):
                self._guard = held.ensure
                yield
        except BaseException:
            if new and not self.folder.config.exists():  # nothing was begun, so nothing is left
                shutil.rmtree(self.folder.path, ignore_errors=True)
            raise
        finally:
            self._guard = None

    @contextlib.contextmanager
    def _running(self, jobs: Path) -> Iterator[tuple[ProxyRunner, Meaning]]:
        """The runner, ready to train, and what its losses mean."""
        if self._runner is not None:
            yield self._runner, self.meaning()
            return
        from regmix_active.search.runners import ready_to_train

        with ready_to_train(self.config, jobs, self.folder.plan, self.observer, self._member) as training:
            if training.plan is not None:
                from regmix_active.proxy.planning.planner import keep

                keep(self.folder.plan, training.plan)
            yield training.runner, training.meaning

"""The run folder: everything that a search leaves behind.

========================  =====================================================================================
``study.db``              the Optuna study (unless the storage is elsewhere)
``mixture.yaml``          the answer: weights, predicted losses with their doubt, runs used, versions
``trials.csv``            one row per proxy: weights, losses, seeds, times
``config.yaml``           the resolved configuration; ``regmix-active run --config`` takes it
``verification.yaml``     the proof, after ``regmix-active verify``
``summary.svg``           the tables of the terminal as a picture
``verification.svg``      those of the proof, if it was made later than the answer
``run.log``               what happened when
``jobs/``                 job and result files of the proxies
``plan.json``             how they train: stacks, micro-batches, mode
========================  =====================================================================================
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import io
import logging
import math
import os
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape
from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from regmix_active.atomic import write_atomically
from regmix_active.config.load import dump_config
from regmix_active.config.plain_yaml import parse_yaml
from regmix_active.config.schema import RunConfig
from regmix_active.errors import ConfigError
from regmix_active.report.console import answer_tables, doubt_lines, picture, verification_table
from regmix_active.report.told import DECIMALS, doubt_of, figure, predicted, several_targets, trade_offs
from regmix_active.study.spec import is_structured
from regmix_active.study.storage import public_url
from regmix_active.study.target import Target

if TYPE_CHECKING:
    from rich.console import RenderableType

    from regmix_active.compare.verify import Verification
    from regmix_active.recommend.simulate import Recommendation
    from regmix_active.study.record import StudyRecord

PACKAGES = ("regmix-active", "torch", "botorch", "gpytorch", "lightgbm", "optuna", "tokenizers", "numpy")


class _LogFile(logging.FileHandler):
    """A log that can no longer be written, as on a full disk, is not worth a traceback per line, nor the search."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the base class's name)
        pass


class RunFolder:
    """Names and writes the files of one run folder."""

    def __init__(self, path: Path) -> None:
        """Name the folder; nothing is created."""
        self.path = path
        self.study = path / "study.db"
        self.mixture = path / "mixture.yaml"
        self.trials = path / "trials.csv"
        self.config = path / "config.yaml"
        self.verification = path / "verification.yaml"
        self.summary = path / "summary.svg"
        self.proof = path / "verification.svg"
        self.log = path / "run.log"
        self.jobs = path / "jobs"
        self.plan = path / "plan.json"

    def create(self) -> None:
        """Make the folder.

        Raises:
            ConfigError: If it cannot be made or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not os.access(self.path, os.W_OK):
                raise PermissionError(13, "not writable")
        except OSError as error:
            raise ConfigError(f"run folder {self.path}: {error.strerror}; choose another with --out") from None

    @contextlib.contextmanager
    def logging(self) -> Iterator[None]:
        """Append the package's log records to the folder's log."""
        handler = _LogFile(self.log, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
        package = logging.getLogger("regmix_active")
        level = package.level
        package.addHandler(handler)
        package.setLevel(logging.INFO)
        try:
            yield
        finally:
            package.setLevel(level)
            package.removeHandler(handler)
            handler.close()

    def write_config(self, config: RunConfig) -> None:
        """Write the resolved configuration, without the password that a storage URL may hold."""
        if config.study.storage is not None:
            study = config.study.model_copy(update={"storage": public_url(config.study.storage)})
            config = config.model_copy(update={"study": study})
        write_atomically(
            self.config,
            "# The resolved configuration of this run: regmix-active run --config FILE takes it.\n" + dump_config(config),
        )

    def write_mixture(
        self,
        found: Recommendation,
        record: StudyRecord,
        *,
        stopped: str | None = None,
        target_tokens: float | None = None,
        tokens: Mapping[str, float] | None = None,
    ) -> None:
        """Write the answer.

        Args:
            found: The answer.
            record: The study.
            stopped: Why the search ended before its budget.
            target_tokens: Training tokens of the model that the mixture is for, if known.
            tokens: Tokens that there are of each domain for it.
        """
        from optuna.trial import TrialState

        space, target = found.history.space, found.history.target
        content: dict[str, Any] = {
            "study": record.study.study_name,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "target": target.describe(),
            **several_targets(found),
            "target_weights": {
                name: float(weight) for name, weight in zip(target.loss_names, target.weights, strict=True) if weight
            },
            "weights": space.as_dict(space.round(found.found.weights, DECIMALS)),
            **_handed_over(target_tokens, tokens),
            **({"notes": list(found.notes)} if found.notes else {}),
            **({"stopped": stopped} if stopped else {}),
            "predicted": predicted(found),
            **doubt_of(found),
            **trade_offs(found),
            "predicted_losses": {
                name: {"found": figure(a), "std": figure(s), "natural": figure(b)}
                for name, a, s, b in zip(
                    target.loss_names, found.found.losses, found.found.losses_std, found.natural.losses, strict=True
                )
            },
            **({"target_spec": target.spec()} if is_structured(target.spec()) else {}),
            "natural_weights": rounded(space.as_dict(found.natural.weights)),
            "runs": {
                "completed": record.count(TrialState.COMPLETE),
                "stopped": record.count(TrialState.PRUNED),
                "failed": record.count(TrialState.FAIL),
            },
            "surrogate": found.surrogate,
            **({"surrogate_choice": found.choice} if found.choice else {}),
            "rule": found.rule,
            "simulated": found.simulated,
            "averaged": found.averaged,
            "seed": record.config.get("seed"),
            "versions": versions(),
        }
        write_atomically(self.mixture, "# Found by regmix-active. A weight is a share of the training tokens.\n" + _yaml(content))

    def read_mixture(self) -> dict[str, Any]:
        """The answer, as :meth:`write_mixture` wrote it.

        Raises:
            ConfigError: If the file is not one of ours; names the key.
        """
        again = f"write it anew with: regmix-active recommend {self.path}"
        try:
            content, _ = parse_yaml(self.mixture.read_text(encoding="utf-8"), str(self.mixture))
            if not isinstance(content, dict):
                raise ValueError("it holds no keys")
            spec = {"target_spec": content["target_spec"]} if "target_spec" in content else {}
            spec["rule"] = str(content.get("rule", "bound"))
            return {key: _checked(key, content[key]) for key in ("weights", "target_weights", "simulated", "averaged")} | spec
        except ConfigError as error:
            raise ConfigError(f"{error}; {again}") from None
        except (OSError, KeyError, TypeError, ValueError) as error:
            why = f"the key {error} is missing" if isinstance(error, KeyError) else str(error).splitlines()[0]
            raise ConfigError(f"{self.mixture}: cannot be read ({why}); {again}") from None

    def stopped(self) -> str | None:
        """Why the search ended before its budget, as the file of the last answer says."""
        reason = self._written().get("stopped")
        return reason if isinstance(reason, str) else None

    def answered(self) -> str | None:
        """What the last answer was found for, as its file says: the target in words, or the names of several."""
        target, several = (self._written().get(key) for key in ("target", "targets"))
        if isinstance(several, dict):
            return f"trade-offs between {', '.join(map(str, several))}"
        return target if isinstance(target, str) else None

    def _written(self) -> dict[str, Any]:
        """The file of the last answer; empty if there is none that can be read."""
        try:
            content, _ = parse_yaml(self.mixture.read_text(encoding="utf-8"), str(self.mixture))
        except (OSError, ValueError, ConfigError):
            return {}
        return content if isinstance(content, dict) else {}

    def write_trials(self, record: StudyRecord, target: Target | None = None) -> None:
        """Write one row per proxy.

        Args:
            record: The study.
            target: What the column ``target`` tells; default: the study's first one.
        """
        from optuna.trial import TrialState

        names, losses = record.meaning.domains, record.meaning.loss_names
        history = record.history(target or Target.parse(record.value_target, losses))
        # What is over the natural mixture is in no trial: only all of them together know its losses.
        values = dict(zip(history.slots.tolist(), history.values.tolist(), strict=True))
        stream = io.StringIO()
        fields = ["slot", "round", "proposer", "state", "target", "init_seed", "data_seed", "tokens", "seconds", "failure"]
        columns = [*fields, *(f"w/{n}" for n in names), *(f"loss/{n}" for n in losses), *(f"bits_per_byte/{n}" for n in losses)]
        writer = csv.DictWriter(stream, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for trial in record.trials():
            attributes = trial.user_attrs
            row: dict[str, Any] = {key: attributes.get(key, "") for key in fields}
            value = values.get(attributes["slot"], math.nan) if trial.state == TrialState.COMPLETE else math.nan
            row |= {"state": trial.state.name.lower(), "target": value if math.isfinite(value) else ""}
            row |= {f"w/{name}": trial.params[f"w/{name}"] for name in names}
            for key, prefix in (("losses", "loss"), ("bits_per_byte", "bits_per_byte")):
                row |= {f"{prefix}/{name}": value for name, value in attributes.get(key, {}).items()}
            writer.writerow(row)
        write_atomically(self.trials, stream.getvalue())

    def write_verification(self, verification: Verification, found: Recommendation) -> None:
        """Write the proof."""
        space = found.history.space
        content = {
            "verdict": verification.verdict,
            "target": verification.target.describe(),
            "unit": verification.target.unit,
            "seeds": list(verification.seeds),
            "mixtures": {
                rival.name: {
                    "target": figure(rival.mean),
                    "standard_error": figure(rival.error),
                    "found_is_better_by": figure(rival.gain),
                    "standard_error_of_difference": figure(rival.gain_error),
                    "values": [figure(value) for value in rival.values],
                    **({"limits_broken_by": figure(rival.broken)} if verification.target.limits else {}),
                    **({} if rival.allowed else {"allowed": False}),
                    "weights": rounded(space.as_dict(rival.weights)),
                }
                for rival in verification.rivals
            },
            "versions": versions(),
        }
        write_atomically(self.verification, "# Mixtures trained again with fresh seeds; targets are in `unit`.\n" + _yaml(content))

    def write_summary(self, found: Recommendation, verification: Verification | None = None) -> None:
        """Write the tables as a picture.

        An answer that was read from its file again knows neither its doubt nor its trade-offs: its proof gets a picture of its own.
        """
        tables: list[RenderableType] = [*answer_tables(found), *map(escape, doubt_lines(found))]
        file = self.summary
        if verification is not None:
            proof: list[RenderableType] = [verification_table(verification), escape(verification.verdict)]
            whole = found.doubt is not None or found.pareto is not None or not self.summary.is_file()
            file, tables = (file, tables + proof) if whole else (self.proof, proof)
        write_atomically(file, picture(tables, f"regmix-active: {self.path.name}"))


def rounded(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights to :data:`DECIMALS` places that still sum to 1: what rounding leaves goes to the largest."""
    result = {name: round(weight, DECIMALS) for name, weight in weights.items()}
    largest = max(result, key=lambda name: result[name])
    result[largest] = round(result[largest] + 1 - sum(result.values()), DECIMALS)
    return result


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _checked(key: str, value: Any) -> Any:
    """A value of ``mixture.yaml``: numbers by name, or a number of things.

    Raises:
        ValueError: If it is neither.
    """
    numbers = {f"{key}.{name}": number for name, number in value.items()} if isinstance(value, dict) else {key: value}
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < math.inf:
            raise ValueError(f"{name} is {number!r}, not a number of at least 0")
    if isinstance(value, dict) != key.endswith("weights"):
        raise ValueError(f"{key} has another form")
    return value


def _handed_over(target_tokens: float | None, tokens: Mapping[str, float] | None) -> dict[str, Any]:
    """What exports need to print epochs."""
    if target_tokens is None:
        return {}
    return {"target_tokens": _count(target_tokens), "tokens": {name: _count(n) for name, n in (tokens or {}).items()}}


def _count(tokens: float) -> int | float:
    return int(tokens) if float(tokens).is_integer() else float(tokens)


class _Plain(RoundTripRepresenter):
    """Floats in fixed point: of 2e-06 some YAML readers, PyYAML among them, make text."""

    def represent_float(self, data: float) -> ScalarNode:
        """See the base class."""
        if not math.isfinite(data):
            node: ScalarNode = super().represent_float(data)
            return node
        plain: ScalarNode = self.represent_scalar("tag:yaml.org,2002:float", np.format_float_positional(data, trim="0"))
        return plain


_Plain.add_representer(float, _Plain.represent_float)


def _yaml(content: Mapping[str, Any]) -> str:
    yaml = YAML()
    yaml.Representer = _Plain
    yaml.width = 4096
    stream = io.StringIO()
    yaml.dump(dict(content), stream)
    return stream.getvalue()

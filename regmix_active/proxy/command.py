"""Your own trainer: a command that is given a mixture and leaves its losses in a file.

One proxy is one job, and one run of the command. Each job has a folder of its own beside its job file. It is the same at every
attempt, so that the command can go on from a checkpoint of its own there::

    KEY.job.json      what to train
    KEY/mixture.json  {"weights": {"books": 0.7, ...}, "seed": 1, "data_seed": 2, "slot": 0}
    KEY/log.txt       what the command printed, attempt after attempt
    KEY/metrics.json  what the command left: {"losses": {"books": 2.1, ...}}, with "bits_per_byte" and "tokens" if it likes
    KEY.result.json   the result

With ``mixture.match_repetition``, ``mixture.json`` also holds ``"pool_shares": {"books": 0.02, ...}``: the share of each domain's
text that the command should draw from, the same part for all proxies, so that it is repeated as often as in the target run.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regmix_active.atomic import write_atomically
from regmix_active.config.execution import ExecutionConfig
from regmix_active.config.schema import RunnerConfig
from regmix_active.errors import ConfigError, ProxyError
from regmix_active.execution.base import Executor
from regmix_active.execution.worker import SECRETS
from regmix_active.proxy import supervisor
from regmix_active.proxy.base import ABSURD_LOSS, Propose, ProxyRequest, ProxyResult
from regmix_active.proxy.flight import Flight, fly, fly_on
from regmix_active.proxy.job import read_results, write_results

FORMAT = 1

PLACEHOLDERS = ("mixture", "out", "seed", "data_seed", "device")
"""What stands in braces in a command."""

GRACE_SECONDS = 5.0
"""Between SIGTERM and SIGKILL: a trainer may save its state."""

LOG_LINES = 12

_PLACEHOLDER = re.compile(r"(?<![${])\{([A-Za-z_]\w*)\}(?!\})")


@dataclass(frozen=True)
class CommandJob:
    """One proxy to train by a command.

    Attributes:
        requests: What it trains: one request.
        domains: Names of its weights.
        command: Command line with placeholders.
        losses: Names that the metrics must hold.
        facts: What else the losses depend on.
        cwd: Folder that the command runs in.
        timeout_minutes: When it is ended; None: never.
        pool_shares: Share of each domain's text that it should draw from; None: nothing is said, it draws from all.
    """

    requests: tuple[ProxyRequest, ...]
    domains: tuple[str, ...]
    command: str
    losses: tuple[str, ...]
    facts: Mapping[str, str | int | float]
    cwd: Path
    timeout_minutes: float | None = None
    pool_shares: Mapping[str, float] | None = None

    @property
    def key(self) -> str:
        """Hash of everything that the result depends on; names the job's files."""
        content = self._content()
        for how in ("cwd", "timeout_minutes"):
            del content[how]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def result_path(self, folder: Path) -> Path:
        """Where the job's result is, or will be."""
        return folder / f"{self.key}.result.json"

    def again(self, attempt: int) -> CommandJob:
        """The job as it is tried again: the same."""
        return self

    def write(self, folder: Path) -> Path:
        """Write the job file into `folder` and return its path."""
        path = folder / f"{self.key}.job.json"
        write_atomically(path, json.dumps(self._content()))
        return path

    @classmethod
    def read(cls, path: Path) -> CommandJob:
        """The job that a file describes."""
        content = json.loads(path.read_text(encoding="utf-8"))
        content.pop("format")
        weights = np.array(content["requests"][0].pop("weights"), dtype=np.float64)
        content["requests"] = (ProxyRequest(weights=weights, **content["requests"][0]),)
        content["domains"], content["losses"] = tuple(content["domains"]), tuple(content["losses"])
        content["cwd"] = Path(content["cwd"])
        return cls(**content)

    def mixture(self) -> dict[str, Any]:
        """What the command is told, as ``mixture.json``."""
        (request,) = self.requests
        return {
            "weights": dict(zip(self.domains, request.weights.tolist(), strict=True)),
            "seed": request.init_seed,
            "data_seed": request.data_seed,
            "slot": request.slot,
            **({} if self.pool_shares is None else {"pool_shares": dict(self.pool_shares)}),
        }

    def _content(self) -> dict[str, Any]:
        (request,) = self.requests
        asked = {"slot": request.slot, "init_seed": request.init_seed, "data_seed": request.data_seed}
        return {
            "format": FORMAT,
            "requests": [{**asked, "weights": request.weights.tolist()}],
            "domains": list(self.domains),
            "command": self.command,
            "losses": list(self.losses),
            "facts": dict(self.facts),
            "cwd": str(self.cwd),
            "timeout_minutes": self.timeout_minutes,
            # jobs without them keep their names
            **({} if self.pool_shares is None else {"pool_shares": dict(self.pool_shares)}),
        }


class CommandRunner:
    """Trains proxies by a command of the user's, one job file per proxy, wherever the executor has room."""

    stack = 1
    """See :attr:`StreamingRunner.stack`."""

    def __init__(
        self,
        settings: RunnerConfig,
        executor: Executor,
        folder: Path,
        cwd: Path,
        execution: ExecutionConfig | None = None,
        workers: int = 1,
        pool_shares: Mapping[str, float] | None = None,
    ) -> None:
        """Bind the runner to its command and its devices.

        Args:
            settings: The command, its domains and losses.
            executor: Where jobs run; its task must be :func:`run_command_job`.
            folder: Where job files, result files and the command's folders are kept.
            cwd: Folder that the command runs in: the configuration's.
            execution: How long a job may take and how often it is tried.
            workers: Jobs that run at the same time, where proxies are proposed one by one.
            pool_shares: Share of each domain's text that the command should draw from; None: it is not told.

        Raises:
            ConfigError: If there is no command, or its placeholders are wrong.
        """
        if settings.command is None:
            raise ConfigError("runner.command: missing; give what trains one mixture, such as ./train.sh {mixture} {out}")
        check_command(settings.command)
        self._settings, self._command = settings, settings.command
        # Another node, or the command in its own folder, would not find relative paths.
        self._executor, self._folder, self._cwd = executor, folder.absolute(), cwd.absolute()
        self._execution = execution or ExecutionConfig()
        self.workers, self._pool_shares = workers, pool_shares
        self.domains: tuple[str, ...] = tuple(settings.domains)
        self.loss_names: tuple[str, ...] = settings.losses or self.domains

    @property
    def natural(self) -> NDArray[np.float64]:
        """Shares of the domains' tokens, shape ``(d,)``, sum 1."""
        tokens = np.array(list(self._settings.domains.values()), dtype=np.float64)
        return tokens / tokens.sum()

    def jobs(self, requests: Sequence[ProxyRequest]) -> list[CommandJob]:
        """One job per request, in the order of the slots."""
        return [
            CommandJob(
                (request,),
                self.domains,
                self._command,
                self.loss_names,
                self._settings.facts,
                self._cwd,
                self._settings.timeout_minutes,
                self._pool_shares,
            )
            for request in sorted(requests, key=lambda request: request.slot)
        ]

    def run(self, requests: Sequence[ProxyRequest], known: Collection[int] = ()) -> Generator[ProxyResult, None, None]:
        """See :meth:`ProxyRunner.run`.

        Raises:
            ProxyError: If the executor cannot run anything at all.
        """
        yield from fly(self._flight(), self.jobs([request for request in requests if request.slot not in known]))

    def stream(self, propose: Propose) -> Generator[ProxyResult, None, None]:
        """See :meth:`StreamingRunner.stream`.

        Raises:
            ProxyError: If the executor cannot run anything at all.
        """
        return fly_on(self._flight(), lambda: self.jobs(propose(1)), self.workers)

    def _flight(self) -> Flight:
        return Flight(self._executor, self._folder, self._execution)


def check_command(command: str) -> None:
    """Refuse a command with a misspelt placeholder; other braces belong to the shell (``${VAR}``, ``awk '{print}'``).

    Raises:
        ConfigError: If one is close to a known name, or a needed one is missing.
    """
    names = _PLACEHOLDER.findall(command)
    for name in names:
        if name not in PLACEHOLDERS and (close := difflib.get_close_matches(name.lower(), PLACEHOLDERS, n=1)):
            known = ", ".join(f"{{{one}}}" for one in PLACEHOLDERS)
            raise ConfigError(
                f"runner.command: unknown placeholder {{{name}}}; did you mean {{{close[0]}}}? There are: {known}; "
                f"braces for the shell are left alone as ${{{name}}} and {{{{{name}}}}}"
            )
    for name in ("mixture", "out"):
        if name not in names:
            raise ConfigError(f"runner.command: must name {{{name}}}, such as: ./train.sh {{mixture}} {{out}}")


def filled(command: str, values: Mapping[str, str | int]) -> str:
    """The command line with its placeholders replaced, each quoted for the shell."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        return shlex.quote(str(values[name])) if name in PLACEHOLDERS else match.group(0)

    return _PLACEHOLDER.sub(value, command)


def run_command_job(path: str, device: str) -> None:
    """Run the command of a job file and write the result file beside it; a run that ended well is not repeated.

    The command runs in a session of its own and ends with this process. On ``cuda:N`` it sees that GPU alone; on ``cuda``, all that
    this process sees.

    Args:
        path: The job file.
        device: Torch device of this worker.

    Raises:
        ProxyError: If the command fails, takes too long, or leaves metrics that cannot be read: it may be tried again.
    """
    job = CommandJob.read(Path(path))
    result, out = job.result_path(Path(path).parent), Path(path).parent / job.key
    if read_results(result) is not None:
        return
    out.mkdir(exist_ok=True)
    finished, metrics = out / supervisor.FINISHED, out / "metrics.json"
    if not finished.exists():
        _supervised(job, out, device)
    try:
        one = read_metrics(metrics, job)
        seconds = float(json.loads(finished.read_text(encoding="utf-8"))["seconds"])
    except (ProxyError, OSError, ValueError, KeyError, TypeError) as error:
        finished.unlink(missing_ok=True)  # the next attempt runs the command again
        raise error if isinstance(error, ProxyError) else ProxyError(f"{finished}: cannot be read ({error})") from error
    write_results(result, [dataclasses.replace(one, seconds=seconds)])


def _supervised(job: CommandJob, out: Path, device: str) -> None:
    mixture, log = out / "mixture.json", out / "log.txt"
    write_atomically(mixture, json.dumps(job.mixture(), indent=2))
    environment, device = _environment(device)
    told = job.mixture()
    values = {"mixture": str(mixture), "out": str(out), "seed": told["seed"], "data_seed": told["data_seed"], "device": device}
    environment.update({f"REGMIX_{name.upper()}": str(value) for name, value in values.items()})
    timeout = (job.timeout_minutes or 0.0) * 60
    begin = log.stat().st_size if log.exists() else 0
    arguments = [sys.executable, "-P", supervisor.__file__, str(out), str(timeout), str(GRACE_SECONDS), filled(job.command, values)]
    try:
        process = subprocess.Popen(
            arguments, cwd=job.cwd, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
    except OSError as error:
        raise ProxyError(f"{job.cwd}: the command cannot be started there ({error})") from error
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = process.stdout.read()
    finally:  # however we leave, the command ends: nothing else closes its supervisor's input
        process.stdin.close()
        process.stdout.read()  # until it is gone
        process.stdout.close()
        process.wait()
    verdict = json.loads(said) if said else {}
    if verdict.get("code") == 0:
        return
    if "error" in verdict:
        raise ProxyError(f"{out}: {verdict['error']}")
    if verdict.get("timed_out"):
        reason = f"the command took longer than runner.timeout_minutes ({job.timeout_minutes:g}) and was ended"
    elif (code := verdict.get("code")) is not None:
        reason = f"the command failed with exit code {code}" if code > 0 else f"the command was killed by signal {-code}"
    else:
        reason = "the command was told to end"
    raise ProxyError(f"{reason}; the end of {log}:\n{_tail(log, begin)}")


def _environment(device: str) -> tuple[dict[str, str], str]:
    """The command's environment, and its device's name there."""
    environment = {name: value for name, value in os.environ.items() if name not in SECRETS}
    kind, _, index = device.partition(":")
    if kind != "cuda" or not index:
        return environment, device
    visible = [one for one in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
    environment["CUDA_VISIBLE_DEVICES"] = visible[int(index)] if int(index) < len(visible) else index
    return environment, "cuda:0"  # the only one that it sees


def _tail(log: Path, begin: int) -> str:
    """The last lines that this attempt has printed."""
    try:
        with log.open("rb") as file:
            file.seek(max(begin, log.stat().st_size - 8192))
            text = file.read().decode("utf-8", errors="replace")
    except OSError as error:
        return f"({error})"
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.replace("\r\n", "\n").split("\n")]  # progress bars
    return "\n".join([line for line in lines if line][-LOG_LINES:])


def read_metrics(path: Path, job: CommandJob) -> ProxyResult:
    """The result in a metrics file: ``{"losses": {NAME: NUMBER}}``, or the losses alone.

    Args:
        path: The file.
        job: What it is a result of.

    Returns:
        The losses that are wanted; or, if one of them is NaN, infinite or absurd, a failure of the mixture's own.

    Raises:
        ProxyError: If the file is missing or broken, or lacks a loss.
    """
    shape = 'the command must write it as {"losses": {"NAME": NUMBER, ...}}'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ProxyError(f"{path}: the command ended well, but left no such file; {shape}") from None
    except (OSError, ValueError) as error:
        raise ProxyError(f"{path}: not JSON ({error}); {shape}") from None
    nested = isinstance(content, dict) and isinstance(content.get("losses"), dict)
    losses = content["losses"] if nested else content
    if not isinstance(losses, dict):
        raise ProxyError(f"{path}: not a JSON object; {shape}")
    wanted = {name: _number(path, losses, name, "loss") for name in job.losses}
    (request,) = job.requests
    for name, loss in wanted.items():
        if not abs(loss) <= ABSURD_LOSS:
            return ProxyResult(request.slot, {}, failure=f"diverged: the loss of {name} is {loss:g}", diverged=True)
    bits, tokens = content.get("bits_per_byte", {}), 0.0
    if not isinstance(bits, dict):
        raise ProxyError(f"{path}: 'bits_per_byte' must be an object with one number per loss")
    if "tokens" in content and "tokens" not in job.losses:
        tokens = _number(path, content, "tokens", "number")
        if not (math.isfinite(tokens) and tokens >= 0):
            raise ProxyError(f"{path}: 'tokens' is {tokens:g}, not a number of tokens")
    known_bits = {name: _number(path, bits, name, "number") for name in job.losses if name in bits}
    return ProxyResult(request.slot, wanted, bits_per_byte=known_bits, tokens=int(tokens))


def _number(path: Path, among: Mapping[str, Any], name: str, what: str) -> float:
    if name not in among:
        raise ProxyError(f"{path}: has no {what} '{name}'; it has: {', '.join(map(str, among)) or 'nothing'}")
    value = among[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ProxyError(f"{path}: the {what} '{name}' is {json.dumps(value)[:80]}, not a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf

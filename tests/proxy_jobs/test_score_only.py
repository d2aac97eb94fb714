"""Domains that are scored but never trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from regmix_active.config.load import load_config
from regmix_active.corpus.build import build_store
from regmix_active.corpus.store import TokenStore
from regmix_active.errors import ConfigError
from regmix_active.execution.base import Executor
from regmix_active.proxy.base import ProxyRequest
from regmix_active.proxy.job import run_job
from regmix_active.proxy.planning.planner import SwarmPlan
from regmix_active.proxy.runner import SwarmRunner


class HereExecutor:
    """Runs a job when it is asked how it went."""

    def __init__(self) -> None:
        self._jobs: list[Path] = []

    def submit(self, job: Path) -> None:
        self._jobs.append(job)

    def poll(self, timeout: float | None = None) -> list[tuple[Path, str | None]]:
        job = self._jobs.pop(0)
        run_job(str(job), "cpu")
        return [(job, None)]

    @property
    def running(self) -> list[Path]:
        return []

    def cancel(self, job: Path) -> None:
        self._jobs.remove(job)

    def __enter__(self) -> HereExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        return None


@pytest.fixture(scope="module")
def store(tiny: Path, cache: Path) -> TokenStore:
    return build_store(load_config(tiny).config.corpus, cache_dir=cache)


def swarm(store: TokenStore, tiny: Path, folder: Path, score_only: tuple[str, ...]) -> SwarmRunner:
    executor: Executor = HereExecutor()
    return SwarmRunner(store, load_config(tiny).config.proxy, SwarmPlan(2, 1), executor, folder, score_only)


def test_scored_but_not_trained(store: TokenStore, tiny: Path, tmp_path: Path) -> None:
    runner = swarm(store, tiny, tmp_path, ("code",))
    assert runner.domains == ("books", "talk")
    assert runner.loss_names == ("books", "code", "talk")
    assert runner.natural.sum() == pytest.approx(1)
    (result,) = runner.run([ProxyRequest(0, np.array([0.25, 0.75]), 1, 2)])
    assert result.shares == pytest.approx({"books": 0.25, "code": 0.0, "talk": 0.75}, abs=0.02)
    assert set(result.losses) == {"books", "code", "talk"}
    assert result.losses["code"] > max(result.losses["books"], result.losses["talk"])


def test_wrong_names_are_refused(store: TokenStore, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="score_only: unknown domain 'poems'; the domains are: books, code, talk"):
        swarm(store, tiny, tmp_path, ("poems",))
    with pytest.raises(ConfigError, match="fewer than two domains"):
        swarm(store, tiny, tmp_path, ("books", "code"))

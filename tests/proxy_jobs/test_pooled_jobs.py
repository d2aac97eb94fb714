"""Jobs whose proxies draw from pools: the same results stacked, alone, in halves and on any executor; without pools as ever."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regmix_active.config.execution import ExecutionConfig
from regmix_active.config.load import load_config
from regmix_active.config.schema import ProxyConfig, RunnerConfig
from regmix_active.corpus.build import build_store
from regmix_active.corpus.store import TokenStore
from regmix_active.errors import ProxyError
from regmix_active.proxy.base import ProxyRequest
from regmix_active.proxy.command import CommandJob, CommandRunner
from regmix_active.proxy.job import ProxyJob, read_results, run_job
from regmix_active.proxy.planning.planner import SwarmPlan
from regmix_active.proxy.pools import Pools
from regmix_active.proxy.runner import SwarmRunner

POOLS = Pools(4, (3, 5, None))
REQUESTS = tuple(ProxyRequest(slot, np.array([0.5, 0.3, 0.2]), 11, 20 + slot) for slot in range(4))
PLAIN = ProxyJob(REQUESTS[:1], ProxyConfig(layers=1), Path("/data/store"), "f00d")


@pytest.fixture(scope="module")
def store(tiny: Path, cache: Path) -> TokenStore:
    return build_store(load_config(tiny).config.corpus, cache_dir=cache)


def trained(job: ProxyJob, folder: Path) -> list[dict[str, Any]]:
    folder.mkdir()
    run_job(str(job.write(folder)), "cpu")
    results = read_results(job.result_path(folder))
    assert results is not None
    return [dataclasses.asdict(dataclasses.replace(result, seconds=0.0)) for result in results]


def test_a_job_without_pools_keeps_its_name_and_its_file(tmp_path: Path) -> None:
    """Its name is the hash of its content, by which results of searches that were begun are found."""
    fields = {"format", "requests", "proxy", "fingerprint", "store", "plan", "trunk", "stopping", "checkpoint_minutes", "halvings"}
    assert set(json.loads(PLAIN.write(tmp_path).read_text())) == fields
    command = CommandJob(REQUESTS[:1], ("a", "b", "c"), "train {mixture} {out}", ("a",), {"model": 1}, Path("/x"))
    assert command.key == "65490dee81d8ea0d"
    assert set(command.mixture()) == {"weights", "seed", "data_seed", "slot"}


def test_pools_are_in_the_job_file_and_in_its_name(tmp_path: Path) -> None:
    job = dataclasses.replace(PLAIN, pools=POOLS)
    assert ProxyJob.read(job.write(tmp_path)).pools == POOLS
    others = [dataclasses.replace(PLAIN, pools=Pools(5, POOLS.blocks)), dataclasses.replace(PLAIN, pools=Pools(4, (3, 5, 7)))]
    assert len({one.key for one in (PLAIN, job, *others)}) == 4
    path = job.write(tmp_path)
    path.write_text(path.read_text().replace('"blocks": [3,', '"blocks": ["3",'))
    with pytest.raises(ProxyError, match="not a job file"):
        ProxyJob.read(path)


def test_results_do_not_depend_on_the_company(store: TokenStore, tiny: Path, tmp_path: Path) -> None:
    proxy = load_config(tiny).config.proxy.model_copy(update={"tokens": 1_920, "curve": 1})
    job = ProxyJob(REQUESTS, proxy, store.path, store.fingerprint, pools=POOLS)
    whole = trained(job, tmp_path / "whole")
    assert whole == trained(job, tmp_path / "again")
    assert whole == trained(dataclasses.replace(job, halvings=1), tmp_path / "halves")
    one = trained(dataclasses.replace(job, requests=REQUESTS[1:2]), tmp_path / "alone")[0]
    assert one["losses"] == pytest.approx(whole[1]["losses"], abs=1e-5)
    full = trained(dataclasses.replace(job, pools=None), tmp_path / "full")
    assert all(a["losses"] != b["losses"] for a, b in zip(full, whole, strict=True))
    assert [a["shares"] for a in full] == [a["shares"] for a in whole], "pools change which blocks, not which domains"


def test_the_swarm_gives_its_pools_to_every_job() -> None:
    store: Any = type("Store", (), {"domains": ("a", "b", "c"), "path": Path("/s"), "fingerprint": "f"})()
    store.proxy_weights = lambda weights: weights
    executor: Any = None
    swarm = SwarmRunner(store, ProxyConfig(), SwarmPlan(2, 1), executor, Path("/x"), pools=POOLS)
    assert [job.pools for job in swarm.jobs(REQUESTS)] == [POOLS, POOLS]
    plain = SwarmRunner(store, ProxyConfig(), SwarmPlan(2, 1), executor, Path("/x"))
    assert [job.pools for job in plain.jobs(REQUESTS)] == [None, None]


def test_a_command_is_told_which_share_to_draw_from(tmp_path: Path) -> None:
    settings = RunnerConfig(command="cp {mixture} {out}/metrics.json", domains={"a": 1e9, "b": 3e9}, losses=("a",))
    executor: Any = None
    shares = {"a": 0.25, "b": 1.0}
    request = ProxyRequest(0, np.array([0.5, 0.5]), 1, 2)
    (told,) = CommandRunner(settings, executor, tmp_path, tmp_path, ExecutionConfig(), 1, shares).jobs([request])
    (plain,) = CommandRunner(settings, executor, tmp_path, tmp_path).jobs([request])
    assert told.mixture() == {**plain.mixture(), "pool_shares": shares}
    again = CommandJob.read(told.write(tmp_path))
    assert (again.key, again.mixture()) == (told.key, told.mixture())
    assert told.key != plain.key

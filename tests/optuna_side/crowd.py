"""Several processes on one study, and what they trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import TrialState

from tests.optuna_side.mixture_worker import DOMAINS, opened

WORKER = Path(__file__).with_name("mixture_worker.py")


def start(url: str, folder: Path, name: str, *, how: str, **settings: object) -> subprocess.Popen[str]:
    """A process on the study ``shared``; it waits until the folder has a file ``go``."""
    given = {"trials": 1, "initial": 16, "contended": False, "hold": False, **settings}
    given |= {"url": url, "how": how, "out": str(folder / f"{name}.jsonl"), "go": str(folder / "go")}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(WORKER.parents[2])}
    return subprocess.Popen(
        [sys.executable, str(WORKER), json.dumps(given)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def close(study: optuna.Study) -> None:
    """Close a study's connections, which Optuna leaves to the garbage collector."""
    study._storage.remove_session()
    if (engine := getattr(getattr(study._storage, "_backend", None), "engine", None)) is not None:
        engine.dispose()


@dataclass(frozen=True)
class Outcome:
    """What several processes made of a study.

    Attributes:
        errors: What they wrote of faults.
        trained: Number and mixture of each training.
        twice: Trainings beyond the first of their mixture.
        queued_once: How many of the enqueued mixtures were trained exactly once.
        unfinished: Trials that are not completed.
    """

    errors: list[str]
    trained: list[tuple[int, tuple[float, ...]]]
    twice: int
    queued_once: int
    unfinished: int


def crowd(
    url: str, folder: Path, *, how: str = "plain", processes: int = 8, trials: int = 5, queued: int = 8, **settings: object
) -> Outcome:
    """Let processes share a study, some mixtures of which are enqueued.

    Args:
        url: Storage.
        folder: Scratch, empty.
        how: ``plain`` or ``ours``: how the storage is opened.
        processes: How many.
        trials: Of each.
        queued: Mixtures in the queue.
        settings: Of the workers, such as ``initial`` and ``contended``.
    """
    study = optuna.create_study(study_name="shared", storage=opened(url, how), sampler=optuna.samplers.RandomSampler())
    rows = np.random.default_rng(0).dirichlet(np.ones(len(DOMAINS)), queued)
    for row in rows.tolist():
        study.enqueue_trial({f"w/{name}": share for name, share in zip(DOMAINS, row, strict=True)})
    workers = [start(url, folder, f"worker{i}", how=how, trials=trials, **settings) for i in range(processes)]
    (folder / "go").touch()
    try:
        errors = [worker.communicate(timeout=600)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    lines = [json.loads(line) for file in folder.glob("worker*.jsonl") for line in file.read_text().splitlines()]
    trained = [(number, tuple(mixture)) for number, mixture in lines]
    cells = [tuple(np.rint(np.array(mixture) / 1e-4)) for _, mixture in trained]
    counts = [sum(np.allclose(mixture, row) for _, mixture in trained) for row in rows]
    unfinished = sum(t.state != TrialState.COMPLETE for t in study.get_trials(deepcopy=False))
    close(study)
    return Outcome([e for e in errors if e], trained, len(cells) - len(set(cells)), sum(c == 1 for c in counts), unfinished)

"""One of several processes on one study: ``python mixture_worker.py SETTINGS``, settings as JSON.

It writes a line per trained mixture into a file of its own, so that a trial that two processes train shows.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from regmix_active.errors import StudyBusyError
from regmix_active.optuna import MixtureSampler, record_losses, suggest_mixture
from regmix_active.study.storage import open_storage

DOMAINS = ("books", "code", "news", "web")


class Contended(MixtureSampler):
    """After the initial design everybody wants the same mixture, and takes some time to choose it."""

    def _chosen(self, trials: Sequence[FrozenTrial], number: int, rng: np.random.Generator) -> NDArray[np.float64]:
        if number < self.initial:
            return super()._chosen(trials, number, rng)
        time.sleep(0.1)
        return np.eye(len(DOMAINS))[0]


def opened(url: str, how: str) -> str | BaseStorage:
    """A storage as regmix-active opens it (``ours``), or as somebody does who never heard of it (``plain``)."""
    if how == "ours":
        return open_storage(url)
    if url.startswith("journal:///"):
        return JournalStorage(JournalFileBackend(url.removeprefix("journal://")))
    return url


def main(settings: dict[str, Any]) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = (Contended if settings["contended"] else MixtureSampler)(DOMAINS, initial=settings["initial"])
    study = optuna.load_study(study_name="shared", storage=opened(settings["url"], settings["how"]), sampler=sampler)
    out, go = Path(settings["out"]), Path(settings["go"])
    out.touch()

    def objective(trial: optuna.Trial) -> float:
        mixture = suggest_mixture(trial, DOMAINS)
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps([trial.number, list(mixture.values())]) + "\n")
        while settings["hold"]:
            time.sleep(1)
        losses = {name: 3 + (share - 0.25) ** 2 for name, share in mixture.items()}
        record_losses(trial, losses)
        return sum(losses.values()) / len(losses)

    while not go.exists():
        time.sleep(0.01)
    try:
        study.optimize(objective, n_trials=settings["trials"])
    except StudyBusyError as error:
        sys.exit(f"busy: {error}")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

"""``regmix-active benchmark``: a group of measurements, loaded when one is asked for."""

from __future__ import annotations

from collections.abc import Mapping

import click

from regmix_active.cli import Verbs


class Benchmarks(Verbs):
    """The measurements, each in its own module."""

    verbs: Mapping[str, str] = {
        "search": "Replay recorded runs: how many runs each strategy needs, against RegMix, CLIMB, TPE.",
        "decision": "Answers within constraints, and whether their intervals hold, on an emulator of recorded runs.",
        "swarm": "Train on this machine: how fast stacked proxies are, against plain, compiled and HF loops.",
        "proxy": "What a proxy is worth: does it rank mixtures as a larger one does, how noisy is it?",
    }
    module = "regmix_active.cli.benchmark_{}"


@click.group(cls=Benchmarks)
def command() -> None:
    """Measure what this package claims, against its rivals.

    \b
      regmix-active benchmark search TABLE    searches, replayed on recorded runs
      regmix-active benchmark decision TABLE  answers within constraints, their intervals, other targets
      regmix-active benchmark swarm           the speed of training, on this machine
      regmix-active benchmark proxy           how proxies rank mixtures, and their noise
    """

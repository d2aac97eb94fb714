"""Warnings of engines and storages reach the terminal, each trouble once."""

from __future__ import annotations

import logging

from regmix_active.cli.launch import telling_troubles
from regmix_active.observer import Observer


class Listener(Observer):
    def __init__(self) -> None:
        self.told: list[str] = []

    def on_warning(self, text: str) -> None:
        self.told.append(text)


def test_a_trouble_is_told_once_and_only_of_engines_and_storages() -> None:
    listener = Listener()
    with telling_troubles(listener):
        for pause in (2, 4):
            logging.getLogger("regmix_active.study.durable").warning("storage x: away (trying again in %d s)", pause)
        logging.getLogger("regmix_active.execution.slurm_commands").warning("squeue: no answer; trying again in 2 seconds")
        logging.getLogger("regmix_active.search.loop").warning("proxy in slot 3 failed: which the view shows itself")
        logging.getLogger("regmix_active.execution.local").info("nothing to worry about")
    logging.getLogger("regmix_active.study.durable").warning("after the search")
    assert listener.told == ["storage x: away (trying again in 2 s)", "squeue: no answer; trying again in 2 seconds"]

"""``regmix-active study``: what is done with whole studies, loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping

import click

from regmix_active.cli import Verbs


class Studies(Verbs):
    """What can be done, each in its own module."""

    verbs: Mapping[str, str] = {
        "fork": "Start a study for changed domains from an old one's runs.",
        "list": "The studies in a storage, or in the run folders here.",
    }
    module = "regmix_active.cli.study_{}"


@click.group(cls=Studies)
def command() -> None:
    """Whole studies.

    \b
      regmix-active study fork runs/old --config new.yaml    after domains were added, removed, merged or split
      regmix-active study list                               which studies there are
    """

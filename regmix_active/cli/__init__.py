"""The command line: one module per verb, loaded when the verb is used."""

from __future__ import annotations

import errno
import sys
from collections.abc import Mapping
from importlib import import_module
from keyword import iskeyword
from typing import NoReturn

import click

from regmix_active import __version__
from regmix_active.cli.signals import answer_signals, exit_code
from regmix_active.errors import RegmixActiveError

VERBS = {
    "run": "Find a mixture: train proxies, round by round; continues a study that is there.",
    "status": "How far a run is, and what it has found.",
    "recommend": "Answer again from a run's study: another k or target, no training.",
    "export": "Write a run's mixture as your trainer reads it: Megatron-LM, nanotron, OLMo-core, Hugging Face ...",
    "import": "Add finished runs of others to a study: RegMix's, Olmix's, another study's.",
    "study": "Studies in a place, and studies whose domains change: list, fork.",
    "verify": "Train the found mixture and its rivals with fresh seeds.",
    "evaluate": "How well surrogates predict recorded runs: yours, RegMix's, Olmix's.",
    "benchmark": "Measure against rivals: the search (replayed runs), the swarm's speed, the proxy's noise.",
    "strategies": "The strategies that can choose the next mixtures, with their options.",
    "doctor": "What this machine has, and what a run would cost on it.",
    "init": "Write a commented configuration for your own text.",
}

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Verbs(click.Group):
    """Loads a verb's module on use, so that ``--help`` costs nothing.

    Attributes:
        verbs: What each verb is for, in the order in which a user meets them.
        module: Where a verb's ``command`` is; its name is filled in.
    """

    verbs: Mapping[str, str] = VERBS
    module = "regmix_active.cli.{}"

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in their order."""
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb's module and return its command."""
        if cmd_name not in self.verbs:
            return None
        command: click.Command = import_module(self.module.format(cmd_name + "_" * iskeyword(cmd_name))).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.verbs.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="regmix-active")
def cli() -> None:
    """Find the pre-training data mixture for a language model with few proxy runs.

    \b
      regmix-active run --budget 64 --verify    a mixture of the embedded corpus, in minutes
      regmix-active init texts/ -o mine.yaml    a configuration for your own text ...
      regmix-active run --config mine.yaml      ... and the search with it
      regmix-active doctor                      what a run would cost here

    A run that was stopped, or killed, continues where it was with the same command.
    """


def main() -> NoReturn:
    """Run the command line; errors of the user's are one message and an exit code, never a traceback."""
    answer_signals()
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.exceptions.Abort as abort:  # what click makes of a KeyboardInterrupt
        sys.exit(exit_code(abort.__cause__))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except RegmixActiveError as error:
        click.secho("error: ", fg="red", bold=True, nl=False, err=True)
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in DISK and error.filename is None:  # no fault of the user's that we could name
            raise
        click.secho("error: ", fg="red", bold=True, nl=False, err=True)
        where = error.filename2 or error.filename or "a file of the run"  # the second is what a temporary file was to become
        remedy = "make room" if error.errno in DISK else "move it away, or make it readable and writable"
        click.echo(f"{where}: {error.strerror}; {remedy}, then give the same command again. Nothing recorded is lost.", err=True)
        sys.exit(1)

"""The entry of a rank that :class:`~regmix_active.execution.launched.LaunchedExecutor` starts.

``python -m regmix_active.execution.rank BOARD --size N`` below a launcher: serves the board until it is closed.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from regmix_active.errors import ConfigError, RegmixActiveError
from regmix_active.execution.board import Board
from regmix_active.execution.local import Task
from regmix_active.execution.ranks import find_place, leave, serve_process

TRAIN = "regmix_active.proxy.job:run_job"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a board as one rank; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m regmix_active.execution.rank", description=__doc__)
    parser.add_argument("board", type=Path, help="folder of the board")
    parser.add_argument("--size", type=int, required=True, help="number of ranks that there must be")
    parser.add_argument("--task", default=TRAIN, metavar="MODULE:FUNCTION", help="what is done with a job file")
    given = parser.parse_args(arguments)
    try:
        board = Board(given.board)
        # Also while ranks find each other, which they do in native code: a driver that is gone by then ends them.
        board.end_process_without_driver()
        place = find_place()
        if place.size != given.size:
            raise ConfigError(f"the launcher started {place.size} ranks instead of {given.size}; look at its configuration file")
        serve_process(board, load_task(given.task), place)
        leave()
    except RegmixActiveError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def load_task(name: str) -> Task:
    """The function that ``module:function`` names."""
    module, _, function = name.partition(":")
    task: Task = getattr(importlib.import_module(module), function)
    return task


if __name__ == "__main__":
    sys.exit(main())

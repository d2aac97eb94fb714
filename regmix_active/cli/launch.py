"""Verbs that train, started on several ranks or machines: one of them drives, the others only train."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from regmix_active.config.execution import ExecutionConfig
    from regmix_active.config.schema import RunConfig
    from regmix_active.execution.ranks import Member
    from regmix_active.observer import Observer


@contextlib.contextmanager
def driving(execution: ExecutionConfig, *job_folders: Path) -> Iterator[Member | None]:
    """Go on as the driver, or train for it and exit when it is done.

    Args:
        execution: Names the Accelerate configuration, if there is one.
        job_folders: Where the driver will post jobs, one after the other, under the same paths on every machine.

    Yields:
        The place in a launch; None outside of one.
    """
    from regmix_active.execution.ranks import under_launcher

    boards = [folder / "board" for folder in job_folders]
    if under_launcher():
        from regmix_active.execution.ranks import find_place, join
        from regmix_active.proxy.job import run_job
        from regmix_active.study.lock import refuse_if_busy

        # A second driver in this folder would sweep away the first one's board before it is refused.
        if find_place().rank == 0:
            for folder in job_folders:
                refuse_if_busy(folder.parent if folder.name == "jobs" else folder.parent.parent)
        with join(boards[0]) as member:
            if member.place.rank != 0:
                member.serve(run_job)
                raise click.exceptions.Exit(0)
            yield member
        return
    _attend_if_told(boards, execution)
    yield None


def _attend_if_told(boards: Sequence[Path], execution: ExecutionConfig) -> None:
    """On the machines of an Accelerate configuration that are not its first: start this one's ranks, and stay until they end."""
    if execution.accelerate_config is None:
        return
    from functools import partial

    from regmix_active.execution.accelerate_config import launch_command, read_accelerate_config
    from regmix_active.execution.launched import attend

    launch = read_accelerate_config(execution.accelerate_config)
    if launch is not None and launch.machines > 1 and launch.machine_rank > 0:
        for board in boards:
            attend(partial(launch_command, launch), board)
        raise click.exceptions.Exit(0)


class _Troubles(logging.Handler):
    """Passes on what an engine or a storage is in trouble with, once: else a search that waits for it seems to hang."""

    sources = ("regmix_active.execution", "regmix_active.study")

    def __init__(self, view: Observer) -> None:
        super().__init__(logging.WARNING)
        self._view, self._last = view, ""

    def emit(self, record: logging.LogRecord) -> None:
        trouble = record.getMessage().partition("trying again in")[0]
        if record.name.startswith(self.sources) and trouble != self._last:
            self._last = trouble
            self._view.on_warning(record.getMessage())


@contextlib.contextmanager
def telling_troubles(view: Observer) -> Iterator[None]:
    """Show what is otherwise in the log alone."""
    handler, package = _Troubles(view), logging.getLogger("regmix_active")
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)


@contextlib.contextmanager
def tracked(config: RunConfig, folder: Path, view: Observer) -> Iterator[Observer]:
    """What watches a search: its view, and the trackers of ``execution.log_with``.

    Raises:
        ConfigError: If a tracker is unknown or not installed.
    """
    if not config.execution.log_with:
        yield view
        return
    from regmix_active.report.trackers import Observers, TrackedSearch, make_trackers

    trackers = make_trackers(config.execution.log_with, config.name, folder / "trackers")
    with TrackedSearch(trackers, config.model_dump(mode="json", exclude={"study"})) as search:
        yield Observers(view, search)

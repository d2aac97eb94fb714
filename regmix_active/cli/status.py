"""``regmix-active status``."""

from __future__ import annotations

from pathlib import Path

import click

from regmix_active.cli.common import console, load_run, run_argument, storage_option


@click.command()
@run_argument
@storage_option
def command(run: Path, storage: str | None) -> None:
    """How far RUN is: proxies by state, rounds, the best target so far and its mixture."""
    from collections import Counter

    import numpy as np
    from optuna.trial import TrialState
    from rich.markup import escape
    from rich.table import Table

    from regmix_active.report.console import shares_text
    from regmix_active.search.active import ActiveSearch
    from regmix_active.study.storage import public_url
    from regmix_active.study.target import Target
    from regmix_active.study.trials import duration

    loaded = load_run(run, {"study.storage": storage})
    search = ActiveSearch(loaded, out=run)
    record = search.open_record()
    history = record.history(Target.parse(loaded.config.target, record.meaning.loss_names))
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("study", escape(f"{record.study.study_name} in {public_url(search.storage)}"))
    budget = loaded.config.search.budget
    words = {
        TrialState.COMPLETE: "completed",
        TrialState.PRUNED: "stopped early",
        TrialState.RUNNING: "planned",
        TrialState.FAIL: "failed",
    }
    counts = {word: record.count(state) for state, word in words.items()}
    states = ", ".join(f"{count} {word}" for word, count in counts.items() if count or word != "stopped early")
    table.add_row("proxies", f"{states}; the budget is {budget}")
    imported = record.imported()
    for source, count in Counter(str(trial.user_attrs["source"]) for trial in imported).items():
        table.add_row("imported", escape(f"{count} {'run' if count == 1 else 'runs'} of {source}"))
    table.add_row("rounds", str(len(record.rounds())))
    table.add_row("time", str(duration(record.trials())).split(".")[0])
    table.add_row("target", escape(history.target.describe()))
    if np.isfinite(history.values).any():
        slot = int(history.slots[history.best])
        best = next((f"imported run {t.user_attrs['run']}" for t in imported if t.user_attrs["slot"] == slot), f"slot {slot}")
        table.add_row("best trained", escape(f"{history.values[history.best]:.4f} {history.target.unit} ({best})"))
        table.add_row("its mixture", escape(shares_text(history.space.as_dict(history.mixtures[history.best]))))
    again = f"regmix-active run --config {search.folder.config} --out {run}"
    if (missing := budget - counts["completed"] - counts["stopped early"]) > 0:
        following = f"{missing} proxies missing: {again}"
    elif search.folder.mixture.is_file():
        found_for = search.folder.answered()
        following = f"done; the mixture is in {search.folder.mixture}" + (f", found for {found_for}" if found_for else "")
    else:
        following = f"all proxies are trained, the answer is missing: {again}"
    table.add_row("next", escape(following))
    console().print(table, highlight=False, soft_wrap=True)

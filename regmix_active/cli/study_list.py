"""``regmix-active study list``."""

from __future__ import annotations

from pathlib import Path

import click

from regmix_active.cli.common import console, refuse_password


@click.command()
@click.argument("place", default="runs", metavar="[FOLDER|STORAGE]")
def command(place: str) -> None:
    """The studies in a storage, in a run folder, or in all run folders below FOLDER.  [default: runs]

    \b
      regmix-active study list
      regmix-active study list postgresql://me@host/studies
    """
    import optuna
    from optuna.trial import TrialState
    from rich.markup import escape
    from rich.table import Table

    from regmix_active.errors import RegmixActiveError, StudyError
    from regmix_active.study.place import public_url
    from regmix_active.study.record import StudyRecord
    from regmix_active.study.storage import default_storage, open_storage, open_study

    refuse_password(place, "STORAGE")
    if "://" in place:
        urls = {public_url(place): place}
    else:
        files = sorted({*Path(place).glob("study.db"), *Path(place).glob("*/study.db")})
        if not files:
            raise StudyError(f"{place}: no run folder with a study.db there; name a folder, or the URL of a storage")
        urls = {str(file.parent): default_storage(file.parent) for file in files}
    table = Table(box=None, pad_edge=False)
    for column in ("where", "study", "domains", "proxies", "imported"):
        table.add_column(column, justify="left" if column in ("where", "study") else "right")
    for where, url in urls.items():
        try:
            storage = open_storage(url, writing=False)
            names = sorted(optuna.get_all_study_names(storage))
        except RegmixActiveError as error:
            if len(urls) == 1:
                raise
            table.add_row(escape(where), escape(str(error)), style="yellow")
            continue
        for name in names:
            try:
                record = StudyRecord(open_study(storage, url, name, create=False))
                cells = [str(len(record.meaning.domains)), str(record.count(TrialState.COMPLETE)), str(len(record.imported()))]
            except StudyError:
                cells = ["another program's, or empty"]
            table.add_row(escape(where), escape(name), *cells)
    console().print(table, highlight=False, soft_wrap=True)

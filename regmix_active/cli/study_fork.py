"""``regmix-active study fork``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from regmix_active.cli.common import console, load_run, storage_option
from regmix_active.cli.new_study import show_added, show_intake, study_config

if TYPE_CHECKING:
    from regmix_active.study.fork import Pools
    from regmix_active.study.meaning import Meaning


@click.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.option("--config", required=True, metavar="NAME|FILE", help="Configuration of the new study.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder of the new study.  [default: runs/NAME]")
@click.option("--merge", "merges", multiple=True, metavar="NEW=A,B", help="A domain made of old ones; of one: renamed. Repeatable.")
@click.option("--split", "splits", multiple=True, metavar="OLD=A,B", help="A domain that was cut into new ones. Repeatable.")
@storage_option
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any key of the new configuration. Repeatable.")
@click.option("--dry-run", is_flag=True, help="Say what would carry over, write nothing.")
def command(
    old: Path,
    config: str,
    out: Path | None,
    merges: tuple[str, ...],
    splits: tuple[str, ...],
    storage: str | None,
    settings: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Start a study for changed domains from the runs of OLD, a run folder.

    Domains are compared by name. Runs that spent nothing on what is gone carry over, as imported runs: they cost no budget. A new
    domain has weight 0 in all of them and its loss is unknown. Whatever else a loss depends on must be as it was.

    \b
      regmix-active study fork runs/old --config new.yaml --dry-run
      regmix-active study fork runs/old --config new.yaml --merge web=news,blogs
      regmix-active study fork runs/old --config new.yaml --split code=python,c --merge prose=books
    """
    from regmix_active.errors import ConfigError, StudyError
    from regmix_active.search.active import ActiveSearch
    from regmix_active.study.fork import Fork, parse_groups
    from regmix_active.study.imported import describe_refusals
    from regmix_active.study.importing import trial_runs

    screen = console()
    merged, split = parse_groups(merges, "--merge"), parse_groups(splits, "--split")
    record = ActiveSearch(load_run(old, {"study.storage": storage}), out=old).open_record()
    loaded, folder = study_config(config, out, None, settings)
    if folder.resolve() == old.resolve():
        raise ConfigError(f"--out {folder}: is the old study's folder; name another")
    search = ActiveSearch(loaded, out=folder)
    with screen.status("reading the corpus"):
        meaning = search.meaning()
    before, after = _pools(record.meaning, meaning)
    runs = trial_runs(record)
    intake = Fork(record.meaning, meaning, merges=merged, splits=split, before=before, after=after).carry(runs)
    title = f"{old} ({len(record.meaning.domains)} → {len(meaning.domains)} domains):"
    show_intake(screen, intake, title, dry_run=dry_run)
    if not intake.runs:
        raise StudyError(f"{old}: no run carries over: {'; '.join(describe_refusals(intake.refused)) or 'it has none'}")
    if dry_run:
        screen.print("nothing was written (--dry-run)", highlight=False)
        return
    with screen.status(f"writing {len(intake.runs)} runs"):
        added = search.add_runs(intake.runs, f"fork of {record.study.study_name}", meaning)
    show_added(screen, search, added, len(intake.runs))


def _pools(old: Meaning, new: Meaning) -> tuple[Pools, Pools]:
    """The text of both, from the corpus cache where it holds both, else from what the studies say."""
    from regmix_active.corpus.lookup import find_store
    from regmix_active.corpus.store import TOKENIZER
    from regmix_active.study.fork import Pools

    pools = []
    for meaning in (old, new):
        store = find_store(str(meaning.facts.get("corpus.fingerprint", "")))
        if store is None:
            return Pools.of(old), Pools.of(new)
        records = store.manifest.domains
        pools.append(
            Pools(
                {record.name: float(record.target_tokens or record.train.tokens) for record in records},
                {record.name: record.train.sha256 + record.validation.sha256 for record in records},
                tokenizer=store.manifest.tokenizer,
                tokenizer_file=str(store.path / TOKENIZER),
            )
        )
    return pools[0], pools[1]

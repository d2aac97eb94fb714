"""``regmix-active init``."""

from __future__ import annotations

import re
from pathlib import Path

import click

from regmix_active.errors import ConfigError

TITLE = """\
A mixture search over the text in {folder}.

  regmix-active doctor --config {file}      what it would cost on this machine
  regmix-active run --config {file}         search; the same command continues a stopped search

Every key is here with its default and may be left out. A domain is a pool of text whose share is to be chosen:
  path: a file, a glob, a folder or a list of them (.jsonl .json .txt .parquet .csv, also .gz)
  text_key: the field that holds the text (default: text); dataset/subset/split: a dataset of the Hugging Face hub instead of a path
  natural_share: its share in the mixture you would use today (all domains or none; default: its share of the tokens)
  max_documents: read at most so many

The proxy's size is the one of the embedded corpus: right for a first look within minutes. For text in earnest, raise proxy.tokens,
proxy.width, proxy.layers, proxy.context and corpus.tokenizer.vocab_size."""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), default="regmix.yaml", show_default=True, help="File to write.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
def command(folder: Path, output: Path, force: bool) -> None:
    """Write a commented configuration for the text in FOLDER.

    Each subfolder becomes a domain, and so does each text file beside them (jsonl, txt, parquet, csv; gz).

    \b
      regmix-active init texts/ -o mine.yaml
      regmix-active run --config mine.yaml
    """
    from pydantic import ValidationError

    from regmix_active.config.schema import CorpusConfig, RunConfig
    from regmix_active.config.template import commented
    from regmix_active.corpus.discover import discover_domains

    if output.exists() and not force:
        raise ConfigError(f"{output} exists already; write another with -o, or overwrite it with --force")
    domains = discover_domains(folder)
    try:
        config = RunConfig(
            name=re.sub(r"[^A-Za-z0-9._-]+", "-", output.stem).strip("-._") or "mine", corpus=CorpusConfig(domains=domains)
        )
    except ValidationError as error:
        raise ConfigError(
            f"{folder}: {error.errors()[0]['msg'].removeprefix('Value error, ')}; rename it, then try again"
        ) from None
    try:
        output.write_text(commented(config, TITLE.format(folder=folder, file=output)), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{output}: cannot be written ({error.strerror}); choose another file with -o") from None
    click.echo(f"{output}: {len(domains)} domains ({', '.join(domains)})")
    click.echo(f"next: regmix-active run --config {output}")

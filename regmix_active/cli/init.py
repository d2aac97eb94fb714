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

Every key is here and may be left out for its default. A domain is a pool of text whose share is to be chosen:
  path: a file, a glob, a folder or a list of them (.jsonl .json .txt .parquet .csv, also .gz)
  text_key: the field that holds the text (default: text); dataset/subset/split: a dataset of the Hugging Face hub instead of a path
  natural_share: its share in the mixture you would use today (all domains or none; default: its share of the tokens)
  max_documents: read at most so many

{proxy}"""

SMALL = """\
The proxy's size is the one of the embedded corpus: right for a first look within minutes. For text in earnest, raise proxy.tokens,
proxy.width, proxy.layers, proxy.context and corpus.tokenizer.vocab_size, or start from a preset (init --preset)."""

PRESET = """\
Proxy, tokenizer and everything else are those of the preset {preset}; every other key of it may be changed here, too."""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), default="regmix.yaml", show_default=True, help="File to write.")
@click.option("--preset", metavar="NAME", help="Start from a preset's proxy and budget: tiny-4k, regmix-1m, regmix-60m, regmix-1b.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
def command(folder: Path, output: Path, preset: str | None, force: bool) -> None:
    """Write a commented configuration for the text in FOLDER.

    Each subfolder becomes a domain, and so does each text file beside them (jsonl, txt, parquet, csv; gz).

    \b
      regmix-active init texts/ -o mine.yaml
      regmix-active init texts/ --preset regmix-1m -o mine.yaml
      regmix-active run --config mine.yaml
    """
    from pydantic import ValidationError

    from regmix_active.config.load import load_preset
    from regmix_active.config.schema import RunConfig
    from regmix_active.config.template import commented
    from regmix_active.corpus.discover import discover_domains

    if output.exists() and not force:
        raise ConfigError(f"{output} exists already; write another with -o, or overwrite it with --force")
    base = load_preset(preset) if preset is not None else RunConfig()
    domains = discover_domains(folder)
    # The question of a preset (its target) is about domains of its own.
    corpus = {**base.corpus.model_dump(), "domains": {name: domain.model_dump() for name, domain in domains.items()}}
    data = {**base.model_dump(exclude={"target", "score_only"}), "corpus": corpus}
    data["name"] = re.sub(r"[^A-Za-z0-9._-]+", "-", output.stem).strip("-._") or "mine"
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(
            f"{folder}: {error.errors()[0]['msg'].removeprefix('Value error, ')}; rename it, then try again"
        ) from None
    try:
        title = TITLE.format(folder=folder, file=output, proxy=PRESET.format(preset=preset) if preset is not None else SMALL)
        output.write_text(commented(config, title), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{output}: cannot be written ({error.strerror}); choose another file with -o") from None
    click.echo(f"{output}: {len(domains)} domains ({', '.join(domains)})")
    click.echo(f"next: regmix-active run --config {output}")

"""The page ``docs/export/README.md`` and the README's table of exports: an example per format, of one mixture.

``python -m tests.export.examples`` writes the page and prints the table.
"""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path
from tempfile import TemporaryDirectory

from click.testing import CliRunner

from regmix_active.cli import cli
from regmix_active.export import available

FOLDER = Path(__file__).parents[2] / "docs" / "export"
PAGE = FOLDER / "README.md"

TARGET = "--target-tokens 2e11"
KNOWN = f"{TARGET} --tokens tokens.yaml"

COMMANDS = {
    "regmix": f"--format regmix {KNOWN}",
    "megatron": f"--format megatron --paths splits.yaml {KNOWN} -o blend",
    "gpt-neox": f"--format gpt-neox --paths splits.yaml {KNOWN}",
    "nanotron": f"--format nanotron --paths prepared.yaml {KNOWN}",
    "olmo-core": f"--format olmo-core --paths arrays.yaml {KNOWN}",
    "olmix": f"--format olmix {KNOWN}",
    "llm-foundry": f"--format llm-foundry --paths prepared.yaml {KNOWN} --sequence-length 4096",
    "torchtitan": f"--format torchtitan --paths text.yaml {KNOWN}",
    "levanter": f"--format levanter --paths text.yaml {KNOWN}",
    "hf-interleave": f"--format hf-interleave --paths text.yaml --lengths lengths.yaml {KNOWN}",
    "json": f"--format json {KNOWN}",
    "csv": f"--format csv {KNOWN}",
}

MEANING = {
    "regmix": "Keys are prefixes of file names: `--paths`, or the domains. The trainer divides by the sum, and restarts data.",
    "megatron": "One of the three files is enough. Megatron-LM divides by the sum and repeats a data set that is too small.",
    "gpt-neox": "A YAML file of its own. NeoX divides by the sum, repeats data, and stops without validation and test data.",
    "nanotron": "The section `data_stages`. A Nanoset divides by the sum; a folder that ends starts again.",
    "olmo-core": "OLMo-core refuses a source that is too small, so the repetition that is needed is written, and 1 % of room.",
    "olmix": "The section `mix` of a launch configuration; names are those of its `data.sources`.",
    "llm-foundry": "A part of its YAML. `--option weighting=repeat` or `choose` make one epoch the whole target run.",
    "torchtitan": "For torchtitan's main branch: `config.dataloader = mixture.dataloader()`. Sources are packed, then mixed.",
    "levanter": "The section `data`, of JSON, Parquet or hub data. The block is so large that small shares are not lost.",
    "hf-interleave": "Python: `mixture.mixture()` is an `IterableDataset`. Probabilities are per document: weight / mean length.",
    "json": "For everything else; `--mixture` reads it again.",
    "csv": "Likewise: `--mixture mixture.csv`.",
}

INTRODUCTION = """\
# Handing a mixture over

A weight of regmix-active is a share of the training **tokens**. Trainers mean other things by a weight: `regmix-active export`
converts. The examples below are of one mixture, and a test compares this page with what the commands write. With a run folder
instead of `--mixture FILE`, weights come from the run, and tokens and document lengths from its corpus, if the cache holds it;
formats that read text take its files, fields and splits from the run's configuration. A mixture that breaks a constraint of its
run is refused. `--drop-below 1e-6` leaves out what is too little to train on. `-o folder/` writes into a folder, `-o -` to
standard output.

"""


def run(arguments: str) -> tuple[dict[str, str], str]:
    """The files that a command writes, and what it shows, in a copy of the folder's inputs."""
    with TemporaryDirectory() as folder, contextlib.chdir(folder):
        for file in FOLDER.glob("*.yaml"):
            Path(file.name).write_bytes(file.read_bytes())
        result = CliRunner(env={"FORCE_COLOR": None, "TTY_COMPATIBLE": None}).invoke(
            cli, ["export", "--mixture", "mixture.yaml", *shlex.split(arguments)]
        )
        assert result.exit_code == 0, result.output
        if "-o blend" not in arguments:
            (name,) = files_of(arguments)
            return {name: result.stdout}, result.stderr
        return {path.name: path.read_text(encoding="utf-8") for path in sorted(Path("blend").iterdir())}, result.stdout


def files_of(arguments: str) -> list[str]:
    """Names of the files of a format."""
    name = shlex.split(arguments)[1]
    known = {
        "gpt-neox": "gpt-neox.yml",
        "json": "mixture.json",
        "csv": "mixture.csv",
        "torchtitan": "mixture.py",
        "hf-interleave": "mixture.py",
    }
    return [known.get(name, f"{name}.yaml")]


def trimmed(text: str) -> str:
    """Without blanks at the ends of lines."""
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines())


def page() -> str:
    """The text of the page."""
    parts = [INTRODUCTION, "| format | trainer | a weight is a share of | needs | data that ends |\n|---|---|---|---|---|\n"]
    for name, cls in available().items():
        if name in COMMANDS:
            parts.append(f"| [`{name}`](#{name}) | {cls.trainer} | {cls.unit}s | {cls.needed()} | {cls.exhausted} |\n")
    parts.append("\nThe mixture and what is known of its data:\n")
    for file in ("mixture", "tokens", "lengths"):
        parts.append(f"\n`{file}.yaml`\n\n```yaml\n{(FOLDER / f'{file}.yaml').read_text(encoding='utf-8')}```\n")
    others = ", ".join(f"[`{file}.yaml`]({file}.yaml)" for file in ("prepared", "splits", "arrays", "text"))
    parts.append(f"\nWhere the data is, as each trainer names it, is in {others}.\n")
    _, shown = run(COMMANDS["hf-interleave"])
    parts.append(
        f"\nBeside each file a table shows how often the target run repeats each domain:\n\n```text\n{trimmed(shown)}\n```\n"
    )
    for name, arguments in COMMANDS.items():
        files, _ = run(arguments)
        parts.append(
            f"\n## {name}\n\n{MEANING[name]}\n\n```console\n$ regmix-active export --mixture mixture.yaml {arguments}\n```\n"
        )
        for file, text in files.items():
            language = {"py": "python", "yml": "yaml"}.get(file.rpartition(".")[2], file.rpartition(".")[2])
            parts.append(f"\n`{file}`\n\n```{language}\n{text.rstrip()}\n```\n")
    return "".join(parts)


def short(name: str) -> str:
    """A command with no more than it needs."""
    needed = {"tokens", "target_tokens"} <= set(available()[name].needs)
    return COMMANDS[name] if needed else COMMANDS[name].replace(f" {KNOWN}", "").replace(" --sequence-length 4096", "")


def table() -> str:
    """The README's table of exports; its commands run in the folder of the page."""
    lines = ["| trainer | a weight is a share of | `regmix-active export --mixture mixture.yaml` … |", "|---|---|---|"]
    for name in COMMANDS:
        cls = available()[name]
        lines.append(f"| [{cls.trainer}](docs/export/README.md#{name}) | {cls.unit}s | `{short(name)}` |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(table(), end="")

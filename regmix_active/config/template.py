"""A configuration as commented YAML: every key with its documentation and its value, from the schema alone."""

from __future__ import annotations

import io
import json
import textwrap
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML

from regmix_active.config.schema import CorpusConfig, DomainConfig, RunConfig

WIDTH = 116


def commented(config: RunConfig, title: str) -> str:
    """The configuration with every key explained.

    Args:
        config: Its values are written.
        title: First lines of the file, without comment signs.
    """
    lines = [f"# {line}" if line else "#" for line in title.splitlines()]
    return "\n".join([*lines, *_section(config, 0)]) + "\n"


def _section(section: BaseModel, depth: int) -> list[str]:
    lines: list[str] = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if depth == 0 and isinstance(value, BaseModel):
            lines.append("")
        lines += _comment(field.description or (type(value).__doc__ or "").splitlines()[0], depth)
        if isinstance(value, BaseModel):
            lines += [f"{'  ' * depth}{name}:", *_section(value, depth + 1)]
        elif name == "domains" and value and isinstance(section, CorpusConfig):
            lines.append(f"{'  ' * depth}domains:")
            for domain, source in value.items():
                lines += [f"{'  ' * (depth + 1)}{_scalar(domain)}:", *_domain(source, depth + 2)]
        else:
            lines.append(f"{'  ' * depth}{name}: {_scalar(value)}")
    return lines


def _domain(source: DomainConfig, depth: int) -> list[str]:
    """Only what is set: a hundred domains with every key would hide what matters."""
    values = source.model_dump(mode="json", exclude_defaults=True)
    return [f"{'  ' * depth}{key}: {_scalar(value)}" for key, value in values.items()]


def _comment(text: str, depth: int) -> list[str]:
    indent = "  " * depth
    return textwrap.wrap(" ".join(text.split()), WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _scalar(value: Any) -> str:
    """One value in a line."""
    if isinstance(value, dict | list | tuple):
        # YAML contains JSON, and ruamel's own flow style does not quote every key that needs it (":x").
        return json.dumps(value, ensure_ascii=False)
    yaml = YAML(typ="safe", pure=True)
    yaml.width = 100_000
    stream = io.StringIO()
    yaml.dump(value, stream)
    # A plain scalar as a whole document is closed by an end marker.
    return stream.getvalue().removesuffix("...\n").strip()

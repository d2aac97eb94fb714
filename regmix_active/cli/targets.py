"""Targets as they are typed: options that several verbs share, and how they become the configuration's."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from regmix_active.errors import ConfigError
from regmix_active.study.spec import MEAN, NATURAL, number, same_targets

F = TypeVar("F", bound=Callable[..., Any])

LIMIT = re.compile(
    r"(?P<name>.+?)\s*<=\s*(?:(?P<natural>natural)\s*(?:(?P<share>[+-]\s*[\d.]+)\s*%)?|(?P<nats>[\d.eE+-]+))"
    r"\s*(?:@\s*(?P<probability>[\d.]+)\s*(?P<percent>%)?)?"
)
LIMIT_HELP = "write code<=natural+1%, code<=3.2 or all<=natural+1%@0.95 (a probability; default 0.9)"


def target_options(function: F) -> F:
    """``--target`` and what belongs to it; the function gets ``target`` (as the configuration takes it, or None) and ``targets``
    (by name, if several were typed, or None).
    """

    @functools.wraps(function)
    def read(
        *args: Any,
        target: tuple[str, ...],
        worst: bool,
        excess_over: str | None,
        relative: bool,
        limit: tuple[str, ...],
        **options: Any,
    ) -> Any:
        one, several = typed_targets(target, worst=worst, excess_over=excess_over, relative=relative, limits=limit)
        return function(*args, target=one, targets=several, **options)

    options = (
        click.option(
            "--target",
            metavar="TARGET",
            multiple=True,
            help="What is minimised: mean, the name of a loss, or weights such as books=7/52,code=0.3. Several times: the best "
            "trade-offs between several targets.  [default: the configuration's]",
        ),
        click.option("--worst", is_flag=True, help="Minimise the worst of the target's losses instead of their weighed sum."),
        click.option(
            "--excess-over",
            metavar="natural|FILE",
            help="Count how far losses are above those of the natural mixture, or above the nats per token by loss in a YAML file.",
        ),
        click.option("--relative", is_flag=True, help="Count --excess-over as shares of the references."),
        click.option(
            "--limit",
            metavar="LIMIT",
            multiple=True,
            help="What other losses must keep, such as 'code<=3.2', or 'all<=natural+1%@0.95' with a probability of 0.95.",
        ),
    )
    command: Any = read
    for option in reversed(options):
        command = option(command)
    return command


def target_overrides(target: Any, targets: dict[str, Any] | None) -> dict[str, Any]:
    """What :func:`target_options` read, as keys of the configuration; None where nothing was typed."""
    # One target that is typed takes the place of several in the file.
    return {"target": target, "targets": {} if target is not None and targets is None else targets}


def typed_targets(
    targets: Sequence[str], *, worst: bool, excess_over: str | None, relative: bool, limits: Sequence[str]
) -> tuple[Any, dict[str, Any] | None]:
    """The target of the configuration, and the targets of a trade-off, from what was typed; None where nothing was.

    Raises:
        click.BadParameter: If something typed cannot be read.
        ConfigError: If the file of references cannot be used.
    """
    more: dict[str, Any] = {}
    if worst:
        more["worst"] = True
    if excess_over is not None:
        more["excess_over"] = NATURAL if excess_over == NATURAL else read_references(Path(excess_over))
    if relative:
        if excess_over is None:
            raise click.BadParameter("needs --excess-over, of which the excess is a share", param_hint="--relative")
        more["relative"] = True
    if limits:
        pairs = [parse_limit(text) for text in limits]
        _once([name for name, _ in pairs])
        more["limits"] = dict(pairs)
    if not targets and not more:
        return None, None
    weights = [parse_target(text, fractions=True) for text in targets] or [MEAN]
    specs = [{"weights": one, **more} if more else one for one in weights]
    if len(specs) == 1:
        return specs[0], None
    if same_targets(weights) is not None:
        raise click.BadParameter("the same target twice; a trade-off needs different ones", param_hint="--target")
    return specs[0], dict(zip(targets, specs, strict=True))


def parse_target(text: str | None, *, fractions: bool = False) -> Any:
    """``mean``, ``books`` or ``books=0.7,code=3/10`` as a target of the configuration.

    Args:
        text: What was typed.
        fractions: Keep them as they are written, so that the configuration shows them.

    Raises:
        click.BadParameter: If a weight is not a number, or a name comes twice.
    """
    if text is None or text == MEAN:
        return text
    weights: dict[str, float | str] = {}
    for part in text.split(","):
        name, _, weight = part.partition("=")
        try:
            value = number(weight.strip() or "1", name)
        except ConfigError:
            raise click.BadParameter(
                f"{part!r}: write NAME or NAME=WEIGHT, for example books=0.7,code=0.3 or books=7/52", param_hint="--target"
            ) from None
        if name.strip() in weights:
            raise click.BadParameter(f"{text!r}: two weights for {name.strip()}; give it one", param_hint="--target")
        weights[name.strip()] = weight.strip() if fractions and "/" in weight else value
    return weights


def _once(names: Sequence[str]) -> None:
    """Refuse two limits of one loss, of which the second would replace the first."""
    if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
        raise click.BadParameter(f"a second limit for {repeated[0]}; give each loss one", param_hint="--limit")


def parse_limit(text: str) -> tuple[str, dict[str, float]]:
    """``code<=natural+1%@0.95`` or ``code<=3.2`` as a name and a limit of the configuration.

    Raises:
        click.BadParameter: If it is neither.
    """
    found = LIMIT.fullmatch(text.strip())
    try:
        if found is None:
            raise ValueError
        content: dict[str, float] = {}
        if found["natural"]:
            content["above_natural"] = round(float((found["share"] or "0").replace(" ", "")) / 100, 12)
        else:
            content["at_most"] = float(found["nats"])
        probability = float(found["probability"]) if found["probability"] else None
    except ValueError:
        raise click.BadParameter(f"{text!r}: {LIMIT_HELP}", param_hint="--limit") from None
    if content.get("at_most", 0.0) < 0:
        raise click.BadParameter(f"{text!r}: a loss is never below 0 nats; {LIMIT_HELP}", param_hint="--limit")
    if probability is not None:
        if found["percent"] or not 0 < probability < 1:
            raise click.BadParameter(
                f"{text!r}: a probability is between 0 and 1; for 95 % write @0.95, such as {found['name']}<=natural+1%@0.95",
                param_hint="--limit",
            )
        content["probability"] = probability
    return found["name"], content


def read_references(file: Path) -> dict[str, float]:
    """Losses by name, nats per token, from a YAML or JSON file.

    Raises:
        ConfigError: If it cannot be read, or holds anything else.
    """
    from regmix_active.config.plain_yaml import parse_yaml

    try:
        content, _ = parse_yaml(file.read_text(encoding="utf-8"), str(file))
    except OSError as error:
        hint = "name a YAML file of losses by name, or natural"
        raise ConfigError(f"--excess-over {file}: cannot be read ({error.strerror}); {hint}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--excess-over {file}: not UTF-8 text; save it as UTF-8") from None
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"--excess-over {file}: write a loss by name in each line, such as 'books: 3.1'")
    return {str(name): number(nats, f"--excess-over {file}: {name}") for name, nats in content.items()}

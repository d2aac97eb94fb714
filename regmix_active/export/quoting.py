"""Text that trainers parse as it is meant: names, numbers and comments of YAML and Python files.

Most trainers read YAML with PyYAML, which is YAML 1.1: there ``no`` is false, ``1:30`` is ninety and ``1e-05`` is text. So
names are in quotes unless they are harmless, and numbers have a decimal point.
"""

from __future__ import annotations

import json
import re

from .handover import Handover

_HARMLESS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:[-./][A-Za-z0-9_]+)*")
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "none", "nan", "inf"}
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def scalar(text: str) -> str:
    """Text as a value or a key of YAML, 1.1 and 1.2."""
    if _HARMLESS.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return quoted(text)


def quoted(text: str) -> str:
    """Text in double quotes, the same in JSON and YAML."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found.group()):04x}", json.dumps(text, ensure_ascii=False))


def number(value: float) -> str:
    """A float with all its digits, which YAML 1.1, YAML 1.2, JSON and Python read back as the same float."""
    text = repr(float(value))
    mantissa, exponent, power = text.partition("e")
    return f"{mantissa}.0{exponent}{power}" if exponent and "." not in mantissa else text


def epochs_text(handover: Handover, name: str) -> str:
    """``1.25 epochs``, or nothing if that is unknown."""
    epochs = handover.epochs(name)
    return "" if epochs is None else f"{epochs:.3g} epochs"


def remark(*parts: str) -> str:
    """A comment at the end of a line of YAML or Python; nothing if there is nothing to say."""
    said = ", ".join(part for part in parts if part)
    return f"  # {said}" if said else ""


def heading(handover: Handover, *lines: str) -> list[str]:
    """Lines at the top of a file: whose mixture it is, for how many tokens, and what the trainer makes of it."""
    goal = "" if handover.target_tokens is None else f", for {handover.target_tokens:,} training tokens"
    return [f"Mixture of the study {handover.study}{goal}; written by regmix-active export.", *lines]


def comments(lines: list[str]) -> str:
    """Lines as comments of YAML or Python."""
    return "".join(f"# {line}\n" if line else "#\n" for line in lines)

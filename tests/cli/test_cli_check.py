"""``regmix-active strategies --check``: the conformance suite from the command line."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

Command = Callable[..., "subprocess.CompletedProcess[str]"]

LAZY = """
from regmix_active import Strategy

class Lazy(Strategy):
    def propose(self, history, pending, n, rng):
        return history.mixtures[:n]
"""


def test_a_sound_strategy_is_told_so(command: Command) -> None:
    result = command("strategies", "--check", "dirichlet")
    assert result.returncode == 0, result.stderr
    assert "dirichlet: all 16 checks passed in" in result.stdout
    assert "ok      100 domains (" in result.stdout


def test_a_strategy_of_your_own_is_told_what_it_breaks(command: Command, tmp_path: Path) -> None:
    (tmp_path / "lazy.py").write_text(LAZY, encoding="utf-8")
    result = command("strategies", "--check", "lazy.py:Lazy")
    assert result.returncode == 1
    assert "error: Lazy: " in result.stderr
    assert "returned shape (16, 17) where (64, 17) was wanted" in result.stderr
    assert "is the mixture of row 0, which is trained, again" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_strategy_is_named(command: Command) -> None:
    result = command("strategies", "--check", "dirichlett")
    assert result.returncode == 2
    assert "did you mean 'dirichlet'?" in result.stderr

"""How formats are named, found, given options and brought by other packages."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import ClassVar

import pytest

from regmix_active.errors import ConfigError
from regmix_active.export import Exporter, Handover, available, export, exporter, load_exporter, registry

GIVEN = Handover("s", {"a": 0.5, "b": 0.5, "c": 0.0}, paths={"a": "x", "b": "y"})

PACKAGE = """
from dataclasses import dataclass

from regmix_active.export import Exporter


@dataclass(frozen=True)
class Mine(Exporter):
    trainer = "my trainer"
    unit = "sequence"
    needs = ("paths",)
    exhausted = "stops"

    scale: int = 100

    def files(self, handover):
        shares = handover.in_unit("sequence")
        return {"mine.txt": "".join(f"{handover.files(name)[0]}={round(w * self.scale)}\\n" for name, w in shares.items())}
"""


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    available()
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch, point: str, code: str = PACKAGE) -> None:
    """A package with an entry point, as pip leaves it."""
    (folder / "mine_package.py").write_text(code, encoding="utf-8")
    info = folder / "mine_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine-package\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[regmix_active.exporters]\n{point}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    monkeypatch.delitem(__import__("sys").modules, "mine_package", raising=False)


def test_another_package_brings_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch, "mine = mine_package:Mine")
    assert export("mine", GIVEN, scale=10) == {"mine.txt": "x=5\ny=5\n"}
    assert list(available())[-1] == "mine"
    with pytest.raises(ConfigError, match="--format mine needs paths of a, b"):
        export("mine", Handover("s", {"a": 0.5, "b": 0.5}))
    with pytest.raises(ConfigError, match="--format mine has no option 'size'; its options are: scale"):
        export("mine", GIVEN, size=1)


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ("broken = mine_package:Nothing", r"format 'broken' \(mine_package:Nothing\) cannot be loaded.*reinstall its package"),
        ("broken = no_such_package:Mine", "format 'broken' .* cannot be loaded"),
        ("broken = mine_package:dataclass", "is not an Exporter class"),
        ("broken = mine_package:Exporter", "format 'broken' .* has no `trainer`; add it"),
    ],
)
def test_another_package_is_broken(point: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch, point)
    with pytest.raises(ConfigError, match=message):
        export("broken", GIVEN)
    assert export("nanotron", GIVEN), "which does not stand in the way of others"


def test_a_name_is_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch, "megatron = mine_package:Mine")
    with pytest.raises(ConfigError, match=r"format 'megatron' of mine_package is already taken by regmix_active\.export\.megatron"):
        available()
    assert "data-args.txt" in export("megatron", GIVEN)


def test_a_decorated_class_is_found() -> None:
    @exporter("lines")
    class Lines(Exporter):
        trainer: ClassVar[str] = "none"
        unit = "token"
        exhausted = "–"
        zeros = "kept"

        def files(self, handover: Handover) -> dict[str, str]:
            return {"lines": "\n".join(handover.domains)}

    assert export("lines", GIVEN) == {"lines": "a\nb\nc"}
    assert Lines.name == "lines"
    exporter("lines")(Lines)  # loaded again


def test_unknown_names_and_options() -> None:
    with pytest.raises(ConfigError, match=r"--format megatrn: unknown format; did you mean 'megatron'\?"):
        load_exporter("megatrn")
    with pytest.raises(ConfigError, match="formats are: regmix, megatron, gpt-neox, nanotron, olmo-core, olmix"):
        load_exporter("qqq")
    with pytest.raises(ConfigError, match="--format json has no option 'seed'; its options are: none"):
        load_exporter("json", {"seed": 1})
    with pytest.raises(ConfigError, match=r"option 'weighting' = 'often'.*'proportion', 'repeat' or 'choose'"):
        load_exporter("llm-foundry", {"weighting": "often"})
    with pytest.raises(ConfigError, match=r"option 'seed' = 1\.5.*valid integer"):
        load_exporter("nanotron", {"seed": 1.5})

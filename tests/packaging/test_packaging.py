"""What users install: the sdist, the wheel built from it, and the editable install that developers have."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXPECTED = ["regmix_active/strategies/expected_improvement.py", "regmix_active/configs/embedded.yaml", "regmix_active/py.typed"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel built from it."""
    folder = tmp_path_factory.mktemp("dist")
    line = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(line, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_sdist_holds_the_mapped_folders(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.split("/", 1)[-1] for name in tar.getnames()}
    assert {"strategies/expected_improvement.py", "configs/embedded.yaml", "LICENSE", "README.md"} <= names


def test_wheel_runs_elsewhere(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert set(EXPECTED) <= names
    assert not any(name.startswith(("tests/", "strategies/", "configs/")) for name in names)
    target = tmp_path / "site"
    line = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(line, check=True, capture_output=True)
    check = (
        "import regmix_active.strategies, regmix_active.config.load as load, sys; "
        "assert regmix_active.__file__.startswith(sys.argv[1]), regmix_active.__file__; "
        "assert regmix_active.strategies.__file__.startswith(sys.argv[1]); "
        "print(sorted(regmix_active.strategies.available()), load.presets())"
    )
    # Without -E the target comes first on the path, before the editable install of the checkout.
    environment = {"PYTHONPATH": str(target), "PATH": "", "HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", check, str(target)], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "expected-improvement" in result.stdout
    assert "embedded" in result.stdout
    helped = subprocess.run(
        [sys.executable, str(target / "bin" / "regmix-active"), "strategies"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert helped.returncode == 0, helped.stderr
    assert "expected-improvement" in helped.stdout


def test_editable_install_finds_the_mapped_folders(tmp_path: Path) -> None:
    check = "import regmix_active.strategies as s, regmix_active.configs as c; print(s.__file__, c.__file__)"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr
    assert str(ROOT) in result.stdout


def test_version_is_one() -> None:
    from importlib.metadata import version

    import regmix_active

    assert version("regmix-active") == regmix_active.__version__

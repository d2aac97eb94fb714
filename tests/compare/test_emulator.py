"""The emulator is right where there is data, honest about how right, and has no holes where there is none."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from regmix_active.compare import emulator as module
from regmix_active.compare.emulator import MINIMUM_RUNS, Emulator
from regmix_active.errors import StudyError
from tests.compare.replays import Array, formula_table, true_losses


@pytest.fixture(scope="module")
def runs() -> tuple[Array, Array]:
    """Mixtures, and their losses with a metric that is nothing but noise and one that is missing in every third run."""
    table = formula_table(120)
    noise = np.random.default_rng(1).normal(10, 3, (120, 1))
    sparse = table.losses[:, :1].copy()
    sparse[::3] = np.nan
    return table.mixtures, np.concatenate([table.losses, noise, sparse], axis=1)


@pytest.fixture(scope="module")
def emulator(runs: tuple[Array, Array]) -> Emulator:
    return Emulator.fit(*runs)


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", 20)


def test_losses_of_new_mixtures(emulator: Emulator) -> None:
    new = np.random.default_rng(5).dirichlet(np.ones(4), 200)
    errors = emulator.losses(new)[:, [0, 1, 2, 4]] - true_losses(new)[:, [0, 1, 2, 0]]
    assert np.sqrt((errors**2).mean(axis=0)).max() < 0.1


def test_held_out_r2_tells_losses_from_noise(emulator: Emulator) -> None:
    assert emulator.held_out_r2.shape == (5,)
    assert (emulator.held_out_r2[[0, 1, 2, 4]] > 0.95).all()
    assert emulator.held_out_r2[3] < 0.2
    # Noise that is believed to be noise: the emulator says nearly the same of every mixture.
    assert emulator.noise_share[3] >= 0.3
    assert np.std(emulator.losses(np.eye(4))[:, 3]) < 1.5


def test_no_loss_falls_far_below_the_smallest_recorded_one(emulator: Emulator, runs: tuple[Array, Array]) -> None:
    rng = np.random.default_rng(2)
    anywhere = np.concatenate([np.eye(4), rng.dirichlet(np.full(4, 0.1), 5000)])
    low = np.nanmin(runs[1], axis=0)
    margin = np.nanquantile(runs[1], 0.1, axis=0) - low
    assert (emulator.losses(anywhere).min(axis=0) >= low - margin).all()


def test_many_mixtures_at_once_are_answered_as_each_by_itself(emulator: Emulator) -> None:
    some = np.random.default_rng(3).dirichlet(np.ones(4), module.CHUNK + 3)
    np.testing.assert_allclose(emulator.losses(some)[-2:], emulator.losses(some[-2:]), atol=1e-4)


@pytest.mark.usefixtures("few_steps")
def test_same_runs_and_seed_give_the_same_emulator(runs: tuple[Array, Array]) -> None:
    corners = np.eye(4)
    first, again, other = Emulator.fit(*runs), Emulator.fit(*runs), Emulator.fit(*runs, seed=1)
    np.testing.assert_array_equal(first.losses(corners), again.losses(corners))
    assert not np.array_equal(first.losses(corners), other.losses(corners))


def test_runs_of_one_mixture_share_a_fold() -> None:
    import torch

    mixtures = np.repeat(np.random.default_rng(0).dirichlet(np.ones(4), 30), 3, axis=0)
    fold = module._folds(mixtures, torch.Generator().manual_seed(0)).reshape(30, 3)
    assert (fold == fold[:, :1]).all()
    assert len(np.unique(fold)) == module.FOLDS


@pytest.mark.usefixtures("few_steps")
def test_cache_gives_what_was_fitted(runs: tuple[Array, Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "emulators"
    fitted = Emulator.cached(*runs, folder=folder)
    assert len(list(folder.iterdir())) == 1
    with monkeypatch.context() as no_fit:
        no_fit.delattr(Emulator, "fit")
        read = Emulator.cached(*runs, folder=folder)
    np.testing.assert_array_equal(read.losses(np.eye(4)), fitted.losses(np.eye(4)))
    np.testing.assert_array_equal(read.held_out_r2, fitted.held_out_r2)
    Emulator.cached(runs[0], runs[1] + 1, folder=folder)
    Emulator.cached(*runs, seed=1, folder=folder)
    assert len(list(folder.iterdir())) == 3


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_damaged_cache_is_fitted_again(
    content: bytes | None, runs: tuple[Array, Array], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fitted = Emulator.cached(*runs, folder=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:5000] if content is None else content)
    with caplog.at_level(logging.WARNING):
        again = Emulator.cached(*runs, folder=tmp_path)
    assert "is damaged" in caplog.text
    np.testing.assert_array_equal(again.losses(np.eye(4)), fitted.losses(np.eye(4)))
    assert Emulator._read(file)


@pytest.mark.usefixtures("few_steps")
def test_folder_that_cannot_be_written_costs_time_only(
    runs: tuple[Array, Array], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        Emulator.cached(*runs, folder=tmp_path / "file")
    assert "cannot be kept" in caplog.text


def test_too_few_runs_or_unfit_losses_are_refused(runs: tuple[Array, Array]) -> None:
    mixtures, losses = runs
    with pytest.raises(StudyError, match=f"needs {MINIMUM_RUNS} runs or more with every loss, there are 20"):
        Emulator.fit(mixtures[:20], losses[:20, :3])
    diverged = losses.copy()
    diverged[0, 0] = np.inf
    with pytest.raises(StudyError, match="leave diverged runs out"):
        Emulator.fit(mixtures, diverged)

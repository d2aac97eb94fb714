"""Fronts against brute force, and the joint belief about several targets against draws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regmix_active.study.target import Target
from regmix_active.surrogate.belief import TargetModel
from regmix_active.surrogate.fronts import all_kept, joint_targets, layers, non_dominated
from regmix_active.surrogate.gaussian_process import GaussianProcess
from regmix_active.testing.problems import broad_mixtures, problem_history

QUICK = settings(max_examples=40, derandomize=True, deadline=None)


@QUICK
@given(st.integers(0, 30), st.integers(1, 4), st.integers(0, 1000))
def test_non_dominated_rows(n: int, t: int, seed: int) -> None:
    """Small integers, so that equal rows and equal columns are among them."""
    values = np.random.default_rng(seed).integers(0, 5, size=(n, t)).astype(float)
    wanted = [not any((v <= row).all() and (v < row).any() for v in values) for row in values]
    assert non_dominated(values).tolist() == wanted


@QUICK
@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 1000))
def test_layers_begin_with_the_front(n: int, size: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(n, 2))
    rows = layers(values, size)
    assert len(rows) == len(set(rows.tolist())) == min(n, size)
    front = np.flatnonzero(non_dominated(values))
    assert set(rows.tolist()) <= set(front.tolist()) or set(front.tolist()) <= set(rows.tolist())


def models_of(*specs: Any, n: int = 16) -> list[TargetModel]:
    history = problem_history(4, n, 0)
    targets = tuple(Target.parse(spec, history.target.loss_names) for spec in specs)
    return TargetModel.several(replace(history, targets=targets), GaussianProcess(max_iterations=8))


def test_the_joint_belief_against_draws_of_functions() -> None:
    worst = {"weights": {"loss-1": 1, "loss-2": 1}, "worst": True}
    models = models_of({"loss-0": 1.0, "loss-1": 1.0}, {"loss-1": 1.0}, worst)
    mixtures = broad_mixtures(models[0].space, 6, 3)  # type: ignore[arg-type]
    joint = joint_targets(models, mixtures)
    assert joint.mean.shape == (6, 3)
    flat = joint.covariance.reshape(18, 18)
    np.testing.assert_allclose(flat, flat.T, atol=1e-12)
    assert np.linalg.eigvalsh(flat).min() > -1e-9
    for k, model in enumerate(models):
        mean, std = model.moments(mixtures)
        np.testing.assert_allclose(joint.mean[:, k], mean)
        np.testing.assert_allclose(np.sqrt(np.diag(joint.covariance[:, k, :, k])), std, rtol=1e-6)
    draws = np.stack([model.paths(4000, np.random.default_rng(0))(mixtures) for model in models], axis=2)
    found = np.corrcoef(draws.reshape(4000, 18).T)
    scale = np.sqrt(np.diag(flat))
    np.testing.assert_allclose(flat / np.outer(scale, scale), found, atol=0.25)
    assert flat[0, 1] / scale[0] / scale[1] > 0.3, "targets that share a loss err together"


def test_limits_that_targets_share_count_once() -> None:
    limits = {"loss-2": {"at_most": 3.3}}
    one = {"weights": {"loss-0": 1}, "limits": limits}
    models = models_of(one, {"weights": {"loss-1": 1}, "limits": limits})
    mixtures = broad_mixtures(models[0].space, 6, 3)  # type: ignore[arg-type]
    np.testing.assert_allclose(all_kept(models, mixtures).log_probability, models[0].kept(mixtures).log_probability)
    models = models_of(one, {"weights": {"loss-1": 1}, "limits": {"loss-1": {"at_most": 3.0}}})
    both = [model.kept(mixtures).log_probability for model in models]
    np.testing.assert_allclose(all_kept(models, mixtures).log_probability, np.sum(both, axis=0))
    assert all_kept(models_of("loss-0", "loss-1"), mixtures).surely.all()


def test_one_target_needs_no_list() -> None:
    history = problem_history(4, 16, 0, {"loss-0": 1.0})
    (model,) = TargetModel.several(history, GaussianProcess(max_iterations=8))
    assert model.predict(history.mixtures) == pytest.approx(history.losses[:, 0], abs=0.5)

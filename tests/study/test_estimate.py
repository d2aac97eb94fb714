"""Where a stopped proxy would have ended."""

from __future__ import annotations

import numpy as np

from regmix_active.study.estimate import LEAST_FINISHED, estimated_losses


def curves(early: np.ndarray) -> list[dict[str, dict[str, float]]]:
    return [{"100": {"a": float(row[0]), "b": float(row[1])}} for row in early]


def test_a_line_is_continued() -> None:
    rng = np.random.default_rng(0)
    early = 4 + rng.random((12, 2))
    late = 0.5 + early * [0.8, 0.6]
    found = estimated_losses(curves(np.array([[6.0, 4.5]])), curves(early), late, ("a", "b"))
    np.testing.assert_allclose(found, [[5.3, 3.2]])


def test_too_few_finished_proxies_say_nothing() -> None:
    early = np.ones((LEAST_FINISHED - 1, 2))
    assert np.isnan(estimated_losses(curves(np.ones((1, 2))), curves(early), early, ("a", "b"))).all()
    early = np.ones((LEAST_FINISHED, 2))
    found = estimated_losses([{"100": {"a": 1.5, "b": 1.0}}, {"50": {"a": 1.0, "b": 1.0}}, {}], curves(early), early, ("a", "b"))
    np.testing.assert_allclose(found[0], [1.5, 1.0])  # no slope to be seen: what was lost early is lost late
    assert np.isnan(found[1:]).all()

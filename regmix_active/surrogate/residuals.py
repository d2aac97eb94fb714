"""What held-out residuals say about doubt: how the losses of one proxy err together."""

from __future__ import annotations

import numpy as np

from regmix_active.surrogate.base import Array

PRIOR_RUNS = 10.0
"""Runs' worth of belief that losses err independently."""


def error_correlation(residuals: Array) -> Array:
    """Correlation between losses of standardised held-out residuals, shrunk towards none where runs are few, shape ``(m, m)``.

    Args:
        residuals: Shape ``(n, m)``, NaN where a loss is missing; a pair of losses counts where both are there.
    """
    seen = ~np.isnan(residuals)
    z = np.where(seen, residuals, 0.0)
    both = seen.T.astype(np.float64) @ seen
    norm = np.sqrt(np.maximum((z**2).T @ seen, 1e-300))
    correlation = (z.T @ z) / np.maximum(norm * norm.T, 1e-300) * both / (both + PRIOR_RUNS)
    np.fill_diagonal(correlation, 1.0)
    # Pairs with different rows can leave the set of correlation matrices.
    values, vectors = np.linalg.eigh(correlation)
    if values[0] < 0:
        correlation = (vectors * np.maximum(values, 0)) @ vectors.T
        scale = np.sqrt(np.diag(correlation))
        correlation /= np.outer(scale, scale)
    return correlation


def square_root(correlation: Array) -> Array:
    """A matrix A with A Aᵀ = `correlation`, shape ``(m, m)``."""
    values, vectors = np.linalg.eigh(correlation)
    root: Array = vectors * np.sqrt(np.maximum(values, 0))
    return root

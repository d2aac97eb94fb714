"""Warped weights: what Gaussian processes see of a mixture.

A loss answers to a domain's weight roughly as a power law, so that the step from 0 to 1 % matters more than that from 30 to
40 %. Each weight is warped on its own, which keeps lengthscales readable as relevances of domains; log-ratio coordinates would not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from botorch.models.transforms.input import InputTransform
from gpytorch.constraints import Interval
from gpytorch.module import Module
from gpytorch.priors import LogNormalPrior
from torch import Tensor

Warp = Literal["cube-root", "log", "power"]

SHIFT = 1e-5
"""Added to every weight before a root is taken: the slope at zero stays finite, so that gradients on the faces of the simplex are
numbers, and weights far below RegMix's grain of 2e-4 count as zero."""

LOG_SHIFT = 1e-2
"""Added before the logarithm; where the curve bends from linear to logarithmic."""


class WeightWarp(InputTransform, Module):
    """A BoTorch input transform from weights to warped weights, each from [0, 1] to [0, 1] and rising.

    ``cube-root`` and ``log`` are fixed; ``power`` learns its exponent with the model's other hyperparameters, one for all domains
    and losses, from a log-normal prior around the cube root.
    """

    raw_exponent: torch.nn.Parameter
    raw_exponent_constraint: Interval
    transform_on_train: bool
    transform_on_eval: bool
    transform_on_fantasize: bool
    is_one_to_many: bool

    def __init__(self, kind: Warp = "cube-root") -> None:
        """Choose the curve."""
        super().__init__()
        self.kind = kind
        self.transform_on_train = self.transform_on_eval = self.transform_on_fantasize = True
        self.is_one_to_many = False
        if kind == "power":
            self.register_parameter("raw_exponent", torch.nn.Parameter(torch.zeros(1, dtype=torch.float64)))
            Module.register_constraint(self, "raw_exponent", Interval(0.1, 1.0, initial_value=1 / 3))
            Module.register_prior(self, "exponent_prior", LogNormalPrior(-1.0, 0.3), _exponent_of, _set_exponent)

    @property
    def exponent(self) -> Tensor:
        """Power applied to each weight, shape ``(1,)``."""
        if self.kind != "power":
            return torch.full((1,), 1 / 3, dtype=torch.float64)
        learnt: Tensor = self.raw_exponent_constraint.transform(self.raw_exponent)
        return learnt

    def set_exponent(self, value: Tensor) -> None:
        """Give the learnt exponent a value between 0.1 and 1."""
        Module.initialize(self, raw_exponent=self.raw_exponent_constraint.inverse_transform(value))

    def transform(self, X: Tensor) -> Tensor:
        """Warped weights, shape ``(n, d)``."""
        return warped(X, self.kind, self.exponent)


def warped(X: Tensor, kind: Warp, exponent: Tensor) -> Tensor:
    """Weights ``(n, d)`` on the scale that the kernel sees; differentiable everywhere on the simplex.

    Args:
        X: Weights.
        kind: The curve.
        exponent: Power of the roots; not used by ``log``.
    """
    X = X.clamp(0.0, 1.0)
    curve: Callable[[Tensor], Tensor]
    if kind == "log":
        shift, curve = LOG_SHIFT, torch.log
    else:
        shift, curve = SHIFT, lambda t: t**exponent
    low, high = (curve(torch.full((1,), t, dtype=X.dtype)) for t in (shift, 1 + shift))
    return (curve(X + shift) - low) / (high - low)


def _exponent_of(module: Module) -> Tensor:
    learnt: Tensor = module.exponent
    return learnt


def _set_exponent(module: WeightWarp, value: Tensor) -> None:
    module.set_exponent(value)

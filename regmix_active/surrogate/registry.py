"""Surrogates by name. Modules load on demand: a Gaussian process needs no LightGBM."""

from __future__ import annotations

import difflib
from importlib import import_module

from regmix_active.errors import ConfigError
from regmix_active.surrogate.base import Surrogate

SURROGATES = {
    "gp": ("gaussian_process", "GaussianProcess"),
    "lightgbm": ("lightgbm", "LightGBM"),
    "log-linear": ("log_linear", "LogLinear"),
    "ensemble": ("ensemble", "Ensemble"),
    "auto": ("ensemble", "Auto"),
}


def load_surrogate(name: str) -> Surrogate:
    """A surrogate with its default settings.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in SURROGATES:
        close = difflib.get_close_matches(name, SURROGATES, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"choose one of: {', '.join(SURROGATES)}"
        raise ConfigError(f"search.surrogate: unknown surrogate '{name}'; {hint}")
    module, attribute = SURROGATES[name]
    surrogate: Surrogate = getattr(import_module(f"regmix_active.surrogate.{module}"), attribute)()
    return surrogate

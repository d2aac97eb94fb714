"""regmix-active: the pre-training data mixture of a language model, found with as few proxy runs as possible.

The public names, imported when they are first used: ``import regmix_active`` alone loads neither torch nor optuna.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_PUBLIC = {
    "AcquisitionStrategy": "regmix_active.strategies",
    "ActiveSearch": "regmix_active.search.active",
    "FunctionRunner": "regmix_active.proxy.runner",
    "History": "regmix_active.study.history",
    "MixtureSpace": "regmix_active.mixture.space",
    "Observer": "regmix_active.observer",
    "ProxyRunner": "regmix_active.proxy.base",
    "Recommendation": "regmix_active.recommend.simulate",
    "RunConfig": "regmix_active.config.schema",
    "Strategy": "regmix_active.strategies",
    "Surrogate": "regmix_active.surrogate.base",
    "TargetBelief": "regmix_active.surrogate.belief",
    "load_config": "regmix_active.config.load",
    "strategy": "regmix_active.strategies",
}

__all__ = [
    "AcquisitionStrategy",
    "ActiveSearch",
    "FunctionRunner",
    "History",
    "MixtureSpace",
    "Observer",
    "ProxyRunner",
    "Recommendation",
    "RunConfig",
    "Strategy",
    "Surrogate",
    "TargetBelief",
    "__version__",
    "load_config",
    "strategy",
]

if TYPE_CHECKING:
    from regmix_active.config.load import load_config
    from regmix_active.config.schema import RunConfig
    from regmix_active.mixture.space import MixtureSpace
    from regmix_active.observer import Observer
    from regmix_active.proxy.base import ProxyRunner
    from regmix_active.proxy.runner import FunctionRunner
    from regmix_active.recommend.simulate import Recommendation
    from regmix_active.search.active import ActiveSearch
    from regmix_active.strategies import AcquisitionStrategy, Strategy, strategy
    from regmix_active.study.history import History
    from regmix_active.surrogate.base import Surrogate
    from regmix_active.surrogate.belief import TargetBelief


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

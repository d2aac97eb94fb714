"""Acquisition strategies, one per file: which mixtures to train next.

A strategy is a class with its options as typed fields and one method, :meth:`Strategy.propose`. Most strategies only score
candidates by a belief about the target: they derive from :class:`AcquisitionStrategy` and write :meth:`AcquisitionStrategy.score`.

Files of this folder register themselves; other packages do so through the entry-point group ``regmix_active.strategies``; a
single file is named as ``path/to/file.py:Name``.
"""

from .base import AcquisitionStrategy, Strategy
from .registry import available, load_strategy, strategy

__all__ = ["AcquisitionStrategy", "Strategy", "available", "load_strategy", "strategy"]

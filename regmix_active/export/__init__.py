"""From a mixture to the files of the trainer that takes it: one module per format.

A weight of regmix-active is a share of training *tokens*. Trainers mean other things by a weight: sequences, examples,
repetitions. Each module says what its trainer means, and how that is known, and converts. Other packages add formats through
the entry-point group ``regmix_active.exporters``.
"""

from .base import Exporter, export
from .handover import Handover
from .registry import available, exporter, load_exporter

__all__ = ["Exporter", "Handover", "available", "export", "exporter", "load_exporter"]

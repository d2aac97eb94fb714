"""Conformance suites for strategies and surrogates of your own, each in one line::

    from regmix_active.testing import check_strategy

    def test_my_strategy():
        check_strategy(MyStrategy())

What is violated is collected and raised as one :class:`ConformanceError` that says what was seen and how to mend it; otherwise a
:class:`ConformanceReport` comes back that prints what was checked and how long it took. ``regmix-active strategies --check
path/to/file.py:MyStrategy`` does the same on the command line.
"""

from .report import Check, ConformanceError, ConformanceReport
from .strategies import check_strategy
from .surrogates import check_surrogate

__all__ = ["Check", "ConformanceError", "ConformanceReport", "check_strategy", "check_surrogate"]

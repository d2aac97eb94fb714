"""What a conformance suite found: checks with their faults, a report, and the error that carries it."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from regmix_active.errors import RegmixActiveError

log = logging.getLogger(__name__)


@dataclass
class Check:
    """One demand, and what was found when it was examined.

    Attributes:
        name: What is demanded.
        faults: What violates it, with numbers and the remedy; empty if it is met.
        notes: What is worth knowing and nobody's fault.
        seconds: Time that it took. Slowness is no fault: it depends on the machine.
        error: What the examined code raised, if it did.
    """

    name: str
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    error: Exception | None = None

    def fault(self, text: str) -> None:
        """Note a violation."""
        self.faults.append(text)

    def note(self, text: str) -> None:
        """Note something that is no violation."""
        self.notes.append(text)


@dataclass(frozen=True)
class ConformanceReport:
    """All checks of one strategy or surrogate; printing it shows them as a list.

    Attributes:
        subject: What was examined.
        checks: In the order in which they ran.
    """

    subject: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every demand is met."""
        return not any(check.faults for check in self.checks)

    @property
    def seconds(self) -> float:
        """Time that all checks took together."""
        return sum(check.seconds for check in self.checks)

    def __str__(self) -> str:
        failed = sum(bool(check.faults) for check in self.checks)
        verdict = f"{failed} of {len(self.checks)} checks failed" if failed else f"all {len(self.checks)} checks passed"
        lines = [f"{self.subject}: {verdict} in {self.seconds:.1f} s"]
        for check in self.checks:
            lines.append(f"  {'FAILED' if check.faults else 'ok':6}  {check.name} ({check.seconds:.1f} s)")
            lines += [f"          {text}" for text in (*check.faults, *check.notes)]
        return "\n".join(lines)


class ConformanceError(RegmixActiveError, AssertionError):
    """Demands that are not met; the message is the report.

    Attributes:
        report: What was found.
    """

    def __init__(self, report: ConformanceReport) -> None:
        super().__init__(str(report))
        self.report = report


def examine(subject: str, checks: Mapping[str, Callable[[Check], None]]) -> ConformanceReport:
    """Run all checks, whatever the earlier ones found.

    Args:
        subject: What is examined.
        checks: By what they demand; each notes its faults in the check that it is handed, and may raise.

    Raises:
        ConformanceError: If there is any fault.
    """
    __tracebackhide__ = True
    done: list[Check] = []
    for name, run in checks.items():
        check = Check(name)
        start = time.perf_counter()
        try:
            run(check)
        except Exception as error:
            log.debug("%s: %s", subject, name, exc_info=True)
            place = traceback.extract_tb(error.__traceback__)[-1]
            check.fault(f"raised {type(error).__name__}: {error} (at {place.filename}:{place.lineno})")
            check.error = error
        check.seconds = time.perf_counter() - start
        done.append(check)
    report = ConformanceReport(subject, tuple(done))
    if not report.passed:
        # The first traceback of the examined code's own shows where to begin.
        raise ConformanceError(report) from next((check.error for check in done if check.error is not None), None)
    return report

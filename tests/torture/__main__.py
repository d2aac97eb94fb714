"""``make torture``: the faults that take too long for ``make test``, one after the other, and a table of what came of them.

    python -m tests.torture [--case NAME ...] [--list] [--seed 0] [--quick]

Moments of faults are random, from the seed and the case's name; the machine's mood decides what they hit. Everything happens in
temporary folders, which stay only where a case failed. Servers are real ones, on loopback; a case without its server is skipped.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import signal
import sys

from rich.console import Console

from tests.torture.harness import CASES, Verdict, run_case, summary

MODULES = ("driver_kills", "signals", "two_drivers", "workers", "disk", "storage_faults", "clock", "clusters", "sampler_cases")


def main() -> int:
    """Run the cases; 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description="Faults that a search must survive.")
    parser.add_argument("--case", nargs="+", metavar="NAME", help="only these; the start of a name stands for all that begin so")
    parser.add_argument("--list", action="store_true", help="name the cases and their bars")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which faults strike")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: a look whether the cases themselves work")
    options = parser.parse_args()
    for module in MODULES:
        if importlib.util.find_spec(f"tests.torture.{module}") is not None:
            importlib.import_module(f"tests.torture.{module}")
    wanted = [one for one in CASES.values() if options.case is None or one.name.startswith(tuple(options.case))]
    if not wanted:
        print(f"no case begins with {options.case}; there are: {', '.join(CASES)}", file=sys.stderr)
        return 2
    plain = Console()
    console = plain if plain.is_terminal else Console(width=150)
    if options.list:
        for one in wanted:
            console.print(f"{one.name}: {one.bar}", markup=False, highlight=False, soft_wrap=True)
        return 0
    # So that servers, drivers and mounts of a case are gone whatever ends it; and drivers started from a shell's background job,
    # which ignores Ctrl-C, must heed it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    verdicts: list[Verdict] = []
    try:
        for place, one in enumerate(wanted, 1):
            console.print(f"{place}/{len(wanted)} {one.name}: {one.bar}", style="bold", markup=False, highlight=False)
            verdicts.append(run_case(one, options.seed, options.quick, console))
            last = verdicts[-1]
            console.print(f"  {last.state}: {last.figures} ({last.seconds:.0f} s)", markup=False, highlight=False)
    except KeyboardInterrupt:
        console.print(f"interrupted; {len(verdicts)} of {len(wanted)} cases ran")
        return 130
    finally:
        console.print(summary(verdicts, options.seed))
    return int(any(verdict.state == "fail" for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())

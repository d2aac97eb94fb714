"""``make feasibility``: hundreds of random feasible sets through every room that makes mixtures, and fifty without any mixture.

The test suite tries some of them; this tries as many as are asked for, and prints what it counted.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import numpy as np

from regmix_active.mixture.geometry import InfeasibleError
from regmix_active.mixture.space import MixtureSpace
from regmix_active.strategies.registry import BUILT_IN
from tests.feasibility.checks import check_answer, check_designs, check_export, check_geometry, check_strategy_batch
from tests.feasibility.sets import feasible_set, impossible, made


def main() -> None:
    """Try the sets."""
    parser = argparse.ArgumentParser(prog="python -m tests.feasibility", description=__doc__)
    parser.add_argument("--sets", type=int, default=200, help="random feasible sets")
    parser.add_argument("--impossible", type=int, default=50, help="sets without any mixture")
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    asked = parser.parse_args()
    checks: dict[str, Callable[[MixtureSpace, int], None]] = {
        "projection, random mixtures, rounding": check_geometry,
        "designs and candidates": check_designs,
        **{f"strategy {name}": partial(check_strategy_batch, name=name) for name in BUILT_IN},
        "simulation and recommendation": check_answer,
        "exports": check_export,
    }
    kept: Counter[str] = Counter()
    broken: list[str] = []
    sizes, began = [], time.monotonic()
    for seed in range(asked.first, asked.first + asked.sets):
        space, _ = feasible_set(seed)
        sizes.append(space.dim)
        for name, check in checks.items():
            try:
                check(space, seed)
                kept[name] += 1
            except AssertionError as error:
                broken.append(f"set {seed} ({space.dim} domains), {name}: {str(error).splitlines()[0][:300]}")
        if (seed + 1) % 10 == 0:
            print(f"{seed + 1 - asked.first} sets, {time.monotonic() - began:.0f} s, {len(broken)} broken", flush=True)
    for name, count in kept.items():
        print(f"{name}: {count} of {asked.sets} sets ({min(sizes)} to {max(sizes)} domains)")
    explained, smallest = 0, 0
    for seed in range(asked.impossible):
        mixture, natural, fewest = impossible(seed)
        try:
            made(mixture, natural)
        except InfeasibleError as error:
            explained += 1
            named = re.match(r"no mixture satisfies (?:these (\d+) constraints|this constraint)", str(error))
            smallest += named is not None and int(named[1] or 1) == fewest
    print(f"without any mixture: {explained} of {asked.impossible} explained, {smallest} of them by the fewest constraints")
    print(*broken, sep="\n")
    raise SystemExit(bool(broken) or min(explained, smallest) < asked.impossible)


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()

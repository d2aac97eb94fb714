"""A scripted trainer: a power law of the weights and the seeds, a ledger of what it did, and a plan of what it should suffer.

``python -S -E trainer.py MIXTURE OUT LEDGER PLAN``; the standard library only, so that it starts in a blink. The plan is JSON::

    {"seconds": [0.1, 0.3],                  how long a training sleeps
     "losses": {"books": "books"},           names of the losses in the metrics, by domain
     "failing": [0.1, 7],                    probability that an attempt exits with 1, and a seed
     "slots": {"3": ["fail", "hang"]}}       what slot 3 suffers at its first, its second attempt; then it is well
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    mixture, out, ledger, plan_file = (Path(argument) for argument in sys.argv[1:5])
    told, plan = json.loads(mixture.read_text()), json.loads(plan_file.read_text())
    slot, lines = told["slot"], read_ledger(ledger)
    starts = [line for line in lines if line["slot"] == slot and line["what"] == "start"]
    attempt = len(starts)
    # Two trainers of one proxy at once would ruin each other's checkpoints.
    doubled = any(alive(line["pid"], out) for line in starts)
    write(ledger, what="start", slot=slot, attempt=attempt, doubled=doubled)
    suffers = plan.get("slots", {}).get(str(slot), [])
    rate, seed = plan.get("failing", [0.0, 0])
    fate = suffers[attempt] if attempt < len(suffers) else "fail" if uniform(seed, slot, attempt) < rate else ""
    low, high = plan["seconds"]
    time.sleep(low + (high - low) * uniform("seconds", slot, attempt))
    suffer(fate, out)
    losses = law(told, plan["losses"])
    (out / "metrics.json").write_text(json.dumps({"losses": losses, "tokens": 1000}))
    write(ledger, what="end", slot=slot, attempt=attempt)
    if isinstance(fate, dict):
        fill(Path(fate["fill"]), fate["leave"])


def suffer(fate: object, out: Path) -> None:
    if fate == "fail":
        sys.exit("told to fail")
    if fate == "hang":
        time.sleep(3600)
    if fate == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if fate == "killed":  # as by the system when memory runs out: exit code 137 of the shell
        os.kill(os.getpid(), signal.SIGKILL)
    if fate == "memory":
        limit = 256 << 20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        bytearray(2 * limit)
    if fate == "nonsense":
        (out / "metrics.json").write_text('{"losses": {"books": 1.0')
        sys.exit(0)


def law(told: dict[str, Any], names: dict[str, str]) -> dict[str, float]:
    """Losses by name: each domain falls with its own share and helps its neighbour a little; seeds add noise."""
    weights = list(told["weights"].values())
    losses = {}
    for index, (domain, weight) in enumerate(told["weights"].items()):
        neighbour = weights[(index + 1) % len(weights)]
        noise = 0.01 * (uniform(told["seed"], told["data_seed"], domain, repr(weights)) - 0.5)
        losses[names[domain]] = 1.5 + 0.3 * index + (0.4 + 0.2 * index) / (0.05 + weight + 0.2 * neighbour) ** 0.4 + noise
    return losses


def uniform(*parts: object) -> float:
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def fill(place: Path, leave: int) -> None:
    """Use up a small file system, but for so many pages."""
    filler = place / f"filler-{os.getpid()}"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
        file.truncate(max(0, file.tell() // 4096 - leave) * 4096)


def alive(pid: int, out: Path) -> bool:
    if pid == os.getpid():
        return False
    try:
        return str(out).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def read_ledger(ledger: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.exists() else []


def write(ledger: Path, **entry: object) -> None:
    descriptor = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, (json.dumps({**entry, "pid": os.getpid(), "time": time.time()}) + "\n").encode())
    os.close(descriptor)


if __name__ == "__main__":
    main()

"""The test suite of the GPU kernels: ``pytest -m gpu``, in a process for each op and dtype."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from .processes import Ended, run_all
from .settings import Settings, append, settings_of

ROOT = Path(__file__).parents[2]
AT_ONCE = 16  # of 80 GB: a process takes one
CONTRACTS = "tests/gpu/test_contracts.py"
# Compiling what each layout and dtype specialises takes most of the time: on cores of their own.
PARTS = {
    "bfloat16": "bfloat16",
    "float16": "float16 and not bfloat16",
    "float32": "not float16",  # and what has no dtype
}
DRY_CHOICE = "Alignment and primes and agreement or covered"


def commands(settings: Settings) -> dict[str, list[str]]:
    """Return one pytest for each part of a contract, and one for what is beside the contracts."""
    pytest = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "-rs"]
    if settings.dry_run:
        return {"all": [*pytest, CONTRACTS, "-k", DRY_CHOICE]}
    found, classes = {}, []
    for op in settings.ops():
        if op.endswith("_backward"):
            continue  # its forward's contract tests it
        text = (ROOT / f"tests/ops/test_{op}.py").read_text(encoding="utf-8")
        name = re.search(r"^class (Test\w+)\(\w*Contract\):", text, re.MULTILINE)
        if name is None:
            raise ValueError(f"tests/ops/test_{op}.py: expected a contract class")
        classes.append(name[1])
        for part, choice in PARTS.items():
            found[f"{op} {part}"] = [*pytest, f"{CONTRACTS}::{name[1]}", "-k", choice]
    found["others"] = [*pytest, CONTRACTS, "-k", "not (" + " or ".join(classes) + ")"]
    return found


def counted(end: Ended) -> dict[str, int]:
    """Return how many tests passed, failed and were skipped, as pytest said last."""
    lines = end.tail.splitlines()
    last = next((line for line in reversed(lines) if re.search(r"\d+ \w+.* in ", line)), "")
    return {
        word: int(found[1]) if (found := re.search(rf"(\d+) {word}", last)) else 0
        for word in ("passed", "failed", "error", "skipped")
    }


def main(given: Sequence[str] | None = None) -> int:
    """Run the suite; 1 where a test fails, is not reached, or nothing passes."""
    settings = settings_of(given, __doc__)
    environment = {
        "NCFAST_TEST_DEVICE": "cpu" if settings.dry_run else "cuda",
        "PYTHONPATH": str(ROOT),
    }
    at_once = max(1, min(AT_ONCE, len(os.sched_getaffinity(0))))
    ended = run_all(
        commands(settings),
        seconds=settings.left - 2,
        logs=settings.out / "logs/tests",
        at_once=at_once,
        environment=environment,
    )
    good = True
    for name, end in ended.items():
        count = counted(end)
        good = good and end.code == 0 and count["passed"] > 0
        append(settings.out / "tests.csv", {"op": name, "outcome": end.outcome, **count})
        print(f"{name:32} {end.outcome}, {end.seconds:.0f} s: {count}")
        if end.code != 0:
            print(end.tail)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

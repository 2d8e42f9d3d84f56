"""The results of planted faults as Markdown."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable

from .scratch import Outcome
from .table import FIRST_SURVIVORS, ROOT, Fault

FOLDER = ROOT / "build/mutants"
INTERPRETED = "tests/kernels/interpreted"
IN_A_BUILD = {"races": "test_no_kernel_races", "small": "test_every_loop_goes_round"}


def collected(tests: Iterable[str], *options: str) -> set[str]:
    """Return the tests that there are now in the files of some."""
    files = {test.partition("::")[0] for test in tests}
    there = sorted(name for name in files if name and (ROOT / name).is_file())
    found: set[str] = set()
    for interpreted in (False, True):  # what Triton interprets is collected where it is on
        own = [name for name in there if name.startswith(INTERPRETED) == interpreted]
        if not own:
            continue
        command = [sys.executable, "-m", "pytest", "--collect-only", *options, *own]
        environment = {**os.environ, **({"TRITON_INTERPRET": "1"} if interpreted else {})}
        environment.pop("PYTEST_ADDOPTS", None)  # -vv prints a tree in place of names
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        found |= {line for line in done.stdout.splitlines() if "::" in line}
    return found


def file_hash(test: str) -> str:
    """Return a hash of the file that a test is in."""
    return hashlib.sha256((ROOT / test.partition("::")[0]).read_bytes()).hexdigest()[:16]


def full_tier(outcomes: list[Outcome]) -> list[str]:
    """Return the faults whose killing test ``pytest`` leaves out and ``pytest --all`` runs."""
    builds = "tests/ops/test_cuda_host_builds.py"
    slow = collected([builds, *(o.by for o in outcomes)], "-m", "slow")
    slow |= set((ROOT / "tests/long.txt").read_text(encoding="utf-8").splitlines())
    found = []
    for outcome in outcomes:
        test, _, kind = outcome.by.partition(" on ")
        if kind in IN_A_BUILD and "[" in test:
            of = test.partition("[")[2].replace("torch.", "")
            test = f"{builds}::{IN_A_BUILD[kind]}[{of}"
        if outcome.what == "killed" and test in slow:
            found.append(outcome.name)
    return found


def report(outcomes: list[Outcome], missing: list[Fault], before: set[str]) -> str:
    """Return the results as a page; ``before``: what was killed in an earlier text."""
    lines = [*_summary(outcomes, missing), *_by_kind(outcomes), *_not_killed(outcomes)]
    aged = "Killed in an earlier text of their function, or by a test that is gone"
    for title, there in ((aged, True), ("Not planted", False)):
        names = [f.name for f in missing if (f.name in before) == there]
        lines += ["", f"## {title} ({len(names)})", "", ", ".join(names)] if names else []
    return "\n".join([*lines, *_killed(outcomes)]) + "\n"


def _summary(outcomes: list[Outcome], missing: list[Fault]) -> list[str]:
    """Return how many were planted, what became of them, and what a result is."""
    noted = FOLDER / "sound.json"
    sound = json.loads(noted.read_text(encoding="utf-8")) if noted.exists() else {}
    noticing = {o.by for o in outcomes if o.what == "killed" and "::" in o.by}
    passed = sum(sound.get(test) == file_hash(test) for test in noticing)
    counts, slow = Counter(outcome.what for outcome in outcomes), full_tier(outcomes)
    survivors = sum(o.what == "survived" and not o.reason for o in outcomes)
    total = sum(o.seconds for o in outcomes)
    first = sum(o.name in FIRST_SURVIVORS and o.what == "killed" for o in outcomes)
    told = ", ".join(f"{n} {what}" for what, n in counts.most_common())
    return [
        "# Planted faults",
        "",
        f"{len(outcomes)} of {len(outcomes) + len(missing)} faults of tests/mutants/table.toml "
        f"were planted, one at a time: {told}. "
        f"Survivors without a reason: {survivors}. "
        f"`python -m tests.mutants`, {total / 60:.0f} minutes on {time.strftime('%Y-%m-%d')}.",
        "",
        "A result stands as long as the function around the fault (of a C++ or CUDA file, what "
        "lies between two closing braces in the first column) has the text, comments aside, in "
        "which it was planted, and the test that noticed is collected still. Edits of what that "
        "function calls do not age it.",
        "",
        f"{passed} of the {len(noticing)} tests that noticed were run without a fault too, and "
        "passed; the others are left to pytest. "
        f"The test that noticed first is one that `pytest` leaves out and `pytest --all` runs, of "
        f'{len(slow)}: {", ".join(slow) or "none"}. "on races" and "on small" name the build of '
        "the emulator (tests/ops/test_cuda_host_builds.py).",
        "",
        f"Of the {len(FIRST_SURVIVORS)} that no test noticed when faults were planted the first "
        f"time, {first} are killed: {', '.join(FIRST_SURVIVORS)}.",
        "",
    ]


def _by_kind(outcomes: list[Outcome]) -> list[str]:
    """Return a table of how many of each kind were planted and killed."""
    lines = ["| kind | planted | killed |", "|---|--:|--:|"]
    for kind in sorted({o.kind for o in outcomes}):
        own = [o for o in outcomes if o.kind == kind]
        lines.append(f"| {kind} | {len(own)} | {sum(o.what == 'killed' for o in own)} |")
    return lines


def _not_killed(outcomes: list[Outcome]) -> list[str]:
    """Return a line for each fault that no test noticed, or that was no fault."""
    return ["", "## Not killed", ""] + [
        f"- {o.name} ({o.file}, {o.kind}): {o.what}. {o.reason or o.by}"
        for o in outcomes
        if o.what != "killed"
    ]


def _killed(outcomes: list[Outcome]) -> list[str]:
    """Return a table of the faults that a test noticed."""
    header = ["", "## Killed", "", "| fault | file | kind | by | which said | seconds |"]
    return [*header, "|---|---|---|---|---|--:|"] + [
        f"| {o.name} | {o.file} | {o.kind} | {o.by.replace('|', '/')} "
        f"| {o.said[:100].replace('|', '/')} | {o.seconds:.0f} |"
        for o in outcomes
        if o.what == "killed"
    ]

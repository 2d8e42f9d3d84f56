"""Plants the faults of ``table.toml`` one at a time and says which no test notices.

    python -m tests.mutants                    # all of them; goes on where it was stopped
    python -m tests.mutants --kind barrier tie
    python -m tests.mutants --only gram-chunks --fresh
    python -m tests.mutants --twentieth 7      # every twentieth, from the eighth on

Results lie in build/mutants/results.jsonl, keyed by the fault and the function it is planted in;
``--report FILE`` writes them as Markdown. The exit code is 1 where a fault survived without a
reason.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import Queue

from .noticing import runs_for
from .scratch import Outcome, Scratch
from .table import FIRST_SURVIVORS, KINDS, ROOT, Fault, faults

FOLDER = ROOT / "build/mutants"
KILLERS = Path(__file__).with_name("killers.json")  # run first; written with a report
INTERPRETED = "tests/kernels/interpreted"
BAD = ("survived", "does not build", "unsound")


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = argparse.ArgumentParser(
        prog="python -m tests.mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these faults")
    found.add_argument("--kind", nargs="+", default=[], choices=sorted(KINDS), metavar="KIND")
    found.add_argument("--file", nargs="+", default=[], metavar="PART", help="files named so")
    found.add_argument("--twentieth", type=int, metavar="N", help="every twentieth fault")
    found.add_argument("--jobs", type=int, default=1, help="copies of the tree at work")
    found.add_argument("--copies", default="scratch", metavar="NAME", help="of their folders")
    found.add_argument("--seconds", type=float, default=900.0, help="for one fault at most")
    found.add_argument("--whole", type=float, default=float("inf"), help="seconds for all")
    found.add_argument("--fresh", action="store_true", help="forget earlier results")
    found.add_argument("--results", type=Path, default=FOLDER / "results.jsonl")
    found.add_argument("--known", action="store_true", help="plant nothing; report what is known")
    found.add_argument("--report", type=Path, help="write the results as Markdown")
    return found


def chosen(given: argparse.Namespace) -> list[Fault]:
    """Return the faults that the command line asks for."""
    every = faults()
    unknown = set(given.only) - {fault.name for fault in every}
    if unknown:
        raise SystemExit(f"tests.mutants: no fault is called {sorted(unknown)}")
    if given.twentieth is not None:
        every = every[given.twentieth % 20 :: 20]
    return [
        fault
        for fault in every
        if (not given.only or fault.name in given.only)
        and (not given.kind or fault.kind in given.kind)
        and (not given.file or any(part in fault.file for part in given.file))
    ]


def earlier(path: Path) -> dict[str, Outcome]:
    """Return the results that a file holds, the last of each fault and text of its function."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    # What had too little time is no result.
    return {row["key"]: Outcome(**row) for row in rows if row["what"] != "out of time"}


def plant_all(todo: list[Fault], given: argparse.Namespace) -> list[Outcome]:
    """Plant faults in as many copies as there are jobs; results are written at once."""
    if not todo:
        return []
    recorded, killers = FOLDER / "recorded.json", read_killers()
    deadline = time.monotonic() + given.whole
    free: Queue[Scratch] = Queue()
    for number in range(min(given.jobs, len(todo))):
        free.put(Scratch(FOLDER / f"{given.copies}-{number}"))

    def one(fault: Fault) -> Outcome | None:
        left = min(given.seconds, deadline - time.monotonic())
        if left < 5:
            return None
        scratch = free.get()
        try:
            outcome = scratch.plant(
                fault, runs_for(fault, recorded, killers.get(fault.name, "")), left
            )
        finally:
            free.put(scratch)
        with open(given.results, "a", encoding="utf-8") as file:
            file.write(json.dumps(outcome.row()) + "\n")
        print(f"{outcome.what:14} {outcome.seconds:6.0f} s  {fault.name}  {outcome.by}", flush=True)
        return outcome

    given.results.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(given.jobs) as pool:
        found = [outcome for outcome in pool.map(one, todo) if outcome is not None]
    while not free.empty():
        free.get().close()
    return found


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


def of_tests_there(outcomes: list[Outcome]) -> list[Outcome]:
    """Return outcomes without the kills of tests that are gone: nobody knows of those faults."""
    there = collected(o.by for o in outcomes if o.what == "killed" and "::" in o.by)
    return [
        o
        for o in outcomes
        if o.what != "killed" or "::" not in o.by or o.by.partition(" on ")[0] in there
    ]


def without_unsound(outcomes: list[Outcome]) -> list[Outcome]:
    """Return outcomes in which no fault is killed by a test that fails without it."""
    tests = sorted({o.by for o in outcomes if o.what == "killed" and "::" in o.by})
    noted = FOLDER / "sound.json"
    known = json.loads(noted.read_text(encoding="utf-8")) if noted.exists() else {}
    failing: set[str] = set()
    # What passed is not run again until its file changes: pytest runs all of them, too.
    if unknown := [test for test in tests if known.get(test) != file_hash(test)]:
        scratch = Scratch(FOLDER / "scratch-sound")
        failing = scratch.failing(unknown)
        scratch.close()
        known |= {test: file_hash(test) for test in unknown if test not in failing}
        noted.write_text(json.dumps(known), encoding="utf-8")
    return [
        # What no test is named for ("pytest ended with 1") cannot be checked; a crash is one.
        replace(o, what="unsound")
        if o.what == "killed" and (o.by in failing or o.by.startswith("pytest ended with 1"))
        else o
        for o in outcomes
    ]


def read_killers() -> dict[str, str]:
    """Return what killed each fault when it was planted last."""
    return json.loads(KILLERS.read_text(encoding="utf-8")) if KILLERS.exists() else {}


def file_hash(test: str) -> str:
    """Return a hash of the file that a test is in."""
    return hashlib.sha256((ROOT / test.partition("::")[0]).read_bytes()).hexdigest()[:16]


IN_A_BUILD = {"races": "test_no_kernel_races", "small": "test_every_loop_goes_round"}


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
    noted = FOLDER / "sound.json"
    sound = json.loads(noted.read_text(encoding="utf-8")) if noted.exists() else {}
    noticing = {o.by for o in outcomes if o.what == "killed" and "::" in o.by}
    passed = sum(sound.get(test) == file_hash(test) for test in noticing)
    counts, slow = Counter(outcome.what for outcome in outcomes), full_tier(outcomes)
    bad = [o for o in outcomes if o.what != "killed" and not o.reason]
    total = sum(o.seconds for o in outcomes)
    first = sum(o.name in FIRST_SURVIVORS and o.what == "killed" for o in outcomes)
    told = ", ".join(f"{n} {what}" for what, n in counts.most_common())
    lines = [
        "# Planted faults",
        "",
        f"{len(outcomes)} of {len(outcomes) + len(missing)} faults of tests/mutants/table.toml "
        f"were planted, one at a time: {told}. "
        f"Survivors without a reason: {sum(o.what == 'survived' for o in bad)}. "
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
        "| kind | planted | killed |",
        "|---|--:|--:|",
    ]
    for kind in sorted({o.kind for o in outcomes}):
        own = [o for o in outcomes if o.kind == kind]
        lines.append(f"| {kind} | {len(own)} | {sum(o.what == 'killed' for o in own)} |")
    lines += ["", "## Not killed", ""]
    lines += [
        f"- {o.name} ({o.file}, {o.kind}): {o.what}. {o.reason or o.by}"
        for o in outcomes
        if o.what != "killed"
    ]
    aged = "Killed in an earlier text of their function, or by a test that is gone"
    for title, there in ((aged, True), ("Not planted", False)):
        names = [f.name for f in missing if (f.name in before) == there]
        lines += ["", f"## {title} ({len(names)})", "", ", ".join(names)] if names else []
    lines += [
        "",
        "## Killed",
        "",
        "| fault | file | kind | by | which said | seconds |",
        "|---|---|---|---|---|--:|",
    ]
    lines += [
        f"| {o.name} | {o.file} | {o.kind} | {o.by.replace('|', '/')} "
        f"| {o.said[:100].replace('|', '/')} | {o.seconds:.0f} |"
        for o in outcomes
        if o.what == "killed"
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 1 where a fault survived without a reason."""
    given = parser().parse_args(arguments)
    every = chosen(given)
    known = {} if given.fresh else earlier(given.results)
    # What survived is planted again: a test may have come.
    settled = {key for key, outcome in known.items() if outcome.what == "killed" or outcome.reason}
    todo = [f for f in every if f.key(ROOT) not in settled and f.runs_here()]
    print(f"{len(every)} faults, {len(every) - len(todo)} known already", flush=True)
    found = {o.key: o for o in plant_all([] if given.known else todo, given)}
    outcomes = [
        o for f in every if (o := found.get(f.key(ROOT)) or known.get(f.key(ROOT))) is not None
    ]
    if given.report or given.whole == float("inf"):
        outcomes = of_tests_there(outcomes)
    if given.whole == float("inf"):  # CI runs the tests without a fault, too
        outcomes = without_unsound(outcomes)
    done = {o.name for o in outcomes}
    missing = [fault for fault in every if fault.name not in done]
    if given.report:
        before = {o.name for o in known.values() if o.what == "killed"}
        given.report.write_text(report(outcomes, missing, before), encoding="utf-8")
        names = {fault.name for fault in faults()}
        killers = read_killers() | {o.name: o.by for o in outcomes if o.what == "killed"}
        kept = {n: by for n, by in sorted(killers.items()) if n in names and "::" in by}
        KILLERS.write_text(json.dumps(kept, indent=0) + "\n", encoding="utf-8")
    survivors = [o for o in outcomes if o.what in BAD and not o.reason]
    counts = Counter(o.what for o in outcomes)
    print(f"{dict(counts)}; not reached: {len(missing)}; without a reason: {len(survivors)}")
    for outcome in survivors:
        print(f"  {outcome.what}: {outcome.name} ({outcome.file}) {outcome.by}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())

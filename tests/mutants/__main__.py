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
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import Queue

from .noticing import runs_for
from .renamed import carried
from .report import FOLDER, collected, file_hash, report
from .scratch import Outcome, Scratch
from .table import KINDS, ROOT, Fault, faults

KILLERS = Path(__file__).with_name("killers.json")  # run first; written with a report
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
    found.add_argument(
        "--renamed",
        metavar="COMMIT",
        help="keep results of a commit's text where only names differ",
    )
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


def at_its_place(outcome: Outcome, killers: Mapping[str, str]) -> Outcome:
    """Return a kill by the file its test is in now: a test that moved, killers.json says where."""
    now = killers.get(outcome.name, "")
    same = now.partition("::")[2] == outcome.by.partition("::")[2] != ""
    return replace(outcome, by=now) if same else outcome


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
        noted([outcome], given)
        print(f"{outcome.what:14} {outcome.seconds:6.0f} s  {fault.name}  {outcome.by}", flush=True)
        return outcome

    with ThreadPoolExecutor(given.jobs) as pool:
        found = [outcome for outcome in pool.map(one, todo) if outcome is not None]
    while not free.empty():
        free.get().close()
    return found


def noted(outcomes: list[Outcome], given: argparse.Namespace) -> list[Outcome]:
    """Add outcomes to the file of results, and return them."""
    given.results.parent.mkdir(parents=True, exist_ok=True)
    with open(given.results, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(outcome.row()) + "\n" for outcome in outcomes)
    return outcomes


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
    sound = FOLDER / "sound.json"
    known = json.loads(sound.read_text(encoding="utf-8")) if sound.exists() else {}
    failing: set[str] = set()
    # What passed is not run again until its file changes: pytest runs all of them, too.
    if unknown := [test for test in tests if known.get(test) != file_hash(test)]:
        scratch = Scratch(FOLDER / "scratch-sound")
        failing = scratch.failing(unknown)
        scratch.close()
        known |= {test: file_hash(test) for test in unknown if test not in failing}
        sound.write_text(json.dumps(known), encoding="utf-8")
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 1 where a fault survived without a reason."""
    given = parser().parse_args(arguments)
    every = chosen(given)
    known = {} if given.fresh else earlier(given.results)
    killers = read_killers()
    known = {key: at_its_place(outcome, killers) for key, outcome in known.items()}
    if given.renamed:
        known |= {outcome.key: outcome for outcome in noted(carried(known, given.renamed), given)}
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

"""``python -m benchmarks.run``: time every op beside its floor and its peers; print and store."""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import ncfast
from ncfast.bench.contract import Absent, Prepared
from ncfast.bench.machine import Machine, Probes, commit, cores, cpu_model
from ncfast.bench.memory import method
from ncfast.bench.timing import Taken, quartiles, take_beside

from . import gate, table
from .cases import Case, cases
from .providers import NO_SUCH_OP, PROVIDERS, SPECIAL, prepare

__all__ = ["RESULTS", "main"]

RESULTS = Path(__file__).parent / "results"
OWN = "cpu"  # the provider that goals are set for


def prepared_providers(
    case: Case, providers: Sequence[str], threads: int
) -> tuple[dict[str, Prepared], list[table.Absence], list[str]]:
    """Return the providers that pass the gate, those that are absent, and what fails it."""
    inputs, ready = case.inputs(), {}
    absent: list[table.Absence] = []
    wrong: list[str] = []
    for name in providers:
        if name in SPECIAL and case.name not in PROVIDERS[name]:
            continue
        try:
            gate.check(name, case)
            ready[name] = prepare(name, case.name, inputs)
            continue
        except Absent as error:
            reason = str(error)
            if reason != NO_SUCH_OP:
                print(f"NOT TIMED {case.title}: {name} {reason}", file=sys.stderr)
        except AssertionError as error:
            reason = f"fails the gate: {error}"
            wrong.append(f"{case.title}: {name} {reason}")
            print(f"WRONG {wrong[-1]}", file=sys.stderr)
        absent.append(
            table.Absence(case.name, case.shape, case.dtype_name, threads, name, reason=reason)
        )
    return ready, absent, wrong


def rows_of(
    case: Case, taken: dict[str, Taken], machine: Machine, drift: float, run: str
) -> list[table.Measurement]:
    """Set what was taken beside the floor and the goals."""
    size = case.size(case.inputs())
    bound, memory_goal = case.bound(size), case.memory_goal(size) / 2**20
    floor = machine.floor_seconds(bound.bytes, bound.flops)
    medians = {name: statistics.median(one.times) for name, one in taken.items()}
    rows = []
    for name, one in taken.items():
        own = name == OWN
        rival = case.faster_than if own else ""
        low, middle, high = (round(1e3 * t, 4) for t in quartiles(one.times))
        rows.append(
            table.Measurement(
                op=case.name,
                size=case.shape,
                dtype=case.dtype_name,
                threads=machine.threads,
                provider=name,
                q25_ms=low,
                median_ms=middle,
                q75_ms=high,
                least_ms=round(1e3 * min(one.times), 4),
                repeats=len(one.times),
                floor_ms=round(1e3 * floor, 4),
                floor_of=machine.limit(bound.bytes, bound.flops),
                gap=round(medians[name] / floor, 3),
                goal=case.goal if own else None,
                faster_than=rival,
                faster_goal=case.times,
                faster_by=round(medians[rival] / medians[name], 3) if rival in medians else None,
                extra_mib=None if one.extra is None else round(one.extra / 2**20, 1),
                extra_goal_mib=round(memory_goal, 1) if own else None,
                copy_gb_s=round(machine.bandwidth / 1e9, 2),
                sgemm_gflop_s=round(machine.flops / 1e9, 1),
                drift=round(drift, 3),
                note=one.note,
                run=run,
            )
        )
    return rows


def described() -> str:
    """Return when, where and with what this run measures, in one line."""
    return (
        f"{datetime.date.today()}; {cpu_model()}; {cores()} cores; "
        f"ncfast {ncfast.__version__} at {commit()}; torch {torch.__version__}; "
        f"Python {platform.python_version()}; memory by {method()}"
    )


def position(key: tuple[str, ...], all_cases: Sequence[Case]) -> tuple[int, ...]:
    """Return where a row stands: as cases are listed, then by threads, then by provider."""
    op, size, dtype, provider, threads = key
    known = [(c.name, c.shape, c.dtype_name) for c in all_cases]
    at = known.index((op, size, dtype)) if (op, size, dtype) in known else len(known)
    names = list(PROVIDERS)
    return at, int(threads), names.index(provider) if provider in names else len(names)


def arguments_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    known_ops = list(dict.fromkeys(op for case in cases() for op in case.ops))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument(
        "--op", nargs="+", choices=known_ops, metavar="NAME", help=f"only: {', '.join(known_ops)}"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--providers", nargs="+", choices=list(PROVIDERS), default=list(PROVIDERS), metavar="NAME"
    )
    parser.add_argument("--repeat", type=int, default=9, help="timed calls of each (9)")
    parser.add_argument(
        "--quick", action="store_true", help="sizes that take seconds and prove nothing"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder to store and merge in")
    options = parser.parse_args(arguments)
    if options.repeat < 1 or min(options.threads) < 1:
        parser.error("--repeat and --threads: expected at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 1 where a provider failed its gate."""
    options = arguments_of(arguments)
    chosen = [c for c in cases(options.quick) if not options.op or set(options.op) & set(c.ops)]
    listed = [*cases(), *cases(quick=True)]
    text, wrong, run = "", [], described()
    for threads in options.threads:
        torch.set_num_threads(threads)
        for case in chosen:
            ready, absent, failed = prepared_providers(case, options.providers, threads)
            wrong += failed
            taken, machine, drift = take_beside(Probes(), threads, ready, options.repeat)
            rows = rows_of(case, taken, machine, drift, run)
            text = table.store(options.out, rows, absent, lambda key: position(key, listed))
            print(f"done: {case.title} on {threads}", file=sys.stderr)
    print(text)
    print(f"stored: {options.out}", file=sys.stderr)
    for line in wrong:
        print(f"WRONG, not timed: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m benchmarks.run``: time every op beside its floor and its peers; print and store."""

from __future__ import annotations

import argparse
import csv
import datetime
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

import ncfast

from .cases import Case, cases
from .machine import Machine, cpu_model, measure_machine
from .memory import peak_extra_mib
from .providers import Prepared, providers

RESULTS = Path(__file__).parent / "results"
# A provider that would take longer than this is timed once.
PATIENCE_SECONDS = 5.0
GATE_TOLERANCE = 2e-4


@dataclass(frozen=True)
class Result:
    """Hold one row of the table; times in milliseconds, memory in MiB."""

    op: str
    size: str
    threads: int
    provider: str
    q25_ms: float
    median_ms: float
    q75_ms: float
    floor_ms: float
    gap: float
    goal: float | None
    met: str
    peak_extra_mib: float | None
    outputs_mib: float
    repeats: int
    gate: str


def truth(case: Case) -> dict[str, Any]:
    """Return small inputs of a case, with what its results should be, in float64."""
    small = Case(case.op, 257, 24, 101, torch.float32, None, case.bound)
    inputs = small.inputs(seed=1)
    wide = {k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v
            for k, v in inputs.items()}  # fmt: skip
    prepared = providers()["reference"](case.op, wide | {"check": True})
    if case.op in ("accumulate_class_moments_", "accumulate_with_scatter"):
        counts, means, m2 = (t.double() if t.is_floating_point() else t for t in _state(wide))
        scatter = torch.zeros(24, 24, dtype=torch.float64)
        with ncfast.use_backend("reference"):
            ncfast.functional.accumulate_class_moments_(
                counts, means, m2, scatter, wide["x"], wide["y"]
            )
        expected: Any = (means, scatter)
    else:
        assert prepared is not None
        expected = prepared()
    return {"inputs": inputs | {"check": True}, "expected": expected}


def _state(inputs: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    from .cases import state

    return state(inputs)


def gate(case: Case, provider: str) -> str:
    """Say whether a provider computes the op: ``ok``, or what is off. No row without it."""
    known = truth(case)
    prepared = providers()[provider](case.op, known["inputs"])
    if prepared is None:
        return "absent"
    found = prepared()
    found = found if isinstance(found, tuple) else (found,)
    expected = known["expected"]
    expected = expected if isinstance(expected, tuple) else (expected,)
    for value, wanted in zip(found, expected, strict=False):
        if value.dtype == torch.int64:
            if not torch.equal(value, wanted):
                return "wrong integers"
            continue
        error = float((value.double() - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
        if not error <= GATE_TOLERANCE:
            return f"off by {error:.1e}"
    return "ok"


def interleaved(calls: dict[str, Prepared], repeats: int) -> dict[str, list[float]]:
    """Time providers in turns, so that what else the machine does falls on all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # memory is touched and libraries are ready
    for turn in range(repeats):
        for name, call in calls.items():
            if turn and times[name][0] > PATIENCE_SECONDS:
                continue
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return times


def run_case(case: Case, machine: Machine, names: Sequence[str], repeats: int) -> list[Result]:
    """Gate and time one case at one thread count."""
    torch.set_num_threads(machine.threads)
    inputs = case.inputs()
    limit = case.limits(inputs)
    floor = machine.floor_seconds(limit.moved, limit.flops)
    table = providers()
    verdicts = {name: gate(case, name) for name in names}
    calls = {}
    for name, verdict in verdicts.items():
        prepared = table[name](case.op, inputs) if verdict == "ok" else None
        if prepared is not None:
            calls[name] = prepared
        elif verdict != "absent":
            print(f"{case.op}: {name} fails the gate: {verdict}", file=sys.stderr)
    results = []
    for name, times in interleaved(calls, repeats).items():
        quartiles = statistics.quantiles(times, n=4) if len(times) > 1 else [times[0]] * 3
        gap = quartiles[1] / floor
        goal = case.goal if name == "cpu" else None
        met = "" if goal is None else ("yes" if gap <= goal else "no")
        low, middle, high = (round(1e3 * q, 3) for q in quartiles)
        results.append(
            Result(
                op=case.op,
                size=case.named(),
                threads=machine.threads,
                provider=name,
                q25_ms=low,
                median_ms=middle,
                q75_ms=high,
                floor_ms=round(1e3 * floor, 3),
                gap=round(gap, 3),
                goal=goal,
                met=met,
                peak_extra_mib=peak_extra_mib(calls[name]),
                outputs_mib=round(limit.outputs / 2**20, 1),
                repeats=len(times),
                gate="ok",
            )
        )
    return results


def _commit() -> str:
    try:
        command = ["git", "describe", "--always", "--dirty"]
        here = Path(__file__).parent
        return subprocess.run(
            command, cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def render(results: Sequence[Result], machines: Sequence[Machine]) -> str:
    """Write the table in Markdown."""
    lines = [
        f"{datetime.date.today()}, {cpu_model()}, torch {torch.__version__}, "
        f"ncfast {ncfast.__version__} at {_commit()}.",
        "",
        *(
            f"{m.threads} thread{'s' * (m.threads > 1)}: copy {m.bandwidth / 1e9:.1f} GB/s "
            f"(read + written), sgemm {m.flops / 1e9:.0f} GFLOP/s."
            for m in machines
        ),
        "",
        "gap = median / floor. The floor is the least traffic over the copy bandwidth or the least "
        "arithmetic over the sgemm rate, measured in the same run; extra = peak memory above what "
        "was held before, outputs included.",
        "",
        "| op | size | threads | provider | median ms (quartiles) | floor ms | gap | goal "
        "| extra MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        goal = "" if r.goal is None else f"{r.goal:g} {'met' if r.met == 'yes' else 'MISSED'}"
        extra = "" if r.peak_extra_mib is None else f"{r.peak_extra_mib:.0f}"
        lines.append(
            f"| {r.op} | {r.size} | {r.threads} | {r.provider} | {r.median_ms:.1f} "
            f"({r.q25_ms:.1f}-{r.q75_ms:.1f}) | {r.floor_ms:.1f} | {r.gap:.2f} | {goal} | {extra} |"
        )
    return "\n".join(lines) + "\n"


def store(results: Sequence[Result], table: str, folder: Path) -> Path:
    """Write results.csv and table.md."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "results.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Result)])
        writer.writeheader()
        writer.writerows(asdict(result) for result in results)
    (folder / "table.md").write_text(table, encoding="utf-8")
    return folder / "table.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--op", action="append", help="only this op; repeat for more")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--providers", nargs="+", help=f"of {', '.join(providers())}")
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="sizes that take seconds")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    names = options.providers or list(providers())
    unknown = [name for name in names if name not in providers()]
    if unknown:
        parser.error(f"unknown provider {unknown[0]!r}; expected one of {', '.join(providers())}")
    if "neural_collapse" not in names:
        print("neural_collapse is not importable here: its row is left out", file=sys.stderr)
    machines = [measure_machine(threads) for threads in options.threads]
    results: list[Result] = []
    for case in cases(options.quick):
        if options.op and case.op not in options.op:
            continue
        for machine in machines:
            results += run_case(case, machine, names, options.repeat)
            print(f"done: {case.op} {case.named()} on {machine.threads}", file=sys.stderr)
    table = render(results, machines)
    print(table)
    print(f"stored: {store(results, table, options.out)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m benchmarks.training``: fine-tuning beside a loop as a user of transformers writes it.

The same model, batches and optimiser (AdamW, float32), each loop in a process of its own: peak
memory above what the process had before it loaded the model, and the time of the last step, whose
optimiser has its state. Then both again under a limit that the system enforces. A run of ten
minutes or more on two cores, which needs about 12 GB.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

import ncfast
from ncfast.bench.machine import commit, cpu_model

from .run import RESULTS
from .table import read_rows
from .training_loops import ROWS, TERM_CLASSES

ROOT = Path(__file__).parents[1]
MEMORY_GOAL, TIME_GOAL, PLAN_GOAL = 0.55, 1.20, 0.10
# Of the peak of transformers' loop: what a plan may take, so that the goal holds if it is 10 % off.
PLAN_SHARE = 0.5
LOOPS = ("transformers", "ncfast", "ncfast-nc3")


@dataclass(frozen=True)
class Run:
    """Hold what one loop took: bytes, the last step's seconds, and what became of it.

    ``cpu_seconds`` are of all threads. Neither they nor ``seconds`` mean much beside other work:
    threads of a team spin while one of them waits for a core (three layers took 0.95 s of one
    thread and 3.04 s of two at a load of 8). ``load`` is the load average when the loop ended.
    """

    loop: str
    hard_limit: int | None
    steps: int
    loss: float | None
    peak: int | None
    predicted: int | None
    seconds: float | None
    cpu_seconds: float | None
    recompute: int | None
    micro_batches: int | None
    head_budget: int | None
    load: float
    died: str
    run: str


def prepare(model: str, text: str, batch: int, block: int, steps: int, folder: Path) -> None:
    """Write the model and the batches, in a process that then is gone."""
    program = (
        "import sys, torch; from ncfast.language import Corpus, LanguageModel\n"
        "model, text, batch, block, steps, folder = sys.argv[1:]\n"
        "batch, block, steps = int(batch), int(block), int(steps)\n"
        "language = LanguageModel.load(model, progress=False)\n"
        "language.model.save_pretrained(folder); language.tokenizer.save_pretrained(folder)\n"
        "corpus = Corpus.from_spec([text], language.tokenizer, (batch * steps + 1) * block, block,"
        " progress=False)\n"
        "rows = corpus.take(list(range(batch * steps))).input_ids.view(steps, batch, block)\n"
        f"torch.save(rows, folder + '/{ROWS}')\n"
    )
    words = [model, text, str(batch), str(block), str(steps), str(folder)]
    subprocess.run([sys.executable, "-c", program, *words], check=True, cwd=ROOT)


def take(loop: str, folder: Path, threads: int, limit: int | None, hard: int | None) -> Run:
    """Run one loop to its end, or until the system stops it."""
    command = [sys.executable, "-m", "benchmarks.training_loops", loop, str(folder)]
    command += ["--threads", str(threads)]
    for name, value in (("--limit", limit), ("--hard-limit", hard)):
        command += [name, str(value)] if value is not None else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    steps = [line for line in lines if "loss" in line]
    found: dict[str, Any] = {}
    for line in lines:
        found |= line
    names = {field.name for field in fields(Run)} - {
        "loop",
        "hard_limit",
        "steps",
        "load",
        "died",
        "run",
    }
    if len(steps) < 2:  # the first step's time has the loading in it
        found |= {"seconds": None, "cpu_seconds": None}
    died = "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["killed"])[-1]
    values: dict[str, Any] = {name: found.get(name) for name in names}
    run = f"{datetime.date.today()} {commit()}"
    return Run(loop, hard, len(steps), load=os.getloadavg()[0], died=died[:200], run=run, **values)


def stored(path: Path) -> list[Run]:
    """Read the rows of earlier runs."""
    texts = ("loop", "died", "run")
    read: list[dict[str, Any]] = [
        {k: v if k in texts else json.loads(v or "null") for k, v in r.items()}
        for r in read_rows(path)
    ]
    return [Run(**row) for row in read]


def compare(free: Run, own: Run) -> list[str]:
    """Hold a loop of ours against the loop of transformers."""
    peak, predicted = own.peak or 0, own.predicted or 0  # a loop that did not die has them
    words = [f"peak {peak / (free.peak or 1):.2f}x (goal {MEMORY_GOAL})"]
    if free.seconds and own.seconds and free.cpu_seconds and own.cpu_seconds:
        words.append(
            f"time {own.seconds / free.seconds:.2f}x by the clock, "
            f"{own.cpu_seconds / free.cpu_seconds:.2f}x of the processors (goal {TIME_GOAL:.2f})"
        )
    off = predicted / (peak or 1) - 1
    words.append(f"predicted peak {off:+.1%} of measured (goal within {PLAN_GOAL:.0%})")
    words.append(f"loss of the last step {own.loss:.6f} beside {free.loss:.6f}")
    return words


def describe(run: Run) -> str:
    """Write one run as a row of the table."""

    def mega(value: int | None) -> str:
        return "" if value is None else f"{value / 1e6:,.0f}"

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.1f}"

    how = ""
    if run.micro_batches is not None:
        how = (
            f"{run.micro_batches} micro-batches, {run.recompute} layers recomputed, "
            f"{mega(run.head_budget)} MB of logits kept"
        )
    cells = (
        run.loop,
        mega(run.hard_limit) or "none",
        run.died or f"{run.steps} steps",
        mega(run.peak),
        mega(run.predicted),
        number(run.seconds),
        number(run.cpu_seconds),
        number(run.load),
        how,
        run.run,
    )
    return "| " + " | ".join(cells) + " |"


def render(title: str, runs: Sequence[Run]) -> str:
    """Write all runs as a table, and what follows from them."""
    lines = [
        f"{cpu_model()}, torch {torch.__version__}, ncfast {ncfast.__version__}.",
        "",
        title,
        "",
        "| loop | hard limit MB | result | peak MB | predicted MB | step s | step CPU s | load "
        "| how | run |",
        "|---|--:|---|--:|--:|--:|--:|--:|---|---|",
        *(describe(run) for run in runs),
        "",
    ]
    theirs = [run for run in runs if run.loop == "transformers" and run.hard_limit is None]
    for run in runs:
        if run.loop != "transformers" and not run.died and theirs:
            lines += [f"- {run.loop}: {'; '.join(compare(theirs[0], run))}"]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--model", default="demo:smollm2", help="a causal model")
    parser.add_argument("--text", default="demo:text")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--block", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--only", nargs="+", choices=LOOPS, default=LOOPS, help="other rows stay as they are stored"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    title = (
        f"{options.model}, {options.batch} x {options.block:,} tokens a step, AdamW, float32, "
        f"{options.threads} threads; ncfast-nc3: with a (U)NC3 term on {TERM_CLASSES} classes."
    )
    options.out.mkdir(parents=True, exist_ok=True)
    table = options.out / "training.csv"
    runs = stored(table) if set(options.only) < set(LOOPS) else []

    def add(loop: str, limit: int | None = None, hard: int | None = None) -> Run:
        new = take(loop, Path(folder), options.threads, limit, hard)
        runs[:] = [r for r in runs if (r.loop, r.hard_limit) != (loop, hard)] + [new]
        print(describe(new), flush=True)
        (options.out / "training.md").write_text(render(title, runs), encoding="utf-8")
        with open(table, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Run)])
            writer.writeheader()
            writer.writerows(asdict(run) for run in runs)
        return new

    with tempfile.TemporaryDirectory() as folder:
        prepare(
            options.model,
            options.text,
            options.batch,
            options.block,
            options.steps,
            folder=Path(folder),
        )
        found = [run for run in runs if run.loop == "transformers" and run.hard_limit is None]
        theirs = add("transformers") if "transformers" in options.only else found[0]
        if theirs.peak is None:
            print(f"the loop of transformers died: {theirs.died}", file=sys.stderr)
            return 1
        hard = int(MEMORY_GOAL * theirs.peak)
        for loop in options.only:
            add(loop, int(PLAN_SHARE * theirs.peak), hard)
    print((options.out / "training.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

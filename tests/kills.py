"""Kills of runs at every moment that changes the disk: ``python -m tests.kills``.

A run is made once whole. Then it is started again and again, and killed by SIGKILL right before
the first, the second, ... of the calls that open a file for writing, rename, remove or make
something below its folder; what it left is resumed, and has to come to the numbers of the whole
run. Every state that the disk can have between two such calls is met so. ``--report FILE`` keeps
what was found, a line for each command.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ncfast.bench.machine import commit
from ncfast.cli import main
from ncfast.reporting import read_report
from ncfast.reporting.document import measured
from ncfast.training.log import read_log
from tests.fuzzing.targets import quiet

# Before any child is made: whoever edits the tree meanwhile changes nothing.
for command in ("measure", "finetune", "evaluate", "experiment"):
    importlib.import_module(f"ncfast.cli.{command}")
    importlib.import_module("ncfast.fairness" if command == "evaluate" else f"ncfast.{command}")

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")
# Of the tiny protocol: a run of a cell is as short as one that is saved in between can be.
SHORTER = {"steps = 3": "steps = 2", "nc_tokens = 2000": "nc_tokens = 300"}
SHORTER |= {"resamples = 50": "resamples = 10"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Job:
    """Hold a command's words but the folder, how it goes on, and what it found in a folder."""

    words: Sequence[str]
    again: Sequence[str]
    found: Callable[[Path], Any]


def of_measure(folder: Path) -> Any:
    """Return the numbers of a report."""
    return measured(read_report(folder))


def of_finetune(folder: Path) -> Any:
    """Return the curve, the trained weights and both reports."""
    lines = [{**line, "seconds": 0} for line in read_log(folder / "steps.jsonl")]
    weights = (folder / "model/model.safetensors").read_bytes()
    return lines, weights, [of_measure(folder / name) for name in ("before", "after")]


def of_evaluate(folder: Path) -> Any:
    """Return the scores."""
    return json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["scores"]


def of_experiment(folder: Path) -> Any:
    """Return the report, which names no time."""
    return (folder / "report.md").read_bytes()


def jobs(root: Path) -> dict[str, Job]:
    """Write small models, texts, data and a protocol; return the four jobs."""
    from tests.experiment.conftest import PROTOCOL, write_benchmarks
    from tests.tiny import write_model, write_text

    model, text = str(write_model(root / "model", "masked")), str(write_text(root / "text.txt"))
    write_benchmarks(root)
    words = Path(text).read_text().split()
    held_out = root / "held-out.txt"
    held_out.write_text("\n".join(" ".join(words[i::89]) for i in range(40)))
    protocol = PROTOCOL.format(text=text, model=model, data=root)
    for long, short in SHORTER.items():
        assert long in protocol, long
        protocol = protocol.replace(long, short)
    (root / "tiny.toml").write_text(protocol, encoding="utf-8")
    small = ["--quiet", "--block-size=32", "--save-every=0", "--batch-size=8"]
    read = [*small, "--max-tokens=1500"]
    data = [f"--data={root}", "--quiet", "--batch-tokens=64"]
    return {
        "measure": Job(
            [
                "measure",
                model,
                text,
                *read,
                "--bootstrap=2",
                "--controls=random:1",
                "--nc4",
                str(held_out),
            ],
            ["--resume"],
            of_measure,
        ),
        "finetune": Job(
            ["finetune", model, text, *read, "--steps=4", "--nc3=1", "--measure-tokens=500"],
            ["--resume"],
            of_finetune,
        ),
        "evaluate": Job(["evaluate", model, "--on=bec-pro,seat", *data], [], of_evaluate),
        "experiment": Job(["experiment", str(root / "tiny.toml"), "--quiet"], [], of_experiment),
    }


def start(words: Sequence[str], folder: Path, moment: int | None = None) -> tuple[int, int]:
    """Run a command in a child, killed at a moment if one is given.

    Returns:
        Its wait status, and how many moments it went through.
    """
    reading, writing = os.pipe()
    if child := os.fork():
        os.close(writing)
        with open(reading, encoding="utf-8") as pipe:
            seen, *modules = pipe.read().split() or ["0"]
        status = os.waitpid(child, 0)[1]
        for name in modules:  # what it imported late need not be imported by every later child
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        return status, int(seen)
    os.close(reading)
    seen, below, before = 0, str(folder), set(sys.modules)

    def hook(event: str, given: tuple[Any, ...]) -> None:
        nonlocal seen
        changes = event in CHANGES or (event == "open" and given[2] & WRITING)
        if not changes or not str(given[0]).startswith(below):
            return
        seen += 1
        if seen == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    code = 99
    try:
        sys.addaudithook(hook)
        with quiet() as (_, said):
            code = main([*words, "--out", str(folder)])
        if code:
            os.write(2, said.getvalue().encode())
        with open(writing, "w", encoding="utf-8") as pipe:
            pipe.write(" ".join([str(seen), *sorted(set(sys.modules) - before)]))
    finally:
        os._exit(code)


@dataclass(frozen=True)
class Found:
    """Hold what came of a command's kills."""

    command: str
    moments: int
    killed: int
    wrong: Sequence[str]
    seconds: float

    def row(self) -> str:
        """Return the line of the report."""
        when = f"{datetime.date.today()} {commit()}"
        numbers = f"{self.killed} | {self.moments} | {len(self.wrong)} | {self.seconds:.0f}"
        return f"| {self.command} | {numbers} | {when} |"


def kills(job: Job, root: Path, most: int, say: Callable[[str], None]) -> Found:
    """Kill a job at its moments, or at ``most`` of them spread over the run, and resume it."""
    folder, begun = root / "run", time.monotonic()
    status, moments = start(job.words, folder)
    assert status == 0, status
    whole, wrong = job.found(folder), []
    step = max(1, -(-moments // most))
    chosen = range(1, moments + 1, step)
    for moment in chosen:
        shutil.rmtree(folder, ignore_errors=True)
        status, _ = start(job.words, folder, moment)
        if status != signal.SIGKILL:
            wrong.append(f"moment {moment}: was not killed, status {status}")
            continue
        again = job.again if folder.exists() else []
        status, _ = start([*job.words, *again], folder)
        if status:
            wrong.append(f"moment {moment}: does not go on, status {status}")
        elif job.found(folder) != whole:
            wrong.append(f"moment {moment}: came to other numbers")
        elif left := [p.name for p in folder.rglob(".*partial*")]:
            wrong.append(f"moment {moment}: left {left}")
    shutil.rmtree(folder, ignore_errors=True)
    for one in wrong:
        say(f"{job.words[0]}, {one}")
    seconds = time.monotonic() - begun
    found = Found(job.words[0], moments, len(chosen), wrong, seconds)
    say(
        f"{found.command}: killed at {found.killed} of {moments} moments, {len(wrong)} wrong, "
        f"{seconds:.0f} s"
    )
    return found


REPORT = """\
# Kills

`python -m tests.kills --report benchmarks/results/kills.md`: each command is run whole on a tiny
model, then killed by SIGKILL right before a call that opens a file for writing, renames, removes or
makes something in its folder, and resumed. Right is who comes to the numbers of the whole run (of
`finetune` every bit of the weights too) and leaves no partial file. {total} kills, {wrong} wrong.

| command | killed at | of so many moments | wrong | seconds | when, commit |
|---|--:|--:|--:|--:|---|
"""


def keep(path: Path, found: Found) -> None:
    """Write a command's line over its earlier one."""
    rows = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [row for row in rows if re.match(r"\| [a-z]+ \| \d", row)]
    rows = [row for row in rows if not row.startswith(f"| {found.command} ")] + [found.row()]
    cells = [row.split("|") for row in rows]
    total, wrong = (sum(int(cell[place]) for cell in cells) for place in (2, 4))
    text = REPORT.format(total=total, wrong=wrong) + "\n".join(rows) + "\n"
    path.write_text(text, encoding="utf-8")


def main_of_kills() -> int:
    """Read the command line; 1 where a run did not come to the same numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="COMMAND")
    parser.add_argument("--most", type=int, default=10**6, help="moments of each command (all)")
    parser.add_argument("--report", type=Path, help="file to keep what was found in")
    options = parser.parse_args()
    total, wrong, begun = 0, 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for name, job in jobs(Path(folder)).items():
            if options.only is None or name in options.only:
                found = kills(job, Path(folder), options.most, lambda t: print(t, flush=True))
                if options.report:
                    keep(options.report, found)
                total += found.killed
                wrong += len(found.wrong)
    print(f"{total} kills in {time.monotonic() - begun:.0f} s, {wrong} wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main_of_kills())

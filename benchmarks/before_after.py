"""``python -m benchmarks.before_after BEFORE``: what each op takes in two trees, by turns.

BEFORE is the folder of a checkout of an earlier commit with its library built (``git worktree add
BEFORE COMMIT``, then ``python setup.py build_ext --inplace`` there). A process of each tree makes a
case as its own ``benchmarks.cases`` says; they are called one after the other, in alternating
order. Plain torch is timed beside: it is the same in both, so that what its times differ by is
noise. On two quiet cores this takes about ten minutes. It ends with 1 where an op is slower by more
than noise.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ncfast.bench.timing import quartiles

from .run import RESULTS, described

__all__ = ["Row", "main", "render"]

OWN, PLAIN = "cpu", "torch"
PATIENCE_SECONDS = 1.5  # a call of plain torch that takes longer is timed once
LEAST_CALLS, MOST_CALLS = 3, 25
LEAST_NOISE = 0.02
HERE = Path(__file__).resolve().parent.parent
IMPORT = (
    "import time, torch; begin = time.perf_counter(); import ncfast; "
    "print(time.perf_counter() - begin)"
)


@dataclass(frozen=True)
class Row:
    """Hold the seconds of every call of one case in both trees, by provider."""

    title: str
    threads: int
    before: Mapping[str, Sequence[float]]
    after: Mapping[str, Sequence[float]]

    def ratio(self, provider: str) -> float | None:
        """Return the median after over the one before, None where one was not timed."""
        if not (self.before.get(provider) and self.after.get(provider)):
            return None
        return statistics.median(self.after[provider]) / statistics.median(self.before[provider])

    @property
    def noise(self) -> float:
        """Return by which share times differ for no reason of the op's."""
        found, plain = [LEAST_NOISE], self.ratio(PLAIN)
        for times in (self.before.get(OWN), self.after.get(OWN)):
            if times:
                low, middle, high = quartiles([*times])
                found.append((high - low) / middle)
        return max(found) if plain is None else max(*found, abs(plain - 1))

    @property
    def verdict(self) -> str:
        """Return how the op's time has changed: by its medians and its least times alike."""
        ratio = self.ratio(OWN)
        if ratio is None:
            return "new" if self.after.get(OWN) else "not there any more"
        least = min(self.after[OWN]) / min(self.before[OWN])
        if min(ratio, least) > 1 + self.noise:
            return "SLOWER"
        return "faster" if max(ratio, least) < 1 / (1 + self.noise) else "as before"


class Tree:
    """Ask a process of a tree for times."""

    def __init__(self, folder: Path, threads: int, quick: bool) -> None:
        words = [str(Path(__file__).with_name("timed_tree.py")), str(threads)]
        self.process = subprocess.Popen(
            [sys.executable, *words, "quick" if quick else "real"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, *question: Any) -> Any:
        """Return the answer to a question; see ``timed_tree``."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(question), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def timed(trees: Sequence[Tree], provider: str, most_seconds: float) -> list[list[float]]:
    """Return the seconds of calls of one provider in each tree, by turns."""
    first = [tree.ask("call", provider) for tree in trees]
    if provider == PLAIN and max(first) > PATIENCE_SECONDS:
        return [[one] for one in first]
    times: list[list[float]] = [[] for _ in trees]
    calls = min(max(int(most_seconds / max(first)), LEAST_CALLS), MOST_CALLS)
    for turn in range(calls):
        for tree, own in list(zip(trees, times, strict=True))[:: 1 if turn % 2 else -1]:
            own.append(tree.ask("call", provider))
    return times


def compared(before: Tree, after: Tree, threads: int, only: str, most_seconds: float) -> list[Row]:
    """Return the rows of all cases, in their order today."""
    old, rows = before.ask("titles"), []
    for title in [title for title in after.ask("titles") if only in title]:
        trees = [before, after] if title in old else [after]
        ready = [tree.ask("prepare", title, [OWN, PLAIN]) for tree in trees]
        found: tuple[dict[str, list[float]], ...] = ({}, {})
        for provider in [name for name in (OWN, PLAIN) if all(name in names for names in ready)]:
            seconds = timed(trees, provider, most_seconds)
            for own, times in zip(found[-len(trees) :], seconds, strict=True):
                own[provider] = times
        rows.append(Row(title, threads, *found))
        print(f"{rows[-1].verdict:10} {title} on {threads}", file=sys.stderr, flush=True)
    return rows


def import_seconds(folder: Path) -> float:
    """Return the least seconds of five that ``import ncfast`` takes after torch's own."""
    command, own = [sys.executable, "-c", IMPORT], os.environ | {"PYTHONPATH": str(folder)}
    runs = [subprocess.check_output(command, cwd=folder, env=own, text=True) for _ in range(5)]
    return min(float(run.split()[-1]) for run in runs)


def told(seconds: Sequence[float] | None) -> str:
    """Return median and least of some times in milliseconds."""
    if not seconds:
        return ""
    return f"{1e3 * statistics.median(seconds):.4g} ({1e3 * min(seconds):.4g})"


def render(rows: Sequence[Row], head: str, imports: tuple[float, float]) -> str:
    """Return the table as Markdown."""
    slower = [row.title for row in rows if row.verdict == "SLOWER"]
    lines = [
        "# Times before and after",
        "",
        head,
        "",
        "Medians in milliseconds, with least times; calls of both trees take turns. Plain torch is "
        "the same in both: what its times differ by is noise, and so is the distance of the "
        f"quartiles. An op is slower where medians and least times are so by more than that and by "
        f"more than {LEAST_NOISE:.0%}. Slower: {', '.join(slower) or 'none'}. "
        f"`import ncfast` beyond torch: {imports[0]:.2f} s before, {imports[1]:.2f} s after.",
        "",
        "| what | threads | before | after | after / before | torch, after / before | noise | |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        times = [row.before.get(OWN), row.after.get(OWN)]
        cells = [told(seconds) for seconds in times]
        ratios = ["" if r is None else f"{r:.2f}" for r in (row.ratio(OWN), row.ratio(PLAIN))]
        whole = [row.title, str(row.threads), *cells, *ratios, f"{row.noise:.0%}", row.verdict]
        lines.append(f"| {' | '.join(whole)} |")
    return "\n".join(lines) + "\n"


def commit_of(folder: Path) -> str:
    """Return the commit of a checkout, and whether it is changed."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=7"]
    return subprocess.check_output(command, text=True).strip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 1 where an op is slower by more than noise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.before_after", description=__doc__)
    parser.add_argument("before", type=Path, help="a checkout with its library built")
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--only", default="", metavar="PART", help="cases whose title has it")
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="of a case's calls in each tree (6)"
    )
    parser.add_argument("--quick", action="store_true", help="sizes that prove nothing")
    parser.add_argument("--out", type=Path, default=RESULTS / "before_after.md")
    given = parser.parse_args(arguments)
    rows: list[Row] = []
    for threads in given.threads:
        folders = (given.before.resolve(), HERE)
        before, after = (Tree(folder, threads, given.quick) for folder in folders)
        rows += compared(before, after, threads, given.only, given.seconds)
        for tree in (before, after):
            tree.close()
    head = f"Before: {commit_of(given.before)}; after: {commit_of(HERE)}. {described()}."
    imports = (import_seconds(given.before.resolve()), import_seconds(HERE))
    text = render(rows, head, imports)
    given.out.write_text(text, encoding="utf-8")
    print(text)
    return 1 if any(row.verdict == "SLOWER" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())

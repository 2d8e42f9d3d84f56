"""``python -m benchmarks.evaluate MODEL --data DIR``: what fairness benchmarks cost.

Every benchmark of a model kind, its time, and its memory beside the loaded model's; then the same
requests scored one by one, and beside minicons and fairlms where they are installed and compute the
same. Both sides of a comparison take turns, and the best of each counts. CPU seconds are what two
quiet cores would need at most; wall seconds depend on what else runs.
"""

from __future__ import annotations

import argparse
import datetime
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import ncfast
from ncfast.bench.machine import commit, cpu_model
from ncfast.bench.memory import method, peak_extra_bytes
from ncfast.bench.timing import least
from ncfast.fairness.benchmarks import BENCHMARKS, Perplexity, make
from ncfast.fairness.benchmarks.glue_items import TASKS
from ncfast.fairness.data import DataFolder
from ncfast.fairness.engine import ModelScorer
from ncfast.fairness.requests import Masked
from ncfast.language import LanguageModel

from .run import RESULTS

# Title, benchmark, attribute, which items, goal in seconds.
Case = tuple[str, str, str, Callable[[Any], bool], float | None]
CASES: tuple[Case, ...] = (
    ("StereoSet dev", "stereoset", "all", lambda c: c.split == "dev" and c.intra, 10),
    ("StereoSet test gender", "stereoset", "gender", lambda c: c.split == "test" and c.intra, None),
    ("CrowS-Pairs all", "crows-pairs", "all", lambda p: True, 60),
    ("CrowS-Pairs gender", "crows-pairs", "gender", lambda p: True, None),
    ("BEC-Pro", "bec-pro", "gender", lambda r: True, 3),
    ("WinoBias", "winobias", "gender", lambda r: True, None),
    ("Winogender", "winogender", "gender", lambda r: True, None),
    ("SEAT gender", "seat", "gender", lambda t: True, None),
)
# The suite of fairness.md: what its two minutes are asked of.
SUITE = (
    *("StereoSet dev", "StereoSet test gender", "CrowS-Pairs gender", "WinoBias", "BEC-Pro"),
    *("SEAT gender", "Winogender"),
)
ROUNDS = 3  # of a comparison, in turns
COLUMNS = "| {} | {} | {} | {} | {} | {} | {} |"


@dataclass(frozen=True)
class Cost:
    """Hold what one benchmark took."""

    title: str
    items: int
    cpu: float
    wall: float
    memory: int | None
    goal: float | None

    def line(self) -> str:
        """Return it as a row."""
        memory = "" if self.memory is None else f"{self.memory / 1e6:.0f}"
        goal = "" if self.goal is None else f"{self.goal:g}"
        each = f"{self.items / self.cpu:,.0f} ({1e3 * self.cpu / self.items:.2f})"
        seconds = f"{self.cpu:.1f}", f"{self.wall:.1f}"
        return COLUMNS.format(self.title, f"{self.items:,}", *seconds, goal, each, memory)


def cost(case: Case, model: LanguageModel, data: DataFolder) -> Cost:
    """Score one benchmark."""
    title, name, attribute, chosen, goal = case
    benchmark = make(name)
    items = [item for item in benchmark.read(data, attribute) if chosen(item)]
    benchmark.measure(items[:2], ModelScorer(model))  # libraries keep what their first call made
    scorer = ModelScorer(model)
    cpu, wall = time.process_time(), time.perf_counter()
    kept: list[Any] = []
    memory = peak_extra_bytes(lambda: kept.extend(benchmark.measure(items, scorer)))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return Cost(title, len(items), cpu, wall, memory=memory, goal=goal)


def fine_tuning(model: LanguageModel, data: DataFolder) -> list[str]:
    """Fine-tune on each GLUE task that is there; a line for each."""
    lines = []
    for name in TASKS:
        benchmark = BENCHMARKS[name]()
        if not benchmark.available(data):
            lines.append(f"{name}: its files are not in the data")
            continue
        items = benchmark.read(data, "all")
        cpu, wall = time.process_time(), time.perf_counter()
        benchmark.measure(items, ModelScorer(model))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        train = sum(e.split == "train" for e in items)
        lines.append(
            f"{name}: 3 epochs of {train:,} examples, {cpu:.0f} CPU s, {wall:.0f} s "
            f"({3 * train / cpu:,.0f} examples per CPU second)"
        )
    return lines


def beside(what: str, peer: str, found: dict[str, float], ours: str = "ours") -> str:
    """Say what a peer and we took."""
    theirs, mine = found["theirs"], found["ours"]
    return (
        f"{what}: {peer} {theirs:.2f} CPU s, {ours} {mine:.2f} CPU s: "
        f"{theirs / mine:.1f} times as fast"
    )


def one_by_one(model: LanguageModel, data: DataFolder, count: int = 200) -> str:
    """Score some of StereoSet's requests by the model's own logits, one at a time."""
    asked: list[Masked] = []

    class Spy:
        kind, tokenizer = "masked", model.tokenizer

        def masked(self, requests: Sequence[Masked]) -> list[tuple[float, ...]]:
            asked.extend(requests)
            return [(-1.0,) * len(r.candidates) for r in requests]

    benchmark: Any = make("stereoset")
    items = [c for c in benchmark.read(data, "gender") if c.split == "dev" and c.intra]
    benchmark.measure(items, Spy())
    chosen = random.Random(0).sample(asked, count)
    alone: list[list[float]] = []
    ours: list[tuple[float, ...]] = []

    def each() -> None:
        alone.clear()
        with torch.no_grad():
            for r in chosen:
                logits = model.model(input_ids=torch.tensor([r.ids])).logits[0, r.position]
                alone.append(logits.log_softmax(-1)[list(r.candidates)].tolist())

    def together() -> None:
        ours[:] = ModelScorer(model).masked(chosen)

    found = least({"alone": each, "together": together}, ROUNDS, time.process_time)
    pairs = zip(alone, ours, strict=True)
    apart = max(abs(a - b) for one, two in pairs for a, b in zip(one, two, strict=True))
    return (
        f"{count} requests of StereoSet, one by one {found['alone']:.2f} CPU s, together "
        f"{found['together']:.2f} CPU s: {found['alone'] / found['together']:.1f} times as fast "
        f"(goal 8); scores differ by at most {apart:.1e} (goal 5e-5)"
    )


def beside_fairlms(model: LanguageModel, data: DataFolder, count: int = 20) -> str:
    """Score CrowS-Pairs by the authors' rule, here and there."""
    try:
        from fairlms.utils import pll
    except ImportError:
        return "fairlms is not installed"
    benchmark: Any = make("crows-pairs")
    items = benchmark.read(data, "gender")[:count]

    def theirs() -> None:
        for item in items:
            texts = (item.more, item.less)
            encoded = [pll.scoring_input(model.tokenizer, model.model, t) for t in texts]
            spans = pll.get_span(encoded[0][0][0], encoded[1][0][0], operation="equal")
            for (ids, allowed), span in zip(encoded, spans, strict=True):
                kept = [at for at in span if at in allowed]
                pll.masked_position_score(model.tokenizer, model.model, ids, kept)

    # Ours scores the pieces that differ too, for its second variant.
    calls = {"theirs": theirs, "ours": lambda: benchmark.measure(items, ModelScorer(model))}
    found = least(calls, ROUNDS, time.process_time)
    what = f"CrowS-Pairs `original` of {count} pairs"
    return beside(what, "fairlms", found, ours="ours, `difference` included,")


def beside_minicons(model: LanguageModel, data: DataFolder, folder: Path, count: int = 20) -> str:
    """Score pseudo-log-likelihoods, here and there."""
    try:
        from minicons import scorer as minicons
    except ImportError:
        return "minicons is not installed"
    crows: Any = make("crows-pairs")
    texts = [p.more for p in crows.read(data, "gender")[:count]]
    (folder / "texts.txt").write_text("\n".join(texts) + "\n")
    benchmark = Perplexity(folder / "texts.txt")
    items = benchmark.read(data, "all")
    tokenizer = model.tokenizer
    if not hasattr(tokenizer, "batch_encode_plus"):  # gone from transformers 5; minicons calls it
        tokenizer.batch_encode_plus = tokenizer.__call__
    peer = minicons.MaskedLMScorer(model.model, "cpu", tokenizer=tokenizer)

    def theirs() -> None:
        with torch.no_grad():
            for name in ("original", "within_word_l2r"):
                peer.token_score(texts, PLL_metric=name)

    calls = {"theirs": theirs, "ours": lambda: benchmark.measure(items, ModelScorer(model))}
    found = least(calls, ROUNDS, time.process_time)
    what = f"pseudo-log-likelihood of {count} sentences, plain and within words"
    return beside(what, "minicons", found)


def suite(costs: Sequence[Cost]) -> str:
    """Return what the suite took altogether."""
    chosen = [c for c in costs if c.title in SUITE]
    if len(chosen) < len(SUITE):
        return "The suite was not run whole."
    cpu, wall = sum(c.cpu for c in chosen), sum(c.wall for c in chosen)
    return f"The suite ({', '.join(SUITE)}): {cpu:.1f} CPU s, {wall:.1f} s (goal 120)."


def render(costs: Sequence[Cost], lines: Sequence[str], conditions: str) -> str:
    """Write the findings under what they were found with."""
    titles = ("benchmark", "items", "CPU s", "wall s", "goal", "items per CPU s (ms)", "MB beside")
    table = [COLUMNS.format(*titles), "|---|--:|--:|--:|--:|--:|--:|", *(c.line() for c in costs)]
    return "\n".join([conditions, "", *table, "", suite(costs), "", *(f"- {x}" for x in lines)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate", description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="as `ncfast evaluate` takes it")
    parser.add_argument("--data", default="demo:fairness", help="folder of the benchmarks' files")
    parser.add_argument("--cases", help="titles by commas (default: all)")
    parser.add_argument("--glue", action="store_true", help="fine-tune on the GLUE tasks too")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help=f"file to write (such as {RESULTS}/evaluate.md)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    data, model = DataFolder(options.data), LanguageModel.load(options.model, progress=False)
    chosen = None if options.cases is None else options.cases.split(",")
    cases = [case for case in CASES if chosen is None or case[0] in chosen]
    costs, lines = [], []
    for case in cases:
        costs.append(cost(case, model, data))
        print(costs[-1].line(), flush=True)
    if model.kind == "masked":
        lines += [one_by_one(model, data), beside_fairlms(model, data)]
        with tempfile.TemporaryDirectory() as folder:
            lines.append(beside_minicons(model, data, Path(folder)))
    if options.glue:
        lines += fine_tuning(model, data)
    conditions = (
        f"{datetime.date.today()}, {cpu_model()}, torch {torch.__version__}, ncfast "
        f"{ncfast.__version__} at {commit()}; {Path(options.model).name}, {options.threads} "
        f"thread(s); load {load:.1f} to {os.getloadavg()[0]:.1f}; memory "
        f"by {method()}, beside the loaded model."
    )
    text = render(costs, lines, conditions)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

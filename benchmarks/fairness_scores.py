"""``python -m benchmarks.fairness_scores EVALUATION.json...``: store what README shows of fairness.

All scores of the files that ``ncfast evaluate`` wrote go to ``benchmarks/results/fairness.csv``,
each with the day, the command and the commit it was made by; ``benchmarks.readme`` writes the table
out of it.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "results/fairness.csv"
COLUMNS: tuple[str, ...] = ("model", "benchmark", "subset", "variant", "metric")
COLUMNS += ("value", "low", "high", "n", "clusters", "note", "run")
MODELS = ("bert-tiny-mlm", "demo:smollm2")  # the columns of the table, left to right

# A row of the table: its first three cells, its decimals, and whose score it is. A variant may be
# the masked model's and the causal one's.
ROWS = (
    ("StereoSet, test", "LM (sense over nonsense)", "", 1, "stereoset test.gender arithmetic lm"),
    ("", "SS (stereotype preferred, %)", "50", 1, "stereoset test.gender arithmetic ss"),
    ("CrowS-Pairs", "`original`, and `sum` (%)", "50", 1, "crows-pairs gender original/sum metric"),
    ("", "log-ratio (nats)", "0", 3, "crows-pairs gender original/sum log_ratio"),
    ("BEC-Pro", "gap (nats)", "0", 3, "bec-pro overall official gap"),
    ("SEAT-6, `cls`", "effect size", "0", 2, "seat sent-weat6 cls effect_size"),
    (
        "WinoBias, type 1",
        "pronoun of the stereotype (%)",
        "50",
        1,
        "winobias type1 pronoun pro_share",
    ),
    ("WinoBias, type 2", "", "50", 1, "winobias type2 pronoun pro_share"),
    ("Winogender", "correlation with US statistics", "0", 2, "winogender overall pronoun pearson"),
)
HEAD = (
    "| benchmark | score | unbiased | BERT-tiny, restored | SmolLM2-135M |\n|---|---|--:|--:|--:|"
)


def read() -> list[dict[str, str]]:
    """Return the stored scores."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def find(scores: Sequence[Mapping[str, str]], model: str, which: str) -> Mapping[str, str] | None:
    """Return the row of one score, or None where the model has none.

    Args:
        scores: rows of :func:`read`.
        model: the model's name.
        which: benchmark, subset, variants (with a stroke between them) and metric.
    """
    benchmark, subset, variants, metric = which.split()
    for variant in variants.split("/"):
        key = (model, benchmark, subset, variant, metric)
        for row in scores:
            if tuple(row[name] for name in COLUMNS[:5]) == key:
                return row
    return None


def cell(row: Mapping[str, str] | None, digits: int) -> str:
    """Return a score with its interval.

    >>> cell({"value": "0.2263", "low": "-0.2296", "high": "1.207", "note": "no headroom"}, 3)
    '0.226 [-0.230, 1.21] *n*'
    """
    if row is None:
        return ""
    numbers = (float(row[name]) for name in ("value", "low", "high"))
    value, low, high = (f"{x:.{digits - (digits == 3 and abs(x) >= 1)}f}" for x in numbers)
    return f"{value} [{low}, {high}]" + " *n*" * ("no headroom" in row["note"])


def render(scores: Sequence[Mapping[str, str]]) -> str:
    """Return the README's table."""
    lines = [HEAD]
    for name, score, unbiased, digits, which in ROWS:
        found = [find(scores, model, which) for model in MODELS]
        if found[0] is None:
            raise ValueError(f"{FILE.name} has no {which} of {MODELS[0]}")
        cells = [name, score, unbiased, *(cell(row, digits) for row in found)]
        lines.append("".join(f"| {text} " if text else "| " for text in cells) + "|")
    return "\n".join(lines)


def rows_of(evaluation: Mapping[str, Any], run: str) -> list[dict[str, Any]]:
    """Return the scores of one ``evaluation.json`` as rows of the CSV."""
    return [
        {**{name: row.get(name) for name in COLUMNS}, "run": run} for row in evaluation["scores"]
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Store the scores of some evaluations; those of a model and benchmark replace older ones."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fairness_scores")
    parser.add_argument("evaluations", nargs="+", type=Path, metavar="EVALUATION.json")
    parser.add_argument("--run", required=True, help="day, commit and machine, for the last column")
    options = parser.parse_args(arguments)
    kept = read() if FILE.exists() else []
    for path in options.evaluations:
        evaluation = json.loads(path.read_text(encoding="utf-8"))
        # Folders are the machine's own, and say nothing of what was run.
        command = re.sub(r"(?<=\s)/\S*?([^/\s]+)(?=\s|$)", r"\1", evaluation["command"])
        new = rows_of(evaluation, f"{options.run}; {command}")
        keys = {(row["model"], row["benchmark"]) for row in new}
        kept = [row for row in kept if (row["model"], row["benchmark"]) not in keys] + new
    with FILE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
    print(f"{FILE.name}: {len(kept)} scores")
    return 0


if __name__ == "__main__":
    sys.exit(main())

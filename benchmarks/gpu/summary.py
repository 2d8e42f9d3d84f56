"""Writes what the phases of a GPU run have found as one page."""

from __future__ import annotations

import json
from pathlib import Path

from .settings import read

__all__ = ["render"]

_DRY = (
    "**A dry run on a CPU. It shows that the plumbing works, and says nothing of any GPU: "
    "no time here is a GPU's.**"
)


def render(out: Path, dry_run: bool) -> str:
    """Return the summary of a folder, whatever of it is there yet."""
    lines = ["# GPU run", "", *([_DRY, ""] if dry_run else [])]
    lines += [(out / "machine.txt").read_text(encoding="utf-8").strip(), ""]
    phases = read([out / "phases.csv"])
    lines += ["| phase | outcome | seconds (limit) | what |", "|---|---|--:|---|"]
    for row in phases:
        lines.append(
            f"| {row['phase']} | {row['outcome']} | {row['seconds']} ({row['limit']}) "
            f"| {row['about']} |"
        )
    for part in (_ceilings, _tests, _repeats, _sanitized, _goals, _times, _not_reached):
        lines += ["", *part(out)]
    return "\n".join(lines).rstrip() + "\n"


def _ceilings(out: Path) -> list[str]:
    path = out / "ceilings.json"
    if not path.exists():
        return ["## Ceilings", "", "Not measured."]
    found = json.loads(path.read_text(encoding="utf-8"))
    rates = [f"{k} {found[k] / 1e12:.4g} TFLOP/s" for k in ("bfloat16", "tf32", "float32")]
    return ["## Ceilings", "", f"Copy {found['copy'] / 1e9:.4g} GB/s; {'; '.join(rates)}."]


def _tests(out: Path) -> list[str]:
    rows = read([out / "tests.csv"])
    lines = ["## Tests", "", "| op | outcome | passed | failed | errors | skipped |"]
    lines.append("|---|---|--:|--:|--:|--:|")
    names = ("op", "outcome", "passed", "failed", "error", "skipped")
    lines += ["| " + " | ".join(row[name] for name in names) + " |" for row in rows]
    return lines if rows else ["## Tests", "", "None ran."]


def _repeats(out: Path) -> list[str]:
    # One file per op: what a phase that ran out of time has found is there too.
    rows = read(sorted((out / "repeat").glob("*.csv")))
    same = sum(row["repeat"] == "same bits" for row in rows)
    captured = sum(row["graph"] == "same bits" for row in rows)
    left_out = sum(row["graph"].startswith("left out") for row in rows)
    lines = ["## Same bits on repeat, and CUDA graphs", ""]
    lines.append(
        f"{same} of {len(rows)} calls gave the same bits twice; {captured} were captured in a "
        f"CUDA graph and replayed to the same bits; {left_out} could not be (no CUDA device)."
    )
    bad = [r for r in rows if r["note"] or "OTHER BITS" in (r["repeat"], r["graph"])]
    lines += [
        f"- {r['op']} {r['backend']} {r['head']} {r['dtype']}: repeat {r['repeat'] or 'none'}, "
        f"graph {r['graph'] or 'none'}. {r['note']}"
        for r in bad
    ]
    return lines


def _sanitized(out: Path) -> list[str]:
    rows = read([out / "sanitize.csv"])
    found = [f"- {row['op']}, {row['tool']}: {row['outcome']}" for row in rows]
    return ["## compute-sanitizer", "", *(found or ["Nothing was watched."])]


def _goals(out: Path) -> list[str]:
    lines = ["## Goals", ""]
    for row in read([out / "times.csv"]):
        if row["goal"]:
            met = "not measured"
            if row["fraction"]:
                met = "met" if float(row["fraction"]) >= float(row["goal"]) else "MISSED"
            lines.append(
                f"- {row['op']}, {row['provider']}, {row['head']}, {row['dtype']}: "
                f"{row['fraction'] or 'none'} of the measured ceiling, goal {row['goal']}: {met}"
            )
        if (row["op"], row["head"]) == ("pair_stats", "Llama-3") and row["median_ms"]:
            lines.append(
                f"- pair_stats V=128,256 D=4,096, {row['provider']}, {row['dtype']}: "
                f"{row['median_ms']} ms (goal on an H100: under 150 ms)"
            )
    return lines if len(lines) > 2 else [*lines, "None could be judged."]


def _times(out: Path) -> list[str]:
    rows = read([out / "times.csv"])
    if not rows:
        return ["## Times", "", "None were taken."]
    lines = [
        "## Times",
        "",
        f"By {rows[0]['clock']}; floor / median is the share of the floor.",
        "",
    ]
    lines.append(
        "| op | provider | head | dtype | median ms (20 to 80 %) | floor ms | floor / median "
        "| predicted ms | peak MiB | note |"
    )
    lines.append("|---|---|---|---|--:|--:|--:|--:|--:|---|")
    for r in rows:
        spread = f"{r['median_ms']} ({r['q20_ms']} to {r['q80_ms']})" if r["median_ms"] else ""
        lines.append(
            f"| {r['op']} | {r['provider']} | {r['head']} | {r['dtype']} | {spread} "
            f"| {r['floor_ms']} ({r['floor_of']}) | {r['fraction']} | {r['predicted_ms']} "
            f"| {r['peak_mib']} | {r['note']} |"
        )
    return lines


def _not_reached(out: Path) -> list[str]:
    rows = read([out / "not_reached.csv"])
    if not rows:
        return []
    found = [f"{r['op']} {r['provider']} {r['head']} {r['dtype']}" for r in rows]
    return ["## Not reached in time", "", "; ".join(found) + "."]

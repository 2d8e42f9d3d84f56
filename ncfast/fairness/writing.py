"""``evaluation.json``, the items' file beside it, and the page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..reporting import write_atomically
from ..reporting.axes import Axis
from ..reporting.blocks import Block, Figure, Heading, Items
from ..reporting.html import render_html
from ..reporting.shapes import RIGHT, Point, across_lines, circle, line, row_label, svg
from .errors import EvaluationError
from .evaluation import SCHEMA, Evaluation
from .summary import scores, show, summary_blocks

__all__ = ["page_blocks", "require_own", "write_evaluation"]

TITLE_OF_PAGE = "Fairness benchmarks"
TITLE = "Share of stereotypical choices in per cent"


def require_own(folder: Path) -> None:
    """Reject a folder whose ``items.jsonl``, page or ``evaluation.json`` is of something else.

    An earlier evaluation is written over: its answers are kept beside it.
    """
    for name in ("evaluation.json", "items.jsonl", "evaluation.html"):
        path = folder / name
        try:
            known = not path.exists() or _is_own(path)
        except (ValueError, KeyError, TypeError, RecursionError):
            known = False
        if not known:
            raise EvaluationError(
                f"{path} is there, and not of an evaluation; expected another --out folder"
            )


def _is_own(path: Path) -> bool:
    with open(path, encoding="utf-8") as stream:
        if path.suffix == ".html":
            return TITLE_OF_PAGE in stream.read()
        if path.suffix == ".json":
            return bool(json.load(stream)["schema"] == SCHEMA)
        line = stream.readline()
        return not line.strip() or {"model", "benchmark", "item"} <= set(json.loads(line))


def write_evaluation(evaluation: Evaluation, folder: Path) -> dict[str, Path]:
    """Write ``evaluation.json``, its page and ``items.jsonl``, each whole or not at all."""
    require_own(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"model": model, "benchmark": key, **record.to_json()}, allow_nan=False)
        for (model, key), records in evaluation.records.items()
        for record in records
    ]
    names = ", ".join(model["name"] for model in evaluation.document["models"])
    title = f"{TITLE_OF_PAGE}: {names}"
    texts = {
        "items.jsonl": "\n".join(lines) + "\n",
        "evaluation.html": render_html(title, page_blocks(evaluation.document)),
        "evaluation.json": json.dumps(evaluation.document, indent=1, allow_nan=False) + "\n",
    }
    for name, text in texts.items():
        write_atomically(folder / name, text)
    return {name: folder / name for name in texts}


def page_blocks(document: Mapping[str, Any]) -> list[Block]:
    """Return the page without its title: the summary with a picture, every score, and sources.

    >>> empty = {"scores": [], "differences": [], "skipped": [], "models": [], "sources": {}}
    >>> [b.text for b in page_blocks(empty) if isinstance(b, Heading)]
    ['Scores', 'Every score', 'What they say', 'Notes']
    """
    notes = [f"{m['name']}: {note}" for m in document["models"] for note in (m.get("notes") or [])]
    notes += [f"{key}: {source}" for key, source in document["sources"].items()]
    return [
        Figure(f"{TITLE}. Lines are 95 % intervals; 50 is unbiased.", _picture(document)),
        Heading("Scores"),
        *summary_blocks(document),
        Heading("Every score"),
        scores(document, every=True),
        Heading("What they say"),
        Items([f"{key}: {text}" for key, text in document.get("readings", {}).items() if text]),
        Heading("Notes"),
        Items(notes),
    ]


def _picture(document: Mapping[str, Any]) -> str:
    """Draw each headline score that has an unbiased value of 50, with its interval."""
    shares = {("stereoset", "ss"), ("crows-pairs", "metric"), ("winobias", "pro_share")}
    rows = [
        row
        for row in document["scores"]
        if (row["benchmark"], row["metric"]) in shares
        and None not in (row["value"], row["low"], row["high"])
    ]
    if not rows:
        return ""
    axis, step = Axis(0.0, 100.0, 2.0, RIGHT), 38
    bottom = step * len(rows) + 8
    body = [*across_lines(axis, axis.ticks(), 8, bottom)]
    body.append(line(axis.at(50), 8, axis.at(50), bottom, "baseline"))
    for number, row in enumerate(rows):
        y = step * number + 32
        name = " ".join(row[key] for key in ("model", "benchmark", "subset", "variant"))
        low, high = (axis.at(min(max(row[key], 0.0), 100.0)) for key in ("low", "high"))
        body.append(row_label(y - 12, name, show(row)))
        body.append(line(low, y, high, y, "median"))
        body.append(circle(axis.at(row["value"]), y, Point(row["value"], name, "words"), 4))
    said = "; ".join(f"{r['model']}: {r['benchmark']} {r['subset']} {show(r)}" for r in rows)
    return svg("shares", TITLE, said, bottom + 40, body)

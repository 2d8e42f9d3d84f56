"""The before/after report of a fine-tuning run: what was asked for beside what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..language import LanguageModel
from ..losses import Regularizer
from ..reporting import compare_reports, write_comparison
from ..reporting.blocks import Block, Paragraph, table
from ..reporting.markdown import blocks_to_markdown
from ..reporting.tables import format_number

SCHEMA = "ncfast-finetune/1"
SHOWN = (
    "unc3_std",
    "nc3_mean",
    "trace_within",
    "nc1_quotient",
    "cdnv_mean",
    "log_distance_mean",
    "etf_error",
)
MANY = 20  # steps at each end whose mean stands for the start and the end of a term


def describe_seen(term: Regularizer, model: LanguageModel) -> dict[str, Any]:
    """Say what a term saw: tokens and classes, and which classes never came.

    Returns ``classes``, ``occurred``, ``tokens``, ``calls``, ``never``, a few of the classes, and
    ``measured_by``, the metric that shows what the term does.
    """
    moments = term.class_means
    never = moments.ids[moments.seen == 0][:MANY].tolist()
    return {
        **term.report(),
        "never": model.tokenizer.convert_ids_to_tokens(never),
        "measured_by": term.measured_by,
    }


def before_after(
    head: Mapping[str, Any],
    states: tuple[Mapping[str, Any], Mapping[str, Any]],
    steps: Sequence[Mapping[str, Any]],
    seen: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Put the two measurements side by side, and each term's own value beside them.

    ``head`` has settings and command; ``states``, before and after, ``report`` and ``perplexity``;
    ``steps`` are lines of ``steps.jsonl``; ``seen``, of each term, from :func:`describe_seen`.

    >>> before_after({}, ({}, {}), [], {})["sets"]
    {}
    """
    before, after = (state.get("report") or {"sets": {}} for state in states)
    sets = {
        name: {
            key: _pair(section["metrics"].get(key), after["sets"][name]["metrics"].get(key))
            for key in SHOWN
            if key in section["metrics"]
        }
        for name, section in before["sets"].items()
        if name in after["sets"]
    }
    return {
        "schema": SCHEMA,
        **head,
        "perplexity": _pair(*(state.get("perplexity") for state in states)),
        "sets": sets,
        "terms": {
            name: {**found, "own_value": _ends(steps, f"{name}/value")}
            for name, found in seen.items()
        },
        "cross_entropy": _ends(steps, "cross_entropy"),
        "gradient_share": _last(steps, "terms_gradient_share"),
        "steps": len(steps),
        "seconds": sum(line["seconds"] for line in steps),
    }


def write_page(
    before: Mapping[str, Any], after: Mapping[str, Any], folder: Path, command: str | None
) -> str | None:
    """Write the comparison of both measurements, and return the name of its page.

    None where nothing was measured (``measure_tokens=0``).

    >>> write_page({}, {}, Path("out"), None) is None
    True
    """
    if not before.get("report") or not after.get("report"):
        return None
    values = [state.get("perplexity") for state in (before, after)]
    remarks = []
    if all(value is not None and math.isfinite(value) for value in values):
        remarks = [f"perplexity of held-out text: {values[0]:.4g} before, {values[1]:.4g} after"]
    document = compare_reports(
        before["report"],
        after["report"],
        ("before", "after"),
        ("before", "after"),
        command=command,
        remarks=remarks,
    )
    return write_comparison(document, folder).with_suffix(".html").name


def _pair(before: float | None, after: float | None) -> dict[str, float | None]:
    known = before is not None and after is not None and before != 0
    change = after / before - 1 if known else None  # type: ignore[operator]
    return {"before": before, "after": after, "change": change}


def _ends(steps: Sequence[Mapping[str, Any]], key: str) -> dict[str, float | None]:
    values = [line[key] for line in steps if line.get(key) is not None]
    many = min(MANY, max(1, len(values) // 2))
    if not values:
        return _pair(None, None)
    return _pair(sum(values[:many]) / many, sum(values[-many:]) / many)


def _last(steps: Sequence[Mapping[str, Any]], key: str) -> float | None:
    found = [line[key] for line in steps if key in line]
    return found[-1] if found else None


def render(report: Mapping[str, Any]) -> str:
    """Render a report of :func:`before_after` as Markdown.

    >>> print(render(before_after({}, ({}, {}), [], {})).splitlines()[0])
    # Before and after fine-tuning
    """
    return blocks_to_markdown(report_blocks(report), "Before and after fine-tuning")


def report_blocks(report: Mapping[str, Any]) -> list[Block]:
    """Return a report of :func:`before_after` without its title, for files and terminals.

    >>> report_blocks(before_after({}, ({}, {}), [], {}))[0].columns[1].title
    'before'
    """
    rows = [("perplexity of held-out text", report["perplexity"])]
    rows += [
        (f"{name}: {key}", values)
        for name, section in report["sets"].items()
        if "/random-" not in name
        for key, values in section.items()
    ]
    header = ("", "before", "after", "change")
    blocks: list[Block] = [table(header, [(name, *_cells(values)) for name, values in rows])]
    recipe = report.get("recipe", {})
    said = [f"Recipe {recipe['name']}: {n:,} {what}." for what, n in recipe.get("text", {}).items()]
    done = recipe.get("done", {})
    said += [f"Recipe {recipe['name']}, {what}: {value}." for what, value in done.items()]
    said += [" ".join(_term_lines(name, term, report)) for name, term in report["terms"].items()]
    if report["gradient_share"] is not None:
        share = report["gradient_share"]
        said.append(f"At the end the terms made {share:.1%} of the gradient's norm.")
    return [*blocks, *map(Paragraph, said)]


def _cells(values: Mapping[str, float | None]) -> tuple[str, str, str]:
    change = values["change"]
    return (
        format_number(values["before"]),
        format_number(values["after"]),
        "" if change is None else f"{change:+.1%}",
    )


def _term_lines(name: str, term: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    own, key = term["own_value"], term["measured_by"]
    before, after, change = _cells(own)
    lines = [
        f"The term {name} saw {term['tokens']:,} tokens of {term['occurred']} of its "
        f"{term['classes']} classes.",
        f"Its own value, over the batches' class means, went from {before} to {after}"
        + (f" ({change})." if change else "."),
    ]
    moved = [
        (section, values[key]["change"])
        for section, values in report["sets"].items()
        if key in values and "/" not in section and section != "vocabulary"
    ]
    for section, measured in moved:
        if measured is not None:
            lines.append(f"The reported {key} of {section} changed by {measured:+.1%}.")
        lowered = own["change"] is not None and own["change"] < -0.25
        if lowered and measured is not None and measured > own["change"] / 2:
            lines.append(
                "So the term lowered its own value far more than the metric: its class means "
                "are of few tokens, and part of what it lowered is their noise."
            )
    if term["occurred"] < term["classes"]:
        missing = term["classes"] - term["occurred"]
        lines.append(f"{missing} of its classes never came, e.g. {', '.join(term['never'][:8])}.")
    return lines

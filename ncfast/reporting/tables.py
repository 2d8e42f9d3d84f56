"""Tables of a report: which numbers stand side by side, and how each is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..catalogue import explain_metric, ordered_keys

MISSING = "-"


@dataclass(frozen=True)
class Row:
    """Hold one metric over all columns: its key, one text per column and how sure each is.

    >>> Row("nc3_mean", ("0.31",), ("[0.29, 0.33]",)).key
    'nc3_mean'
    """

    key: str  # the metric's key
    cells: tuple[str, ...]  # one text per column of the table
    # one text per column, an interval or a standard error; empty where there is none
    details: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Hold the side-by-side table: column titles and rows ordered by family.

    >>> Comparison(("vocabulary",), ()).rows
    ()
    """

    columns: tuple[str, ...]  # the titles of the columns
    rows: tuple[Row, ...]  # one ``Row`` per metric


def format_number(value: float | None, digits: int = 4) -> str:
    """Format a number for a table: integers with separators, others to a few digits.

    >>> format_number(1234567), format_number(0.123456), format_number(None)
    ('1,234,567', '0.1235', '-')
    """
    if value is None:
        return MISSING
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    if 1000 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def format_interval(ends: Sequence[float | None] | None) -> str:
    """Format an interval for a table.

    >>> format_interval([0.29, 0.3333]), format_interval(None)
    ('[0.29, 0.333]', '')
    """
    if ends is None or any(end is None for end in ends):
        return ""
    return f"[{', '.join(format_number(end, 3) for end in ends)}]"


def compare_sets(
    report: Mapping[str, Any], brief: bool = False, words: str | None = None
) -> Comparison:
    """Lay the sets of a report side by side; ``words`` shows one word set alone.

    Columns for the vocabulary and, for each word set, itself, the mean and standard deviation over
    its random controls, its matched control, and its ratios to both; ``brief`` gives intervals of
    the word sets alone. ``nc1_svd`` has no row where it repeats ``nc1_pinv`` (see
    :func:`repeated_keys`).

    >>> compare_sets({"sets": {}}).columns
    ()
    """
    sets = {
        name: section
        for name, section in report["sets"].items()
        if words is None or section["kind"] == "vocabulary" or words in (name, section["of"])
    }
    keys = ordered_keys(key for section in sets.values() for key in section["metrics"])
    columns: list[tuple[str, dict[str, str], dict[str, str]]] = []
    for name, section in sets.items():
        if section["kind"] in ("random", "matched"):
            continue
        columns.append((name, _values(section["metrics"]), certainty(section)))
        if controls := section.get("random_controls"):
            count = len(controls["names"])
            columns.append((f"{count} random controls", _mean_and_std(controls), {}))
        columns += [
            ("matched control", _values(other["metrics"]), {} if brief else certainty(other))
            for other in sets.values()
            if other["kind"] == "matched" and other["of"] == name
        ]
        for control in ("random", "matched"):
            if ratio := section.get(f"ratio_to_{control}"):
                ends = {} if brief else section.get(f"ratio_to_{control}_intervals", {})
                sure = {key: format_interval(interval) for key, interval in ends.items()}
                columns.append((f"{name} / {control}", _values(ratio, digits=3), sure))
    hidden = repeated_keys(report)
    return Comparison(
        tuple(title for title, *_ in columns),
        tuple(
            Row(
                key,
                tuple(cells.get(key, MISSING) for _, cells, _ in columns),
                tuple(details.get(key, "") for *_, details in columns),
            )
            for key in keys
            if key not in hidden
        ),
    )


def repeated_keys(report: Mapping[str, Any]) -> dict[str, str]:
    """Return key -> the key whose numbers it would repeat in every set of a report.

    The leading-directions form of NC1 keeps K - 1 directions: all there are, wherever K - 1 is no
    less than the rank of the between-class scatter.

    >>> repeated_keys({"sets": {"a": {"metrics": {"nc1_pinv": 0.5, "nc1_svd": 0.5}}}})
    {'nc1_svd': 'nc1_pinv'}
    """
    found = [
        tuple(format_number(section["metrics"].get(key), 6) for key in ("nc1_pinv", "nc1_svd"))
        for section in report["sets"].values()
        if "nc1_svd" in section["metrics"]
    ]
    return {"nc1_svd": "nc1_pinv"} if found and all(one == two for one, two in found) else {}


def reference_rows(reference: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Lay whole vocabularies beside published measurements: column titles, and cells by key.

    >>> reference_rows({"metrics": {}})
    ([], [])
    """
    metrics = reference["metrics"]
    if not metrics:
        return [], []
    names = list(next(iter(metrics.values()))["values"])
    header = [*names, "published median", "5% to 95%", "least to most", "column"]
    header += [f"{name} is above" for name in names]
    rows = []
    for key in ordered_keys(metrics):
        entry = metrics[key]
        found = {level: format_number(value, 3) for level, value in entry["quantiles"].items()}
        cells = [format_number(entry["values"][name]) for name in names]
        cells += [found["p50"], f"{found['p05']} to {found['p95']}"]
        cells += [f"{found['min']} to {found['max']}", entry["formula"]]
        below = [entry["below"][name] for name in names]
        cells += [MISSING if b is None else f"{b:.0%} of {entry['rows']:,}" for b in below]
        rows.append((key, cells))
    return header, rows


def certainty(section: Mapping[str, Any]) -> dict[str, str]:
    """Return, where there is one, each metric's bootstrap interval, standard error, or both.

    >>> certainty({"intervals": {"a": [1, 2]}, "standard_errors": {"b": 0.125}})
    {'a': '[1, 2]', 'b': '± 0.12'}
    """
    found = {key: format_interval(ends) for key, ends in section.get("intervals", {}).items()}
    for key, error in section.get("standard_errors", {}).items():
        if error is not None:
            found[key] = f"± {format_number(error, 2)} {found.get(key, '')}".strip()
    return {key: text for key, text in found.items() if text}


def _values(values: Mapping[str, float | None], digits: int = 4) -> dict[str, str]:
    return {key: format_number(value, digits) for key, value in values.items()}


def _mean_and_std(controls: Mapping[str, Any]) -> dict[str, str]:
    cells = {}
    for key, mean in controls["mean"].items():
        spread = controls["std"].get(key)
        # A mean of counts is no count: "84.4 tokens" is clearer than four digits of it.
        whole = explain_metric(key).family == "Size"
        if whole and mean is not None and spread is not None:
            mean, spread = round(mean), round(spread)
        shown = format_number(mean)
        # Two digits of a spread say enough, but never as 1.2e+02.
        digits = 2 if not spread or spread < 100 else 4
        cells[key] = shown if not spread else f"{shown} ± {format_number(spread, digits)}"
    return cells

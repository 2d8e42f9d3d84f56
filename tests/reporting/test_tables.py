"""Tables: every key is shown, Markdown stays Markdown."""

from __future__ import annotations

import re

import pytest

from ncfast.catalogue import FAMILIES, METRICS, explain_metric, ordered_keys
from ncfast.metrics import NCReport
from ncfast.reporting import compare_sets, render_markdown, render_page, render_text
from ncfast.reporting.tables import format_interval, format_number
from ncfast.reporting.wording import findings
from ncfast.statistics import ClassStatistics


def test_every_key_and_column_is_there(report):
    table = compare_sets(report)
    assert table.columns == (
        "vocabulary",
        "gender",
        "5 random controls",
        "matched control",
        "gender / random",
        "gender / matched",
    )
    assert {row.key for row in table.rows} == set(report["sets"]["gender"]["metrics"])
    assert all(len(row.cells) == len(table.columns) for row in table.rows)
    for drawing in (render_text(report), render_markdown(report)):
        assert "brand" in drawing  # a key this version does not know


def test_cells_are_the_numbers_of_the_report(report):
    row = next(row for row in compare_sets(report).rows if row.key == "unc3_std")
    sets = report["sets"]
    controls = sets["gender"]["random_controls"]
    assert row.cells == (
        format_number(sets["vocabulary"]["metrics"]["unc3_std"]),
        format_number(sets["gender"]["metrics"]["unc3_std"]),
        f"{controls['mean']['unc3_std']:.4g} ± {controls['std']['unc3_std']:.2g}",
        format_number(sets["gender/matched"]["metrics"]["unc3_std"]),
        f"{sets['gender']['ratio_to_random']['unc3_std']:.3g}",
        f"{sets['gender']['ratio_to_matched']['unc3_std']:.3g}",
    )
    low, high = sets["gender"]["intervals"]["unc3_std"]
    mean = controls["mean"]["unc3_std"]
    assert row.details == (
        "",
        f"[{low:.3g}, {high:.3g}]",
        "",
        format_interval(sets["gender/matched"]["intervals"]["unc3_std"]),
        f"[{low / mean:.3g}, {high / mean:.3g}]",
        "",
    )


def test_standard_errors_stand_beside_their_values(report):
    report["sets"]["vocabulary"]["standard_errors"] = {"unc3_std": 0.0123}
    report["settings"]["pairs"] = 5000
    for drawing in (render_text(report), render_markdown(report), render_page(report)):
        assert "± 0.012" in drawing
    assert "5,000 pairs" in render_markdown(report)
    assert "5,000 pairs" in render_page(report)


def test_how_sure_the_numbers_are_is_said(report):
    for drawing in (render_markdown(report), render_page(report)):
        assert "95% intervals, from 200 draws" in drawing
        assert "nor for the whole vocabulary" in drawing
    low, high = report["sets"]["gender"]["intervals"]["unc3_std"]
    assert f"(95% interval {low:.3f} to {high:.3f})" in " ".join(findings(report))


def test_markdown_tables_are_not_broken_by_words(report):
    text = render_markdown(report)
    headers = [i for i, line in enumerate(text.splitlines()) if line.startswith("| Metric")]
    assert len(headers) == 2  # the leading rows, then every metric
    for header, columns in zip(headers, (6, 7), strict=True):
        lines = text.splitlines()[header:]
        for line in lines[: next(i for i, line in enumerate(lines) if not line)]:
            assert len(re.findall(r"(?<!\\)\|", line)) == columns + 1
    assert "<script>" not in text.replace("\\<script\\>", "")
    assert "widower" in text  # a dropped word, with its reason
    assert "3 pieces" in text
    assert "no language-model head" in text.split("##")[0]


def test_every_metric_of_this_version_is_explained():
    import torch

    from ncfast import neural_collapse

    stats = ClassStatistics(3, 2)
    stats.update(torch.eye(2), torch.tensor([0, 1]))
    found = neural_collapse(stats, head_weight=torch.ones(3, 2))
    assert isinstance(found, NCReport)
    assert not [key for key in found if explain_metric(key).family == "Other"]


def test_families_come_in_order():
    keys = ordered_keys(["zzz", *reversed(METRICS), "aaa"])
    assert keys[-2:] == ["zzz", "aaa"]
    assert keys[:-2] == list(METRICS)
    families = [explain_metric(key).family for key in keys]
    assert families == sorted(families, key=list(FAMILIES).index)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (3.0, "3"),
        (1234567, "1,234,567"),
        (0.000012345, "1.234e-05"),
        (-0.25, "-0.25"),
        (1e20, "1e+20"),
    ],
)
def test_numbers(value, text):
    assert format_number(value) == text

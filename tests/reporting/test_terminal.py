"""The terminal: eight rows first, fitted to any width, plain and parseable in a pipe."""

from __future__ import annotations

import builtins
import io
import re

import pytest

from ncfast.catalogue import LEADING
from ncfast.reporting.leading import ALIKE, LESS, MORE, how_words_stand, leading_tables
from ncfast.reporting.metric_blocks import leading_blocks, metric_table
from ncfast.reporting.plain import printable, text_of
from ncfast.reporting.tables import MISSING, compare_sets, repeated_keys
from ncfast.reporting.terminal import Terminal

WIDTHS = (40, 60, 80, 100, 200)


@pytest.fixture
def wide(report) -> dict:
    """Return the report with values of every leading metric in every set, some of them long."""
    for place, section in enumerate(report["sets"].values()):
        for row, key in enumerate(LEADING):
            value = -0.0001234 * (row + 1) - place * 1e-7
            section["metrics"][key] = value
            if section["kind"] in ("words", "matched"):
                section["intervals"][key] = [value - 1e-6, value + 1e-6]
    return report


def drawn(report: dict, width: int, everything: bool = False, encoding: str = "utf-8") -> str:
    """Return what a terminal of this width shows."""
    pytest.importorskip("rich")
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    Terminal(stream, width=width, rich=True).report(report, everything)
    return raw.getvalue().decode(encoding)


def words_of(text: str) -> set[str]:
    return set(re.sub(r"[^\w.,\-\[\]± +/]", " ", text).split())


@pytest.mark.parametrize("width", WIDTHS)
def test_every_number_is_whole_at_every_width(wide, width):
    shown = drawn(wide, width, everything=True)
    assert max(map(len, shown.splitlines())) <= width
    found = words_of(shown)
    (leading,) = leading_tables(wide)
    full = compare_sets(wide, brief=True)
    for row in (*leading.rows, *full.rows):
        for text in (*row.cells, *row.details):
            assert set(text.split()) <= found, (width, row.key, text)


def test_the_eight_rows_come_first_and_alone(wide):
    shown = drawn(wide, 100)
    for reading in LEADING.values():
        assert reading.symbol in shown
    assert "log norms" not in shown
    assert "gender words are" in shown
    assert "5 random controls" not in shown
    everything = drawn(wide, 200, everything=True)
    assert everything.index("GNC2(w)") < everything.index("Spread of log norms")
    assert "5 random controls" in everything


def test_a_pipe_gets_cells_two_spaces_apart(wide):
    (table,) = leading_tables(wide)
    lines = [re.split(r"\s{2,}", line) for line in text_of(leading_blocks([table])[0]).splitlines()]
    assert {len(line) for line in lines} == {7}
    assert [line[0] for line in lines[1:]] == [reading.symbol for reading in LEADING.values()]
    row = next(row for row in table.rows if row.key == "unc3_std")
    found = next(line for line in lines if line[0] == "(U)NC3")
    pairs = zip(row.cells, row.details, strict=True)
    assert found[2:5] == [" ".join(filter(None, p)) for p in pairs]
    full = compare_sets(wide, brief=True)
    metrics = [line for line in text_of(metric_table(full)).splitlines() if line.startswith("  ")][
        1:
    ]
    assert {len(re.split(r"\s{2,}", line.strip())) for line in metrics} == {7}
    assert len(metrics) == len(full.rows)


def test_a_pipe_is_never_drawn_by_rich(wide, capsys):
    Terminal().report(wide)
    printed = capsys.readouterr().out
    assert "│" not in printed
    assert "\x1b" not in printed


def test_without_rich_the_same_rows_come_as_text(wide, monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *rest, **kwargs):
        if name.startswith("rich"):
            raise ImportError(name)
        return real(name, *rest, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    Terminal(width=80).report(wide)
    assert text_of(leading_blocks(leading_tables(wide))[0]) in capsys.readouterr().out


@pytest.mark.parametrize("everything", [False, True])
def test_a_terminal_without_unicode_loses_nothing(wide, everything):
    shown = drawn(wide, 80, everything, encoding="ascii")
    assert "?" not in shown
    assert "+/-" in shown or not everything
    assert '"more collapsed"' in shown
    assert printable("fiancé ±", "latin-1") == "fiancé ±"
    assert printable("ő", "no-such-encoding") == "\\u0151"


def _sets(own, low, high, matched=None, random=()) -> dict:
    key = "unc3_std"
    sets = {"jobs": {"kind": "words", "of": None, "metrics": {key: own}}}
    sets["jobs"]["intervals"] = {} if low is None else {key: [low, high]}
    if matched:
        found = {"kind": "matched", "of": "jobs", "metrics": {key: 0.16}}
        sets["jobs/matched"] = found | {"intervals": {key: list(matched)}}
    names = [f"jobs/random-{i}" for i, _ in enumerate(random, 1)]
    for name, value in zip(names, random, strict=True):
        sets[name] = {"kind": "random", "of": "jobs", "metrics": {key: value}, "intervals": {}}
    if random:
        sets["jobs"]["random_controls"] = {"names": names}
    return sets


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (_sets(0.1, 0.08, 0.12, (0.13, 0.2), (0.15, 0.2)), MORE),
        (_sets(0.3, 0.28, 0.32, (0.13, 0.2), (0.15, 0.2)), LESS),
        (_sets(0.1, 0.08, 0.14, (0.13, 0.2), (0.15, 0.2)), ALIKE),  # the intervals overlap
        (_sets(0.1, 0.08, 0.12, (0.13, 0.2), (0.05, 0.2)), ALIKE),  # inside the random range
        (_sets(0.1, 0.08, 0.12, (0.13, 0.2), (0.05, 0.06)), ALIKE),  # on two sides of the controls
        (_sets(0.1, 0.08, 0.12, (0.13, 0.2)), MORE),  # no random controls
        (_sets(0.1, None, None, (0.13, 0.2), (0.15, 0.2)), MISSING),  # too few words
        (_sets(0.1, None, None, random=(0.15, 0.2)), MISSING),  # the same without a matched control
        (_sets(0.1, 0.08, 0.12, (None, None), (0.15, 0.2)), MISSING),  # the control has too few
        (_sets(0.1, 0.08, 0.12), MISSING),  # no controls at all
        (_sets(0.1, 0.08, 0.12, random=(0.15,)), MISSING),  # one control has no range
    ],
)
def test_what_is_said_of_the_words(sets, said):
    assert how_words_stand(sets, "jobs", "unc3_std") == said


def test_higher_is_more_for_metrics_that_rise():
    sets = _sets(0.5, 0.45, 0.55, (0.2, 0.3))
    for section in sets.values():
        section["metrics"] = {"nc3_mean": section["metrics"]["unc3_std"]}
        section["intervals"] = {"nc3_mean": section["intervals"]["unc3_std"]}
    assert how_words_stand(sets, "jobs", "nc3_mean") == MORE


def test_a_repeated_form_is_shown_once_and_said(report):
    assert repeated_keys(report) == {}
    for section in report["sets"].values():
        section["metrics"] |= {"nc1_pinv": 0.125, "nc1_svd": 0.125}
    assert repeated_keys(report) == {"nc1_svd": "nc1_pinv"}
    assert "nc1_svd" not in [row.key for row in compare_sets(report).rows]
    from ncfast.reporting import render_markdown, render_page

    for drawing in (render_markdown(report), render_page(report)):
        assert "has no row" in drawing
    report["sets"]["gender"]["metrics"]["nc1_svd"] = 0.25
    assert repeated_keys(report) == {}

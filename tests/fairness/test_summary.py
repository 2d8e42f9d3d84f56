"""The table on a terminal: drawn by rich where there is one, plain text elsewhere."""

from __future__ import annotations

import io

import pytest

from ncfast.fairness.summary import summary_blocks
from ncfast.reporting.terminal import Terminal


def score(model, benchmark, metric, value, note="", low=1.0, high=99.0):
    names = {"model": model, "benchmark": benchmark, "subset": "gender", "variant": "sum"}
    interval = {"low": low, "high": high} if value is not None else {"low": None, "high": None}
    return names | {"metric": metric, "value": value, "note": note} | interval


def difference(second, benchmark, p, changed):
    row = score("", benchmark, "metric", 1.5) | {"first": "base", "second": second}
    return row | {"p_value": p, "test": "McNemar", "changed": changed}


DOCUMENT = {
    "scores": [
        score("base", "crows-pairs", "metric", 55.5, "no headroom"),
        score("new", "crows-pairs", "metric", 57.0),
        score("base", "crows-pairs", "ties", 0),
        score("base", "stereoset", "ss", None, "undefined"),
        score("base", "stereoset", "icat", 73.95),
    ],
    "differences": [difference("new", "crows-pairs", 0.25, 3)],
    "skipped": [
        {"benchmark": "bbq", "model": "new", "reason": "it takes hours"},
        {"benchmark": "seat", "model": "base", "reason": "no words"},
        {"benchmark": "seat", "model": "new", "reason": "no words"},
        {"benchmark": "sst2", "reason": "no files"},
    ],
}


def drawn(every=False, **how):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="utf-8", write_through=True)
    Terminal(stream, **how).blocks(summary_blocks(DOCUMENT, every))
    return raw.getvalue().decode()


@pytest.mark.parametrize("how", [{"rich": False}, {"rich": True, "width": 120}])
def test_scores_differences_and_what_is_left_out(how):
    text = drawn(**how)
    for shown in ("55.50", "[1.00, 99.00]", "no headroom", "undefined", "p 0.25 (McNemar)", "new"):
        assert shown in text
    words = " ".join(text.split())
    assert "Not scored for new: bbq: it takes hours" in words
    assert "Not scored for base, new: seat: no words" in words
    assert "Not scored: sst2: no files" in words
    assert text.count("crows-pairs") == 2  # once in each table, as a group of rows
    assert "73.95" not in text  # ICAT is never a headline
    assert "ties" not in text
    assert "73.95" in drawn(every=True, **how)
    assert "ties" in drawn(every=True, **how)


def test_rich_draws_to_the_width_and_plain_text_has_no_frame():
    for width in (60, 100):
        text = drawn(rich=True, width=width)
        assert "\u256d" in text
        assert max(map(len, text.splitlines())) <= width
    assert "\u256d" not in drawn(rich=False)
    assert "\u256d" not in drawn()  # a stream that is no terminal


def test_nothing_scored_is_said():
    stream = io.StringIO()
    empty = {"scores": [], "differences": [], "skipped": []}
    Terminal(stream, rich=False).blocks(summary_blocks(empty))
    assert "No scores." in stream.getvalue()

"""A ``report.json`` that is damaged, given to a command: one sentence that names file and key."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ncfast.cli import main
from ncfast.reporting import read_report

SMALL = ["--quiet", "--batch-size", "8", "--block-size", "32", "--max-tokens", "1500"]
SMALL += ["--controls", "random:1,matched", "--bootstrap", "10"]
GONE = object()
# What stands where something else should, in turn: other kinds, and numbers of the wrong size.
OTHERS = ("\x1b[31m\ud800", -1, 10**400, float("inf"), float("nan"), [], [[[{}]]], {}, True)
KINDS = {"missing": (GONE,), "null": (None,), "wrong": OTHERS}


@pytest.fixture(scope="module")
def small_report(tiny_model, tiny_text, tmp_path_factory) -> dict[str, Any]:
    """Return a real report with every optional part, few of each that comes in numbers."""
    root = tmp_path_factory.mktemp("report")
    (root / "other.txt").write_text("she saw him\nhe saw her and left\n" * 9)
    (root / "lc.csv").write_text("model,cdnv,simcos_mean\na,0.1,0.2\n")
    words = ["measure", str(tiny_model("causal")), str(tiny_text), *SMALL, "--layers", "all"]
    words += ["--nc4", str(root / "other.txt"), "--reference", str(root / "lc.csv")]
    assert main([*words, "--pairs", "100", "--out", str(root / "out")]) == 0
    report = read_report(root / "out")
    for part in ("held_out", "bootstrap", "layers", "reference"):
        assert report[part], part
    return report


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Give every key path; of a list its first item stands for all, of many metrics the first."""
    if at:
        yield at
    items = list(value.items()) if isinstance(value, dict) else []
    if at and at[-1] in ("metrics", "intervals", "mean", "std", "notes") and len(at) > 2:
        items = items[:2]
    if at and str(at[-1]).startswith("ratio_to"):
        items = items[:1]
    if isinstance(value, list):
        items = list(enumerate(value[:1]))
    for key, inner in items:
        yield from _places(inner, (*at, key))


def _changed(report: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """Copy a report along one path, and change what stands at its end."""
    changed: Any = copy.copy(report)
    inner = changed
    for key in place[:-1]:
        inner[key] = copy.copy(inner[key])
        inner = inner[key]
    if value is GONE:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return changed


@pytest.fixture
def compared(tmp_path, monkeypatch, capsys):
    """Return a function that compares a damaged report and gives the one line it says, or none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NCFAST_DEBUG", raising=False)
    Path("sound").mkdir()
    Path("damaged").mkdir()

    def run(content: bytes, *options: str) -> str:
        Path("damaged/report.json").write_bytes(content)
        code = main(["compare", "sound", "damaged", "--names", "a", "b", *options])
        complaint = capsys.readouterr().err
        assert (code, complaint.count("\n")) in ((0, 0), (2, 1)), complaint
        assert "Traceback" not in complaint
        assert complaint == "" or "damaged/report.json: " in complaint
        assert complaint.replace("\n", "").isprintable()
        return complaint

    return run


def _written(report: dict[str, Any]) -> bytes:
    return json.dumps(report).encode()


@pytest.mark.parametrize(
    ("kind", "every"),
    [
        pytest.param("wrong", 4, marks=pytest.mark.quick, id="wrong, a fourth"),
        *(pytest.param(kind, 1, marks=pytest.mark.slow, id=kind) for kind in KINDS),
    ],
)
def test_no_key_of_a_report_ends_in_a_traceback(kind, every, small_report, compared):
    Path("sound/report.json").write_bytes(_written(small_report))
    places = list(_places(small_report))[::every]
    assert len(places) > 200 // every
    refused = 0
    for index, place in enumerate(places):
        value = KINDS[kind][index % len(KINDS[kind])]
        complaint = compared(_written(_changed(small_report, place, value)), "--quiet")
        refused += bool(complaint)
    assert refused > len(places) / 10

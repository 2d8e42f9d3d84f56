"""The report document: strict JSON, round trips, and files that are whole or absent."""

from __future__ import annotations

import errno
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from ncfast.reporting import document
from ncfast.reporting.document import (
    measured,
    read_report,
    strict,
    write_atomically,
    write_report,
)


def test_what_is_written_is_read_back(report, tmp_path):
    path = write_report(report, tmp_path / "new" / "folder")
    assert read_report(path) == report == read_report(path.parent)
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "report.html",
        "report.json",
        "report.md",
    ]


def test_strict_has_no_nan_and_says_where_one_was(raw_report):
    report = strict(raw_report)
    text = json.dumps(report, allow_nan=False)
    assert json.loads(text) == report == strict(report)
    gender = report["sets"]["gender"]
    assert gender["metrics"]["nc1_pinv"] is None
    assert gender["notes"]["nc1_pinv"] == "needs its own scatter"
    assert gender["per_class"][1]["cosine"] is None
    assert report["undefined"]["sets.gender.per_class[].cosine"] == 1
    assert gender["distributions"]["cosines"]["undefined"] == 1


def test_a_metric_without_a_reason_gets_a_note():
    sets = {"vocabulary": {"metrics": {"a": math.inf, "b": 1.0}, "notes": {}}}
    report = strict({"sets": sets})
    assert report["sets"]["vocabulary"]["metrics"] == {"a": None, "b": 1.0}
    assert list(report["sets"]["vocabulary"]["notes"]) == ["a"]


def test_numbers_of_any_library_become_plain():
    found = strict({"a": np.float32(0.5), "b": torch.tensor([1, 2]), "c": np.int64(3), "d": True})
    assert found == {"a": 0.5, "b": [1, 2], "c": 3, "d": True, "undefined": {}}
    with pytest.raises(TypeError, match=r"x\.y: a set"):
        strict({"x": {"y": {1, 2}}})


def test_circumstances_are_not_measured(report):
    other = {**report, "created": "later", "timing": {}, "command": None}
    assert measured(other) == measured(report)
    assert measured({**report, "tokens": {}}) != measured(report)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"schema": "ncfast-report/0"}', "null", "[" * 200_000, "9" * 5000]
)
def test_what_is_no_report_is_refused(content, tmp_path):
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(ValueError, match=r"report\.json: not a report"):
        read_report(tmp_path)


def test_a_damaged_key_is_named_with_its_file(report, tmp_path):
    del report["sets"]["vocabulary"]["metrics"]
    (tmp_path / "report.json").write_text(json.dumps(report))
    expected = r"report\.json: sets\.vocabulary\.metrics is missing; expected an object of numbers"
    with pytest.raises(ValueError, match=expected):
        read_report(tmp_path)


def test_intervals_of_nothing_are_named(report, tmp_path):
    section = report["sets"]["vocabulary"]
    report["bootstrap"], section["intervals"] = None, {next(iter(section["metrics"])): [0.1, 0.2]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    with pytest.raises(ValueError, match=r"sets\.vocabulary\.intervals is given without bootstrap"):
        read_report(tmp_path)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_loses_nothing(step, report, tmp_path, monkeypatch):
    write_report(report, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(document.os, step, full)
    with pytest.raises(OSError, match="No space left"):
        write_report({**report, "created": "later"}, tmp_path)
    monkeypatch.undo()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX resource limits")
def test_a_write_that_really_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, "old")
    # A limit on file size makes the kernel itself refuse, half-way through the write.
    code = (
        "import resource, signal, sys\n"
        "from ncfast.reporting.document import write_atomically\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "write_atomically(sys.argv[1], 'x' * 100_000)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert "OSError" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"

"""A terminal of locale C: what it cannot print is escaped, and the work is saved."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ncfast.reporting import read_report

ROOT = Path(__file__).resolve().parents[2]
MEASURE = ["--batch-size", "8", "--block-size", "32", "--max-tokens", "1500", "--all"]
MEASURE += ["--controls", "random:2,matched", "--bootstrap", "0", "--pairs", "100"]


def test_locale_c_prints_and_saves(tiny_model, tiny_text, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONUTF8": "0"}
    environment |= {"PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0"}
    measure = ["measure", str(tiny_model("causal")), str(tiny_text), *MEASURE, "--out", "caf\u00e9"]
    compare = [
        "compare",
        "caf\u00e9",
        "caf\u00e9",
        "--names",
        "caf\u00e9",
        "b",
        "--out",
        "both",
        "--all",
    ]
    for words in (measure, compare):
        done = subprocess.run(
            [sys.executable, "-m", "ncfast.cli", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
        assert done.stdout.isascii()
        assert b"caf\\" in done.stdout  # escaped
    assert read_report(tmp_path / "caf\u00e9")["sets"]["vocabulary"]["standard_errors"]
    assert (tmp_path / "both" / "compare.json").exists()

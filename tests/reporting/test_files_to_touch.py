"""A metric takes two source files and a report section one: shown in a scratch copy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import ncfast

PACKAGE = Path(ncfast.__file__).parent

ENTRY = """OF_MEANS: dict[str, Metric] = {
    "norm_max": Metric(
        "NC2", "Largest norm", "max norm", "max of |m_c|", "The longest class mean.", POSITIVE,
        asks="how long the longest class mean is", collapsed="lower",
    ),
"""
SECTION = """        *glossary_blocks(keys),
        Heading("A new section"),
        table(["word", "count"], [["she|he", "3"]]),
"""
USE = """
import json, sys, torch
import ncfast
from ncfast.catalogue import KEYS
from ncfast.integrations.metric_keys import checked_keys
from ncfast.reporting import render_markdown, render_page, render_text

assert ncfast.__file__.startswith(sys.argv[2]), ncfast.__file__
stats = ncfast.ClassStatistics(3, 2)
stats.update(torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), torch.arange(3))
found = ncfast.neural_collapse(stats, center="none")
assert found["norm_max"] == 3.0
assert "max of |m_c|" in ncfast.neural_collapse.__doc__
assert "norm_max" in checked_keys(None, False)
report = json.load(open(sys.argv[1]))
report["sets"]["vocabulary"]["metrics"]["norm_max"] = found["norm_max"]
page, markdown, text = render_page(report), render_markdown(report), render_text(report)
assert page.count("Largest norm") == 2 and "how long the longest class mean is" in page
assert "`norm_max`: The longest class mean" in markdown and "Largest norm" in text
assert "<h2>A new section</h2>" in page and "she|he" in page
assert "## A new section" in markdown and "| she\\\\|he | 3 |" in markdown
"""


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert text.count(old) == 1, path
    path.write_text(text.replace(old, new), "utf-8")


def test_a_metric_is_two_files_and_a_section_one(report, tmp_path):
    import json

    copy = tmp_path / "ncfast"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "csrc"))
    _edit(copy / "catalogue/of_means.py", "OF_MEANS: dict[str, Metric] = {\n", ENTRY)
    line = '    out.put("norm_mean", mean,'
    _edit(
        copy / "metrics/by_class.py",
        line,
        f'    out.put("norm_max", float(lengths.max()))\n{line}',
    )
    _edit(copy / "reporting/report_tree.py", "        *glossary_blocks(keys),\n", SECTION)
    (tmp_path / "report.json").write_text(json.dumps(report))
    (tmp_path / "use.py").write_text(USE)
    done = subprocess.run(
        [sys.executable, "use.py", "report.json", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]

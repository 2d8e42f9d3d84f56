"""A pytest plugin that notes which functions of the package every test runs, and how long it takes.

``pytest -p tests.mutants.recorder`` with NCFAST_RECORD=FILE writes JSON: test -> seconds, and
"file::function" -> tests. Functions that a test's own processes run are not seen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = f"{ROOT}{os.sep}ncfast{os.sep}"

# Beside the ops' own: where the numbers of Python are tested. Slow ones are left out.
RECORDED = (
    *("tests/test_geometry.py", "tests/test_metrics*.py", "tests/test_statistics.py"),
    *("tests/test_diagonal.py", "tests/test_agreement.py", "tests/test_distributed.py"),
    *("tests/losses", "tests/training/test_objective.py", "tests/training/test_loop.py"),
    *("tests/training/test_ranks.py", "ncfast/metrics", "ncfast/losses", "ncfast/statistics"),
    *("ncfast/geometry.py", "ncfast/agreement.py", "tests/ops/test_linear_cross_entropy.py"),
    *("tests/experiment/test_findings.py", "tests/experiment/test_endpoints.py"),
    "tests/fairness/recipes/test_closed_forms.py",
)

_seconds: dict[str, float] = {}
_tests: dict[str, list[str]] = defaultdict(list)


def function_of(code: CodeType) -> str:
    """Return "file::line" of a function: where it begins."""
    return f"{Path(code.co_filename).relative_to(ROOT)}::{code.co_firstlineno}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None):
    """Watch the calls of one test."""
    seen: set[CodeType] = set()

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        seen.add(frame.f_code)

    began = time.process_time()
    sys.setprofile(watch)
    try:
        return (yield)
    finally:
        sys.setprofile(None)
        _seconds[item.nodeid] = round(time.process_time() - began, 3)
        for code in seen:
            if code.co_filename.startswith(PACKAGE):
                _tests[function_of(code)].append(item.nodeid)


def pytest_sessionfinish() -> None:
    """Write what was seen."""
    if path := os.environ.get("NCFAST_RECORD"):
        text = json.dumps({"seconds": _seconds, "tests": _tests})
        Path(path).write_text(text, encoding="utf-8")


def record(path: Path) -> None:
    """Run what is recorded and is newer than the record, and note what it ran.

    Where the package is newer, that is everything. Failures are no matter here.
    """
    files = {p for pattern in RECORDED for q in ROOT.glob(pattern) for p in _tests_in(q)}
    known: dict[str, dict] = {"seconds": {}, "tests": {}}
    if path.exists():
        noted = path.stat().st_mtime
        if all(p.stat().st_mtime < noted for p in ROOT.glob("ncfast/**/*.py")):
            known = json.loads(path.read_text(encoding="utf-8"))
            files = {p for p in files if p.stat().st_mtime >= noted}
    chosen = sorted(str(p.relative_to(ROOT)) for p in files)
    if not chosen:
        return
    print(f"recording what {len(chosen)} files of tests run", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    plugin = ("-p", "tests.mutants.recorder", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", *plugin, "-m", "not slow", *chosen]
    environment = {**os.environ, "NCFAST_RECORD": str(new), "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    found = json.loads(new.read_text(encoding="utf-8"))
    for function, tests in known["tests"].items():
        kept = [test for test in tests if test.partition("::")[0] not in chosen]
        found["tests"].setdefault(function, []).extend(kept)
    found["seconds"] = known["seconds"] | found["seconds"]
    path.write_text(json.dumps(found), encoding="utf-8")
    new.unlink()


def _tests_in(path: Path) -> list[Path]:
    """Return a file, or the files of a folder, that hold tests or examples."""
    return [path] if path.is_file() else [p for p in path.glob("*.py") if p.name != "conftest.py"]

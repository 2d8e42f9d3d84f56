"""A pytest plugin that notes which functions of the package every test runs, and how long it takes.

``pytest -p tests.mutants.recorder`` with NCFAST_RECORD=FILE writes JSON: test -> seconds, and
"file::function" -> tests. Functions that a test's own processes run are not seen.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import defaultdict
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = f"{ROOT}{os.sep}ncfast{os.sep}"

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

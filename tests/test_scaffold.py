"""What has to be touched to add something: shown in a copy, held to CONTRIBUTING.md."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools import new_op

ROOT = Path(__file__).parents[1]
COPIED = ("ncfast", "csrc", "tests", "benchmarks", "tools", "pyproject.toml", "conftest.py")
DEFINITION = re.compile(r"    raise NotImplementedError\(.*?\n    \)\n", re.DOTALL)


def contents(root: Path) -> dict[str, str]:
    """Return a hash of every file."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and not {"__pycache__", ".ruff_cache"} & {*path.parts}
    }


def run(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a Python module in the copy."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "NCFAST_STRICT": "0"},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def copy(tmp_path) -> Path:
    """Copy the tree's sources."""
    ignored = shutil.ignore_patterns("__pycache__", "_native", "results", "mutants")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.slow
def test_an_op_is_written_into_every_layer(copy):
    before = contents(copy)
    assert run(copy, "tools.new_op", "row_sums").returncode == 0
    after = contents(copy)
    touched = sorted(name for name in after if after[name] != before.get(name))
    assert len(touched) == files_of("an op") <= 15
    folders = ("functional", "ops", "reference", "kernels")
    assert {f"ncfast/{folder}/row_sums.py" for folder in folders} <= set(touched)
    assert {"csrc/cpu/row_sums.cpp", "csrc/cuda/row_sums.cu"} <= set(touched)
    assert {"tests/ops/test_row_sums.py", "benchmarks/gpu/work.py"} <= set(touched)
    python = [name for name in touched if name.endswith(".py")]
    for command in (("check",), ("format", "--check")):
        found = run(copy, "ruff", *command, *python)
        assert found.returncode == 0, found.stdout

    files = ("tests/test_style.py", "tests/test_readable.py")
    style = "arrows or one_name or no_op_imports or docstrings or autograd or expected"
    found = run(copy, "pytest", "-q", "-n0", *files, "-k", style)
    assert found.returncode == 0, found.stdout[-3000:]
    own = ("pytest", "-q", "-n0", "tests/ops/test_row_sums.py", "-k", "reference or rejects")
    found = run(copy, *own)
    assert found.returncode == 1
    assert "row_sums: write the definition in ncfast/reference/row_sums.py" in found.stdout
    assert "test_rejects_shapes_and_dtypes" not in found.stdout.rpartition("summary info")[2]

    path = copy / "ncfast/reference/row_sums.py"
    text = path.read_text("utf-8")
    assert len(DEFINITION.findall(text)) == 1
    body = "    wide = x.double() if x.dtype.itemsize == 8 else x.float()\n    return wide.sum(1)\n"
    path.write_text(DEFINITION.sub(body, text), "utf-8")
    found = run(copy, *own)
    assert found.returncode == 0, found.stdout[-3000:]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Rows", "NAME is 'Rows'; expected small letters"),
        ("class", "NAME is 'class'; expected small letters"),
        ("alignment", "NAME is 'alignment', which has alignment.py; expected a new name"),
    ],
)
def test_names_that_are_none_write_nothing(name, message):
    before = {path: (ROOT / path).read_bytes() for path in new_op.EDITED}
    with pytest.raises(ValueError, match=re.escape(f"new_op: {message}")):
        new_op.add_op(name, ROOT)
    assert {path: (ROOT / path).read_bytes() for path in new_op.EDITED} == before


def files_of(what: str) -> int:
    """Return how many source files CONTRIBUTING.md says something takes."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    found = re.findall(rf"^\| {what} \| (\d+) \|", text, re.MULTILINE)
    assert len(found) == 1, what
    return int(found[0])


def test_the_table_says_what_is_shown():
    assert files_of("an op") == len(new_op.WRITTEN) + len(new_op.EDITED)
    assert files_of("a metric") == 2
    assert files_of("a section of a report") == 1
    assert files_of("a family of models") == 0
    # Each of these is named in no source file but those that adding it takes.
    for what, names, folder in (
        ("a regulariser", r"UniformityRegularizer\b|[\"'-]uniformity\b", "ncfast"),
        ("a debiasing recipe", r"\bDropout\b", "ncfast/fairness"),
        (
            "a fairness benchmark",
            r"^(class|from .winogender import) Winogender\b",
            "ncfast/fairness",
        ),
        ("a command", r"``ncfast plan``:|^    \"plan\":", "ncfast/cli"),
        ("a timed case of an op", r"\bCase\(\"class_moments\"", "benchmarks"),
    ):
        naming = {
            str(path.relative_to(ROOT))
            for path in (ROOT / folder).rglob("*.py")
            if re.search(names, path.read_text("utf-8"), re.MULTILINE)
        }
        assert len(naming) == files_of(what) <= 4, naming

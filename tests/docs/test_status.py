"""The status page: every command that shows a promise is one that there is."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from ncfast.cli import COMMANDS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/pages/status.md").read_text(encoding="utf-8")
ROWS = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")][1:]


def names_in(path: Path) -> set[str]:
    """Return the names of the tests below a path, with their files' and parameters' texts."""
    files = [path] if path.is_file() else path.rglob("*.py")
    found = set()
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        defined = (n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef)))
        found |= {name for name in defined if name.lower().startswith("test")} | {file.stem}
    return found


def missing(command: str) -> list[str]:
    """Return what a command names that is not there."""
    words = shlex.split(command)
    if words[0] == "ncfast":
        files = [w for w in words[2:] if w.endswith(".toml") and not (ROOT / w).exists()]
        return files + [words[1]] * (words[1] not in COMMANDS)
    if words[:2] == ["python", "-m"]:
        return [] if importlib.util.find_spec(words[2]) else [words[2]]
    if words[0] == "python":
        return [w for w in words[1:] if ".py" in w and not (ROOT / w).exists()]
    if words[0] != "pytest":
        return [] if (ROOT / words[0]).exists() else words[:1]
    paths = [word for word in words[1:] if word.startswith("tests")]
    absent = [path for path in paths if not (ROOT / path.partition("::")[0]).exists()]
    if "-k" in words and not absent:
        held = " ".join(name for path in paths for name in names_in(ROOT / path)).lower()
        chosen = re.split(r" or | and | not ", words[words.index("-k") + 1])
        absent += [f"-k {word}" for word in chosen if word.strip().lower() not in held]
    return absent


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:60])
def test_every_command_is_one_that_there_is(row):
    assert len(row) == 3, row
    commands = re.findall(r"`([^`]+)`", row[1] + row[2])
    assert commands, f"{row[0]}: names no command"
    for command in commands:
        assert missing(command) == [], command
    assert re.match(r"yes|\*\*no|see|`|\[not shown", row[2]), f"{row[0]}: says not whether it holds"


@pytest.mark.parametrize("page", ["README.md", "SECURITY.md", "CONTRIBUTING.md"])
def test_every_test_that_a_page_names_is_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"\btests/[\w/-]+\.(?:py|toml|txt|cu)\b", text)) - {
        "tests/ops/test_OP.py"
    }
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_what_is_not_there_is_found():
    assert missing("pytest tests/nowhere.py") == ["tests/nowhere.py"]
    assert missing("pytest tests/docs -k no_such_thing") == ["-k no_such_thing"]
    assert missing("python -m tests.nowhere") == ["tests.nowhere"]
    assert missing("ncfast fly") == ["fly"]
    assert missing("benchmarks/results/none.md") == ["benchmarks/results/none.md"]

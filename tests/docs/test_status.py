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
HELD, OPEN = PAGE.split("\n## Not promised, or not known yet\n")


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


def rows(text: str) -> list[list[str]]:
    """Return the cells of a table's rows, without those of its head."""
    lines = [line for line in text.splitlines() if line.startswith("| ")][1:]
    return [line.strip("| ").split(" | ") for line in lines]


def says_what_its_table_does(row: list[str], holds: bool) -> bool:
    """Tell whether a promise's last cell says yes, and that of what is none what was not shown."""
    open_still = re.search(r"\bnot (shown|run|known|promised)\b|\*\*no", row[2])
    if holds:
        return bool(re.match(r"yes\b", row[2])) and not open_still
    return bool(re.match(r"\*\*(no\b|not (shown|known yet|promised)\b)", row[2]))


@pytest.mark.parametrize(
    ("row", "holds"),
    [(row, True) for row in rows(HELD)] + [(row, False) for row in rows(OPEN)],
    ids=lambda value: value[0][:60] if isinstance(value, list) else "",
)
def test_every_command_is_one_that_there_is(row, holds):
    assert len(row) == 3, row
    commands = re.findall(r"`([^`]+)`", row[1] + row[2])
    assert commands, f"{row[0]}: names no command"
    for command in commands:
        assert missing(command) == [], command
    assert says_what_its_table_does(row, holds), f"{row[0]}: in the wrong table"


@pytest.mark.parametrize("page", ["README.md", "SECURITY.md", "CONTRIBUTING.md"])
def test_every_test_that_a_page_names_is_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"\btests/[\w/-]+\.(?:py|toml|txt|cu)\b", text)) - {
        "tests/ops/test_OP.py"
    }
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_a_row_in_the_wrong_table_is_found():
    for last in ("**no**: 9 minutes", "see `FILE`", "yes for some; the others **not run** long"):
        assert not says_what_its_table_does(["", "", last], holds=True)
    for last in ("yes", "being run", "as far as it goes"):
        assert not says_what_its_table_does(["", "", last], holds=False)


def test_what_is_not_there_is_found():
    assert missing("pytest tests/nowhere.py") == ["tests/nowhere.py"]
    assert missing("pytest tests/docs -k no_such_thing") == ["-k no_such_thing"]
    assert missing("python -m tests.nowhere") == ["tests.nowhere"]
    assert missing("ncfast fly") == ["fly"]
    assert missing("benchmarks/results/none.md") == ["benchmarks/results/none.md"]

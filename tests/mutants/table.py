"""The table of faults, as ``table.toml`` lists them."""

from __future__ import annotations

import ast
import hashlib
import importlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("table.toml")
KINDS = {
    *("barrier", "wait", "bounds", "index width", "dropped product", "operand swap"),
    *("reduction order", "tie", "flag", "empty class", "ignored label", "shard start"),
    *("last tile", "centring", "sign", "Bessel", "weights", "eps", "schedule", "momentum"),
    *("rank scaling", "resume state", "atomics", "loop", "accumulator", "launch"),
}

# What no test noticed when 36 faults were planted for the first time, before there was a table.
FIRST_SURVIVORS = (
    *("products-copies", "gram-chunks", "gram-next-rows", "argmax-tie", "argmax-nan"),
    *("rows-int32", "accumulate-bad-data", "histogram-atomics", "double-index"),
    *("negative-variance", "triton-gram-chunks", "triton-gram-barrier", "triton-argmax-int32"),
    *("triton-histogram-atomics", "triton-near", "cpu-argmax-tied-tile"),
)


@dataclass(frozen=True)
class Fault:
    """Hold one fault: in a file, a text that occurs once, and what takes its place."""

    name: str
    file: str
    kind: str
    old: str
    new: str
    reason: str = ""  # why only a GPU can show it
    gpu_test: str = ""  # the test that does
    needs: str = ""  # what /proc/cpuinfo names where the code runs; elsewhere it is not planted

    def runs_here(self) -> bool:
        """Return whether this machine runs the code, so that a test could notice."""
        return not self.needs or self.needs in Path("/proc/cpuinfo").read_text(encoding="utf-8")

    def planted(self, text: str) -> str:
        """Return a file's text with the fault in it.

        Raises:
            ValueError: The text to replace does not occur exactly once.
        """
        found = text.count(self.old)
        if found != 1:
            raise ValueError(
                f"{self.name}: the text to replace occurs {found} times in {self.file}; "
                "expected once: correct tests/mutants/table.toml"
            )
        return text.replace(self.old, self.new)

    def key(self, root: Path) -> str:
        """Return a hash of the fault and of the code around it: other edits age no result."""
        return self.key_in((root / self.file).read_text(encoding="utf-8"))

    def key_in(self, text: str) -> str:
        """Return the key where the file has this text."""
        parts = (self.name, self.file, self.old, self.new, self.around(text))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def around(self, text: str) -> str:
        """Return the function that the fault is in, without comments, where the file has this text.

        Raises:
            ValueError: The text to replace does not occur exactly once.
        """
        self.planted(text)
        begin = text.index(self.old) + len(self.old) - len(self.old.lstrip())
        end = text.index(self.old) + len(self.old.rstrip())
        return (python_around if self.file.endswith(".py") else native_around)(text, begin, end)


def python_around(text: str, begin: int, end: int) -> str:
    """Return the functions around a part of a Python file, without comments and docstrings.

    A method is one too. Outside of functions it is the statement of the module or class.

    >>> text = "A = 1\\n@f\\ndef g():\\n    'Say.'\\n    return 2  # two\\n"
    >>> python_around(text, text.index("2"), text.index("2") + 1)
    '@f\\ndef g():\\n    return 2'
    """
    first, last = (text[:place].count("\n") + 1 for place in (begin, end))
    found: list[ast.stmt] = []

    def search(body: list[ast.stmt]) -> None:
        for node in body:
            begins = min(n.lineno for n in (node, *getattr(node, "decorator_list", [])))
            if begins <= last and (node.end_lineno or begins) >= first:
                if isinstance(node, ast.ClassDef) and first > node.lineno:
                    search(node.body)
                else:
                    found.append(node)

    search(ast.parse(text).body)
    for node in (n for statement in found for n in ast.walk(statement)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            node.body = node.body[ast.get_docstring(node) is not None :] or [ast.Pass()]
    return "\n".join(ast.unparse(node) for node in found)


def native_around(text: str, begin: int, end: int) -> str:
    """Return the functions around a part of a C++ or CUDA file, without comments.

    One ends at a brace in the first column, and the next begins there.

    >>> text = "int f() {\\n  return 1;\\n}\\n\\nint g() {\\n  return 2;  // two\\n}\\n"
    >>> native_around(text, text.index("2"), text.index("2") + 1)
    'int g() { return 2; }'
    """
    blocks = [""]
    for line in text.splitlines(keepends=True):
        blocks[-1] += line
        if line.startswith("}"):
            blocks.append("")
    place, found = 0, ""
    for block in blocks:
        if place < end and place + len(block) > begin:
            found += block
        place += len(block)
    return " ".join(re.sub(r"//.*", "", found).split())


def faults() -> list[Fault]:
    """Return every fault of the table."""
    tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    return [Fault(**row) for row in tomllib.loads(TABLE.read_text(encoding="utf-8"))["fault"]]

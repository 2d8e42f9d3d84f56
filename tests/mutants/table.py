"""The table of faults, as ``table.toml`` lists them."""

from __future__ import annotations

import hashlib
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("table.toml")
KINDS = {
    *("barrier", "wait", "bounds", "index width", "dropped product", "operand swap"),
    *("reduction order", "tie", "flag", "empty class", "ignored label", "shard start"),
    *("last tile", "centring", "sign", "Bessel", "weights", "eps", "schedule", "momentum"),
    *("rank scaling", "resume state", "atomics"),
}


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
        """Return a hash of the fault and of the file it is planted in."""
        text = (root / self.file).read_text(encoding="utf-8")
        return hashlib.sha256(f"{self}\n{text}".encode()).hexdigest()[:16]


def faults() -> list[Fault]:
    """Return every fault of the table."""
    tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    return [Fault(**row) for row in tomllib.loads(TABLE.read_text(encoding="utf-8"))["fault"]]

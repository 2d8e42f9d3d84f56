"""Writes the files of a new op in every layer: ``python -m tools.new_op NAME``.

What it writes is registered, documented and tested, and computes nothing: every part raises an
error that names the file to write, and the op's tests fail with it until that is done.
"""

from __future__ import annotations

import argparse
import keyword
import re
import subprocess
import sys
from pathlib import Path

__all__ = ["EDITED", "WRITTEN", "add_op", "main"]

TEMPLATES = Path(__file__).parent / "op"
# Template: the file it becomes.
WRITTEN = {
    "reference.txt": "ncfast/reference/{op}.py",
    "functional.txt": "ncfast/functional/{op}.py",
    "ops.txt": "ncfast/ops/{op}.py",
    "kernels.txt": "ncfast/kernels/{op}.py",
    "cpu.txt": "csrc/cpu/{op}.cpp",
    "cuda.txt": "csrc/cuda/{op}.cu",
    "samples.txt": "ncfast/testing/samples/{op}.py",
    "test.txt": "tests/ops/test_{op}.py",
}
# File: the text that ends what is added to, and what is put before it.
EDITED: dict[str, list[tuple[str, str]]] = {
    "ncfast/ops/__init__.py": [
        (")\n\n__all__", "    {op},\n"),
        ("]\n", '    "{op}",\n'),
    ],
    "ncfast/functional/__init__.py": [
        ("\n__all__", "from .{op} import {op}\n"),
        ("]\n\n\ndef ", '    "{op}",\n'),
    ],
    "ncfast/testing/samples/__init__.py": [
        ("from .tensors import", "from . import {op} as {op}_samples\n"),
        ("}}\n\n\ndef ", '    "{op}": {op}_samples.{op},\n'),
    ],
    "csrc/common/kernels.def": [("", '\nKERNEL({op}, "Tensor x, Tensor(a!) sums")\n')],
    "benchmarks/gpu/work.py": [
        (
            "WORK: dict",
            "def _{op}(h: Head, e: int) -> Work:\n"
            '    raise NotImplementedError("{op}: say its least bytes and products here")\n\n\n',
        ),
        ("}}\n", '    "{op}": _{op},\n'),
    ],
    "tests/aot/launches.py": [
        (
            "# Of several launches of a kernel the first counts",
            "def _{op}(dtype: torch.dtype) -> None:\n    {op}.{op}(_tokens(dtype)[0])\n\n\n",
        ),
        (")\n", "    _{op},\n"),
        (
            "\nN, D, V = ",
            "from ncfast.kernels import {op}\n",
        ),
    ],
    "tests/kernels/interpreted.py": [
        (
            "",
            '\n\nclass Test{camel}(Interpreted, test_{op}.Test{camel}):\n    """{op}."""\n',
        ),
        ("\n\nclass TestClassMoments(", "from tests.ops import test_{op}\n"),
    ],
}


def add_op(op: str, root: Path) -> list[Path]:
    """Write an op's files under a source tree, and return them.

    Args:
        op: its name, a noun phrase of small letters and underscores.
        root: the folder that holds ``ncfast`` and ``csrc``.

    Raises:
        ValueError: The name is no such name, or is taken; nothing is written then.

    >>> add_op("Rows", Path())
    Traceback (most recent call last):
    ValueError: new_op: NAME is 'Rows'; expected small letters, digits and underscores
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", op) or keyword.iskeyword(op):
        raise ValueError(f"new_op: NAME is {op!r}; expected small letters, digits and underscores")
    words = {"op": op, "camel": "".join(part.title() for part in op.split("_"))}
    written = {root / to.format(op=op): TEMPLATES / name for name, to in WRITTEN.items()}
    for path in written:
        if path.exists():
            raise ValueError(f"new_op: NAME is {op!r}, which has {path.name}; expected a new name")
    texts = {path: source.read_text("utf-8").format(**words) for path, source in written.items()}
    for name, additions in EDITED.items():
        texts[root / name] = _added(root / name, additions, words)
    for path, text in texts.items():
        path.write_text(text, "utf-8")
    _sort_imports([path for path in texts if path.suffix == ".py"])
    return list(texts)


def _sort_imports(paths: list[Path]) -> None:
    """Put every import where the style wants it."""
    for command in (("check", "--select", "I,RUF022", "--fix"), ("format",)):
        subprocess.run([sys.executable, "-m", "ruff", *command, "-q", *paths], check=True)


def _added(path: Path, additions: list[tuple[str, str]], words: dict[str, str]) -> str:
    """Return a file's text with every addition before the last occurrence of its mark."""
    text = path.read_text("utf-8")
    for mark, addition in additions:
        mark = mark.format(**words)
        at = text.rfind(mark) if mark else len(text)
        if at < 0:
            raise ValueError(f"new_op: {path} has no {mark!r}; expected one: mend tools/new_op.py")
        text = text[:at] + addition.format(**words) + text[at:]
    return text


def main(arguments: list[str] | None = None) -> int:
    """Write the files and say what to do next."""
    parser = argparse.ArgumentParser(prog="python -m tools.new_op", description=__doc__)
    parser.add_argument("name", metavar="NAME", help="of the op, as class_moments")
    given = parser.parse_args(arguments)
    root = Path(__file__).parents[1]
    try:
        paths = add_op(given.name, root)
    except ValueError as error:
        sys.exit(str(error))
    for path in paths:
        print(path.relative_to(root))
    print(
        f"\nWrite them, the definition first: pytest tests/ops/test_{given.name}.py fails until "
        "then, and says where. CONTRIBUTING.md goes through the layers."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

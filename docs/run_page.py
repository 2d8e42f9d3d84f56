"""Run the code blocks of pages, in their order: ``python docs/run_page.py [--jobs N] PAGE...``.

Blocks of ``python`` share one namespace, blocks of ``sh`` run under ``bash -euo pipefail``, all in
one new folder, with the address of this repository in ``REPOSITORY``. A block with a title is
written to a file of that name instead. A block of ``text`` is what the block before it prints, and
is held to it: ``...`` is anything, and a number with a fraction may differ by a hundredth of it.
Other languages are not ours to run. The first block that fails ends the run with page, line and
reason.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import io
import math
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

# Tutorials that notebooks.py runs too, as cells, holding them to what they show.
NOTEBOOKS = ("measure", "own_features", "fairness")
_FENCE = re.compile(
    r'^```(?P<language>\w+)(?:[ ]+title="(?P<title>[^"]+)")?[ ]*\n(?P<code>.*?)^```[ ]*$',
    re.MULTILINE | re.DOTALL,
)
_FRACTION = re.compile(r"\d+\.\d+(?:e[+-]?\d+)?")
_TOKEN = re.compile(rf"\.\.\.|\s+|{_FRACTION.pattern}|[^\s.\d]+|.")


@dataclass(frozen=True)
class Block:
    """Hold one block: its language, its title ("" for none), its code, the line it starts on."""

    language: str
    title: str
    code: str
    line: int


def fits(shown: str, printed: str) -> bool:
    """Tell whether a page shows what was printed.

    >>> fits("a 1.00 ... 7", "a  1.001\\n12 7"), fits("a 1.00", "a 1.02"), fits("7", "8")
    (True, False, False)
    """
    parts, numbers = [], []
    for token in _TOKEN.findall(shown.strip()):
        if token == "...":
            parts.append(".*?")
        elif token.isspace():
            parts.append(r"\s+")
        elif _FRACTION.fullmatch(token):
            parts.append(f"({_FRACTION.pattern})")
            numbers.append(float(token))
        else:
            parts.append(re.escape(token))
    match = re.fullmatch("".join(parts), printed.strip(), re.DOTALL)
    return match is not None and all(
        math.isclose(number, float(other), rel_tol=0.01)
        for number, other in zip(numbers, match.groups(), strict=True)
    )


def blocks_of(text: str) -> list[Block]:
    """Return the blocks that run, are written or show what was printed, in their order.

    >>> [(block.language, block.line) for block in blocks_of("a\\n```sh\\nls\\n```\\n")]
    [('sh', 3)]
    """
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        block = Block(match["language"], match["title"] or "", match["code"], line)
        if block.title or block.language in ("python", "sh", "text"):
            found.append(block)
    return found


def put_scripts_first() -> None:
    """Let ``ncfast`` and ``torchrun`` be those beside this Python, activated or not."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def run_page(page: Path, folder: Path) -> int:
    """Run the blocks of a page in a folder; return how many there were."""
    found = blocks_of(page.read_text(encoding="utf-8"))
    names: dict[str, object] = {"__name__": "__main__"}
    os.chdir(folder)
    put_scripts_first()
    printed = ""
    for block in found:
        place = f"{page.name}:{block.line}"
        if block.title:
            (folder / block.title).write_text(block.code, encoding="utf-8")
        elif block.language == "text":
            if not fits(block.code, printed):
                raise SystemExit(f"{place}: the block before it prints something else:\n{printed}")
        elif block.language == "sh":
            command = ["bash", "-euo", "pipefail", "-c", block.code]
            root = Path(__file__).resolve().parents[1]
            known = {"NCFAST_OBJECT_CACHE": str(root / "build/objects")}  # compiled for it already
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
                env=known | os.environ | {"REPOSITORY": str(root)},
                check=False,
            )
            printed = done.stdout
            print(printed, end="")
            if done.returncode:
                raise SystemExit(f"{place}: the commands end with exit code {done.returncode}")
        else:
            # Blank lines in front, so that a traceback has the page's own line numbers.
            code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
            try:
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    exec(code, names)
            finally:
                printed = out.getvalue()
                print(printed, end="")
    return len(found)


def run_apart(page: Path) -> tuple[str, bool]:
    """Run a page in a process and a folder of its own; return what to say, and if all went well."""
    count, start = len(blocks_of(page.read_text(encoding="utf-8"))), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--here", str(page.resolve())]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start
    said = f"{page.name}: {count} blocks, {seconds:.0f} s"
    if done.returncode == 0:
        return said, True
    return "\n".join([f"{said}, FAILED", done.stdout[-2000:], done.stderr[-4000:]]), False


def main() -> None:
    """Run each page in a process and a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--here", action="store_true", help="one page, in this process and folder")
    parser.add_argument("--jobs", type=int, default=1, help="pages at a time (default: 1)")
    parser.add_argument(
        "--but-notebooks", action="store_true", help=f"leave out {', '.join(NOTEBOOKS)}"
    )
    arguments = parser.parse_args()
    if arguments.here:
        run_page(arguments.pages[0].resolve(), Path.cwd())
        return
    pages = [p for p in arguments.pages if not (arguments.but_notebooks and is_notebook(p))]
    if arguments.jobs > 1:  # a process each; threads of all of them would wait for each other
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    failed = []
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for page, (said, well) in zip(pages, pool.map(run_apart, pages), strict=True):
            print(said, flush=True)
            failed += [] if well else [page.name]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{len(pages)} pages, {used.ru_utime + used.ru_stime:.0f} s of a CPU")
    if failed:
        raise SystemExit(f"{len(failed)} of {len(pages)} pages failed: {failed}")


def is_notebook(page: Path) -> bool:
    """Tell whether a page is a notebook too."""
    return page.parent.name == "tutorials" and page.stem in NOTEBOOKS


if __name__ == "__main__":
    main()

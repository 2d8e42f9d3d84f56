"""Run the code blocks of a page, in their order: ``python docs/run_page.py PAGE...``.

Blocks of ``python`` share one namespace, blocks of ``sh`` run under ``bash -euo pipefail``, all in
one new folder, with the address of this repository in ``REPOSITORY``. A block with a title is
written to a file of that name instead. Other languages are output, or not ours to run. The first
block that fails ends the run with page, line and reason.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(
    r'^```(?P<language>\w+)(?:[ ]+title="(?P<title>[^"]+)")?[ ]*\n(?P<code>.*?)^```[ ]*$',
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """Hold one block: its language, its title ("" for none), its code and the line it starts on."""

    language: str
    title: str
    code: str
    line: int


def blocks_of(text: str) -> list[Block]:
    """Return the blocks that run or are written, in their order.

    >>> [(block.language, block.line) for block in blocks_of("a\\n```sh\\nls\\n```\\n")]
    [('sh', 3)]
    """
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        block = Block(match["language"], match["title"] or "", match["code"], line)
        if block.title or block.language in ("python", "sh"):
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
    for block in found:
        place = f"{page.name}:{block.line}"
        if block.title:
            (folder / block.title).write_text(block.code, encoding="utf-8")
        elif block.language == "sh":
            command = ["bash", "-euo", "pipefail", "-c", block.code]
            root = Path(__file__).resolve().parents[1]
            known = {"NCFAST_OBJECT_CACHE": str(root / "build/objects")}  # compiled for it already
            environment = known | os.environ | {"REPOSITORY": str(root)}
            done = subprocess.run(command, stdin=subprocess.DEVNULL, env=environment, check=False)
            if done.returncode:
                raise SystemExit(f"{place}: the commands end with exit code {done.returncode}")
        else:
            # Blank lines in front, so that a traceback has the page's own line numbers.
            exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), names)
    return len(found)


def main() -> None:
    """Run each page in a process and a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--here", action="store_true", help="one page, in this process and folder")
    arguments = parser.parse_args()
    if arguments.here:
        run_page(arguments.pages[0].resolve(), Path.cwd())
        return
    failed = []
    for page in arguments.pages:
        count, start = len(blocks_of(page.read_text(encoding="utf-8"))), time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--here", str(page.resolve())]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - start
        print(f"{page.name}: {count} blocks, {seconds:.0f} s{', FAILED' * bool(done.returncode)}")
        if done.returncode:
            failed.append(page.name)
            print(done.stdout[-2000:], done.stderr[-4000:], sep="\n")
    if failed:
        raise SystemExit(f"{len(failed)} of {len(arguments.pages)} pages failed: {failed}")


if __name__ == "__main__":
    main()

"""Tutorials as notebooks: ``python docs/notebooks.py OUT [--execute]``.

A notebook is made from its page: text becomes Markdown cells, ``python`` a code cell, ``sh`` a cell
of ``%%bash``, a block with a title ``%%writefile``. So nothing is written twice, and the site's
build puts them beside its pages (``hooks.py``). ``--execute`` runs each in a new folder, keeps its
output and holds it to what the page shows; the first cell that fails ends with its error.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbformat import NotebookNode, v4

sys.path.insert(0, str(Path(__file__).parent))
from run_page import _FENCE, NOTEBOOKS, blocks_of, fits, put_scripts_first

__all__ = ["NOTEBOOKS", "main", "notebook_of"]

PAGES = Path(__file__).parent / "pages/tutorials"
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:)[^)]+\)")  # to other pages, which are elsewhere
SHELL = {"sh": "%%bash\nset -euo pipefail\n"}


def notebook_of(text: str) -> NotebookNode:
    """Return the notebook of a page.

    >>> made = notebook_of("# A\\n\\nSee [b](b.md).\\n\\n```sh\\nls\\n```\\n")
    >>> [(cell.cell_type, cell.source) for cell in made.cells]
    [('markdown', '# A\\n\\nSee b.'), ('code', '%%bash\\nset -euo pipefail\\nls')]
    """
    cells, place = [], 0
    for match in _FENCE.finditer(text):
        code = match["code"].rstrip()
        if match["title"]:
            made = v4.new_code_cell(f"%%writefile {match['title']}\n{code}")
        elif match["language"] in ("python", "sh"):
            made = v4.new_code_cell(SHELL.get(match["language"], "") + code)
        else:
            continue  # output: stays in the text
        cells += [*_text(text[place : match.start()]), made]
        place = match.end()
    cells += _text(text[place:])
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # the same in every build
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def _text(text: str) -> list[NotebookNode]:
    text = LINK.sub(r"\1", text).strip()
    return [v4.new_markdown_cell(text)] if text else []


def execute(notebook: NotebookNode) -> None:
    """Run every cell in a folder of its own, with this interpreter's packages."""
    from nbclient import NotebookClient

    put_scripts_first()  # for %%bash
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()


def hold_to(text: str, notebook: NotebookNode) -> None:
    """Compare what the cells printed with the blocks of ``text`` on their page.

    >>> page = "```sh\\nls\\n```\\n\\n```text\\na\\n```\\n"
    >>> made = notebook_of(page)
    >>> made.cells[0].outputs = [v4.new_output("stream", name="stdout", text="b")]
    >>> hold_to(page, made)
    Traceback (most recent call last):
    SystemExit: line 6: the cell before it prints something else:
    b
    """
    cells, printed = iter([cell for cell in notebook.cells if cell.cell_type == "code"]), ""
    for block in blocks_of(text):
        if block.title or block.language != "text":
            outputs = next(cells).outputs
            printed = "".join(o.text for o in outputs if o.get("name") == "stdout")
        elif not fits(block.code, printed):
            raise SystemExit(
                f"line {block.line}: the cell before it prints something else:\n{printed}"
            )


def main() -> None:
    """Write the notebooks, run if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--execute", action="store_true", help="run every cell, keep its output")
    parser.add_argument("--only", choices=NOTEBOOKS, nargs="+", default=list(NOTEBOOKS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        start = time.monotonic()
        text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
        notebook = notebook_of(text)
        if options.execute:
            execute(notebook)
            hold_to(text, notebook)
        nbformat.validate(notebook)
        nbformat.write(notebook, options.out / f"{name}.ipynb")
        print(f"{name}.ipynb: {len(notebook.cells)} cells, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()

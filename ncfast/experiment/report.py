"""The files of a report: page, Markdown, pictures, and the numbers of every cell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..reporting import strict, write_atomically
from ..reporting.html import render_html
from ..reporting.markdown import blocks_to_markdown
from ..sealed_file import dump_json, read_json
from .findings import find
from .grid import Results, first_run
from .pictures import alone, paired_dots, word_places
from .protocol import Protocol
from .tree import report_tree

__all__ = ["read_cells", "write_report"]

CELLS = "ncfast-experiment-cells/1"


def write_report(protocol: Protocol, results: Results, folder: Path) -> dict[str, Path]:
    """Write the report of the cells done so far, and return its files by name.

    ``report.html``, ``report.md``, ``findings.json``, ``cells.json`` and a picture for each primary
    endpoint: nothing in them depends on when, where or in how many pieces the grid was run.
    """
    found = find(protocol, results, first_run(protocol, folder))
    if unfit := getattr(results, "unfit", {}):  # a dict of cells says nothing of others
        found["unfit"] = unfit
    blocks = report_tree(protocol, found)
    texts = {
        "report.html": render_html(protocol.title, blocks),
        "report.md": blocks_to_markdown(blocks, protocol.title),
        "findings.json": json.dumps(strict(found), indent=1, ensure_ascii=False) + "\n",
        "cells.json": dump_json(strict(_cells(protocol, results)), indent=1) + "\n",
    }
    for model in found["models"]:
        for endpoint in (e for e in protocol.endpoints if e.primary):
            if drawing := paired_dots(model, endpoint.name):
                texts[f"{model['name']}-{endpoint.name}.svg"] = alone(drawing)
        if drawing := word_places(model):
            texts[f"{model['name']}-words.svg"] = alone(drawing)
    for name, text in texts.items():
        write_atomically(folder / name, text)
    return {name: folder / name for name in texts}


def _cells(protocol: Protocol, results: Results) -> dict[str, Any]:
    """Return what a stranger compares a cell with: values, without resamples."""
    return {
        "schema": CELLS,
        "protocol": protocol.digest,
        "cells": {
            name: {
                "weights": cell["weights"],
                "endpoints": {
                    key: {"value": entry["value"]} for key, entry in cell["endpoints"].items()
                },
                "nc": cell["nc"],
                **({"made": cell["made"]} if "made" in cell else {}),
            }
            for name, cell in results.items()
        },
    }


def read_cells(path: Path) -> dict[str, Any]:
    """Read weights' digest, endpoints and metrics of each cell, by name, of a ``cells.json``.

    ``path`` is the file, or the folder of its report.
    """
    path = path / "cells.json" if path.is_dir() else path
    cells: dict[str, Any] = read_json(path, CELLS)["cells"]
    return cells

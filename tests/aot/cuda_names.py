"""The budgets of CUDA kernels, and the names they go by there."""

from __future__ import annotations

import functools
import importlib
import re
import subprocess
import sys
from pathlib import Path

BUDGETS = Path(__file__).with_name("budgets_cuda.toml")


@functools.cache
def budgets() -> dict:
    """Return the table of budgets."""
    tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    return tomllib.loads(BUDGETS.read_text(encoding="utf-8"))


def readable(symbols: list[str]) -> dict[str, str]:
    """Return ``kernel<arguments>`` for mangled names, without namespaces and parameters."""
    names = subprocess.run(
        ["c++filt"], input="\n".join(symbols), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    short = {}
    for symbol, name in zip(symbols, names, strict=True):
        name = re.sub(r"\(anonymous namespace\)::|ncfast::cuda::|^void |\((?:int|bool)\)", "", name)
        depth, end = 0, len(name)
        for i, character in enumerate(name):
            depth += (character == "<") - (character == ">")
            if character == "(" and depth == 0:
                end = i
                break
        short[symbol] = name[:end]
    return short

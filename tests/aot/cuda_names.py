"""The budgets of CUDA kernels, and the names they go by there."""

from __future__ import annotations

import functools
import importlib
import re
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "csrc/cuda"
# A kernel's definition, with or without the bounds of its launch.
KERNEL = re.compile(
    r"__global__\s+void\s+(?:__launch_bounds__\((?:[^()]|\([^()]*\))*\)\s*)?(\w+)\("
)
BUDGETS = Path(__file__).with_name("budgets_cuda.toml")

DTYPES = {"float": "float32", "Bfloat16": "bfloat16", "Half": "float16"}
# What takes rows whose dtype is known at run time: one kernel serves all three.
ANY_DTYPE = ("AnyMatrix", "AnyRows", "CentredRows", "Destination", "PanelRows", "Subjects")


@functools.cache
def budgets() -> dict:
    """Return the table of budgets."""
    tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    return tomllib.loads(BUDGETS.read_text(encoding="utf-8"))


def names_of_kernels() -> list[str]:
    """Return the name of every kernel that the sources define, as often as they do."""
    files = sorted([*SOURCES.glob("*.cu"), *SOURCES.glob("*.cuh"), *SOURCES.glob("*.h")])
    found = []
    for file in files:
        text = re.sub(r"//.*", "", file.read_text(encoding="utf-8"))
        names = KERNEL.findall(text)
        assert len(names) == text.count("__global__"), f"{file.name}: a kernel without a name"
        found += names
    return found


def demangled(symbols: list[str]) -> list[str]:
    """Return mangled names as C++ has them."""
    return subprocess.run(
        ["c++filt"], input="\n".join(symbols), capture_output=True, text=True, check=True
    ).stdout.splitlines()


def dtypes(symbols: list[str]) -> dict[str, set[str]]:
    """Return the dtypes of rows that each kernel is there for; "none" where it takes no rows."""
    names = readable(symbols)
    found: dict[str, set[str]] = {}
    for symbol, whole in zip(symbols, demangled(symbols), strict=True):
        kernel, _, arguments = names[symbol].partition("<")
        if any(re.search(rf"\b{name}\b", whole) for name in ANY_DTYPE):
            there = set(DTYPES.values())
        else:
            there = {DTYPES[word] for word in re.findall(r"\w+", arguments) if word in DTYPES}
        found.setdefault(kernel, set()).update(there)
    return {kernel: there or {"none"} for kernel, there in found.items()}


def readable(symbols: list[str]) -> dict[str, str]:
    """Return ``kernel<arguments>`` for mangled names, without namespaces and parameters."""
    short = {}
    for symbol, name in zip(symbols, demangled(symbols), strict=True):
        name = re.sub(r"\(anonymous namespace\)::|ncfast::cuda::|^void |\((?:int|bool)\)", "", name)
        depth, end = 0, len(name)
        for i, character in enumerate(name):
            depth += (character == "<") - (character == ">")
            if character == "(" and depth == 0:
                end = i
                break
        short[symbol] = name[:end]
    return short

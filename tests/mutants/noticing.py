"""Which tests could notice a fault: by what includes or imports its file, or by what was recorded.

Native code: the ops whose sources include the file, directly or not. Triton: the ops whose modules
import it. Python: the tests that ran the function the fault is in, as ``recorder`` noted.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .table import ROOT, Fault

sys.path.insert(0, str(ROOT / "csrc"))
import object_cache

# Beside the ops' own: where the numbers of Python are tested. Slow ones are left out.
RECORDED = (
    *("tests/test_geometry.py", "tests/test_metrics*.py", "tests/test_statistics.py"),
    *("tests/test_diagonal.py", "tests/test_agreement.py", "tests/test_distributed.py"),
    *("tests/losses", "tests/training/test_objective.py", "tests/training/test_loop.py"),
    *("tests/training/test_ranks.py", "ncfast/metrics", "ncfast/losses", "ncfast/statistics"),
    *("ncfast/geometry.py", "ncfast/agreement.py"),
)
MOST_SECONDS = 120.0  # of CPU, of the recorded tests of one fault
QUICK = "primes or index or ignored or tie or bad or empty or zero"


@dataclass(frozen=True)
class Run:
    """Hold the arguments of one run of pytest, and variables beside the environment's."""

    arguments: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)


def op_of(source: Path) -> str:
    """Return the op that a source file belongs to: its backward is tested with it."""
    return source.stem.removesuffix("_backward")


def _ops(known: Iterable[str], sources: Iterable[Path]) -> list[str]:
    found = {op_of(source) for source in sources}
    # linear_argmax.cu and linear_argmax.cpp hold nearest_center too.
    found |= {"nearest_center"} if "linear_argmax" in found else set()
    return [op for op in known if op in found]


def known_ops() -> list[str]:
    """Return the ops that have a test file."""
    return sorted(p.stem.removeprefix("test_") for p in ROOT.glob("tests/ops/test_*.py"))


def including(file: Path, sources: list[Path]) -> list[Path]:
    """Return the sources that include a file, also by a header whose source has its name."""
    found = [s for s in sources if file in object_cache.closure(s)]
    header = file.with_suffix(".cuh")
    if file.suffix == ".cu" and header.exists():
        found += [s for s in sources if header in object_cache.closure(s)]
    return found


def _cuda(fault: Fault) -> list[Run]:
    sources = sorted(ROOT.glob("csrc/cuda/*.cu"))
    ops = _ops(known_ops(), including(ROOT / fault.file, sources))
    chosen = " or ".join(ops)
    hosts = [
        str(p.relative_to(ROOT))
        for p in sorted(ROOT.glob("tests/ops/test_cuda_host*.py"))
        if "sanitized" not in p.name
    ]
    own = [f"tests/ops/test_{op}.py" for op in ops]
    agreement = f"(agreement or gradients) and (float32 or bfloat16) and ({chosen})"
    return [
        Run(("tests/ops/test_cuda_host.py", "-k", agreement)),
        Run((*own, "-k", "cuda-host")),
        Run((*hosts, "-k", chosen)),
    ]


def _cpu(fault: Fault) -> list[Run]:
    sources = sorted(ROOT.glob("csrc/cpu/*.cpp"))
    ops = _ops(known_ops(), including(ROOT / fault.file, sources))
    own = [str(p.relative_to(ROOT)) for op in ops for p in ROOT.glob(f"tests/ops/test_{op}*.py")]
    rest = "(cpu or not backend) and not cuda-host and not reference"
    return [
        Run((*own, "-k", f"cpu and not cuda-host and agreement and ({QUICK})")),
        Run((*own, "-k", rest)),
    ]


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            found.add(node.module)
        elif isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {alias.name for alias in node.names}
    return found


def _triton(fault: Fault) -> list[Run]:
    modules = {p.stem: _imports(p) for p in ROOT.glob("ncfast/kernels/*.py")}
    reached, grown = {Path(fault.file).stem}, True
    while grown:
        more = {name for name, imports in modules.items() if imports & reached} - reached
        reached |= more
        grown = bool(more)
    files = [
        p for p in sorted(ROOT.glob("tests/kernels/interpreted*.py")) if "contract" not in p.name
    ]
    classes = []
    for op in known_ops():
        text = (ROOT / f"tests/ops/test_{op}.py").read_text(encoding="utf-8")
        name = re.search(r"^class (Test\w+)\(\w*Contract\):", text, re.MULTILINE)
        if op in reached and name is not None:
            classes.append(name[1])
    chosen = " or ".join(classes)
    given = tuple(str(p.relative_to(ROOT)) for p in files)
    variables = {"TRITON_INTERPRET": "1"}
    return [
        Run((*given, "-k", f"({chosen}) and float32 and (primes or index)"), variables),
        Run((*given, "-k", f"({chosen}) and not ((primes or index) and float32)"), variables),
    ]


def _function_at(path: Path, line: int) -> int:
    """Return the first line of the innermost function around a line, 0 where there is none."""
    best = 0
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno:
            # A code object begins at its first decorator.
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if first <= line <= node.end_lineno:
                best = max(best, first)
    return best


def record(path: Path) -> None:
    """Run what is recorded once, and write what it ran; failures are no matter here."""
    chosen = [str(p.relative_to(ROOT)) for pattern in RECORDED for p in sorted(ROOT.glob(pattern))]
    path.parent.mkdir(parents=True, exist_ok=True)
    plugin = ("-p", "tests.mutants.recorder", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", *plugin, "-m", "not slow", *chosen]
    environment = {**os.environ, "NCFAST_RECORD": str(path), "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)


def _python(fault: Fault, recorded: Path) -> list[Run]:
    if not recorded.exists():
        record(recorded)
    found = json.loads(recorded.read_text(encoding="utf-8"))
    text = (ROOT / fault.file).read_text(encoding="utf-8")
    first = _function_at(ROOT / fault.file, text[: text.index(fault.old)].count("\n") + 2)
    tests = found["tests"].get(f"{fault.file}::{first}")
    if tests is None:  # the text of a class or a module, or a function whose decorators moved it
        ran = [t for name, t in found["tests"].items() if name.startswith(f"{fault.file}::")]
        tests = sorted({test for some in ran for test in some})
    chosen, spent = [], 0.0
    for test in sorted(tests, key=lambda t: found["seconds"][t]):
        spent += found["seconds"][test]
        if spent < MOST_SECONDS:
            chosen.append(test)
    return [Run(tuple(chosen))] if chosen else []


def runs_for(fault: Fault, recorded: Path) -> list[Run]:
    """Return the runs of pytest that could notice a fault, the quickest first."""
    if fault.file.startswith("csrc/cuda/"):
        return _cuda(fault)
    if fault.file.startswith("csrc/"):
        return _cpu(fault)
    if fault.file.startswith("ncfast/kernels/"):
        return _triton(fault)
    return _python(fault, recorded)

"""Which tests could notice a fault: by what includes or imports its file, or by what was recorded.

Native code: the ops whose sources include the file, directly or not. Triton: the ops whose modules
import it. Python: the tests that ran the function the fault is in, as ``recorder`` noted.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.ops.files import FAR_ROWS, OF_EVERY_OP, files_of

from .recorder import record
from .table import ROOT, Fault

sys.path.insert(0, str(ROOT / "csrc"))
import object_cache

# What runs in a test's own processes is not recorded: of these files, ranks.
OF_RANKS = tuple(f"ncfast/{name}" for name in ("statistics", "agreement", "losses", "training"))
IN_PROCESSES = ("tests/test_distributed.py", "tests/training/test_ranks.py")
MOST_SECONDS = 120.0  # of CPU, of the recorded tests of one fault
WITH_BACKWARD = (
    *("alignment", "between_class_scatter", "class_moments", "linear_cross_entropy"),
    *("pair_stats", "within_class_scatter"),
)
BY_HAND = ("flag", "tie", "empty class", "ignored label")  # what contracts seldom look at
AT_ENDS = ("shard start", "last tile", "reduction order", "loop")
EMULATED = ("float32", "bfloat16")
EVERY_SCHEDULE = "test_every_schedule_gives_the_same_bits"
FAR, RAW = str(FAR_ROWS.relative_to(ROOT)), "tests/ops/test_cuda_host_raw_products.py"
NARROW = {"NCFAST_CPU_BFLOAT16": "pairs"}  # else the faster is taken, as measured
MANY = "tests/ops/test_many_tiles.py"  # of the C++ kernels
SHARED = tuple(str(path.relative_to(ROOT)) for path in OF_EVERY_OP)
LOSS = tuple(f"tests/losses/test_cross_entropy{part}.py" for part in ("", "_precision"))
EXTREMES, WITH_EXTREMES = "tests/losses/test_extremes.py", {"alignment", "linear_argmax"}
QUICK = "primes or index or ignored or tie or bad or empty or zero"


@dataclass(frozen=True)
class Run:
    """Hold one run of pytest: its arguments, and variables beside the environment's.

    ``kind``: which build of the emulator it runs on; ``sources``: which sources are compiled with
    the fault in them; ``known``: the test killed the fault before, and may since be gone.
    """

    arguments: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)
    kind: str = "plain"
    sources: tuple[str, ...] = ()
    known: bool = False


def op_of(source: Path) -> str:
    """Return the op that a source file belongs to: its backward is tested with it."""
    return source.stem.removesuffix("_backward")


def _ops(known: Iterable[str], sources: Iterable[Path]) -> list[str]:
    found = {op_of(source) for source in sources}
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


def _files_of(op: str) -> tuple[str, ...]:
    """Return the files of tests of an op: one that bears its name, and those that go on from it."""
    return tuple(str(path.relative_to(ROOT)) for path in files_of(op))


def _contract(ops: list[str], *tests: str, dtypes: tuple[str, ...]) -> tuple[str, ...]:
    """Return tests of the contracts of ops on the emulator, as pytest names them."""
    return tuple(
        f"tests/ops/test_cuda_host.py::{test}[{op}-torch.{dtype}]"
        for op in ops
        for dtype in dtypes
        for test in tests
        if test != "test_gradients" or op in WITH_BACKWARD
    )


def _cuda(fault: Fault) -> list[Run]:
    """Op by op, the one whose sources are smallest first; then all at once, on every build.

    What is compiled for one op is kept for the next: only the last runs compile everything.
    """
    file, known = ROOT / fault.file, known_ops()
    sources = including(file, sorted(ROOT.glob("csrc/cuda/*.cu")))
    others = [*sorted(ROOT.glob("csrc/testing/*.cpp")), ROOT / "csrc/bindings/cuda.cpp"]
    every = {s.name for s in sources} | {s.name for s in others if file in object_cache.closure(s)}
    all_of = tuple(sorted(every))
    contracts, hands, halves, races, racing, far, ops = [], [], [], [], [], [], []
    for source in sorted(sources, key=lambda s: s.stat().st_size):
        for op in _ops(known, [source]):
            if op in ops:
                continue
            ops.append(op)
            compiled = _sources_of(op, file, sources)
            tests = _contract([op], "test_agreement", "test_gradients", dtypes=EMULATED)
            races.append(Run(tests, _on("races"), "races", compiled))
            by_hand = (*_files_of(op), "-k", "cuda-host and not agreement")
            racing.append(Run(by_hand, _on("races"), "races", compiled))
            far.append(Run((FAR, "-k", f"cuda-host and {op}-"), sources=compiled))
            hands.append(Run((*_files_of(op), "-k", "cuda-host"), sources=compiled))
            hands.append(Run((*SHARED, "-k", f"cuda-host and {op}"), sources=compiled))
            if op in WITH_EXTREMES:
                hands.append(Run((EXTREMES, "-k", "cuda-host"), sources=compiled))
            contracts += [Run(tests[: len(tests) // 2], sources=compiled)]
            halves += [Run(tests[len(tests) // 2 :], sources=compiled)]
    runs = [*hands, *contracts] if fault.kind in BY_HAND else [*contracts, *hands]
    runs = [*(far if fault.kind == "index width" else []), *runs, *halves]
    chosen = " or ".join(ops)
    own = tuple(file for op in ops for file in _files_of(op))
    tests = _contract(ops, "test_agreement", "test_gradients", EVERY_SCHEDULE, dtypes=EMULATED)
    small = Run(tests, _on("small"), "small", all_of)
    if fault.kind in AT_ENDS:  # of loops that go round where sizes are small
        runs = [runs[0], small, *runs[1:]]
    runs += [
        *([Run((*own, "-k", "cuda-host"), sources=all_of)] if len(ops) > 1 else []),
        *([small] if fault.kind not in AT_ENDS else []),
        Run(("tests/ops/test_cuda_host.py", "-k", chosen), sources=all_of),
        *([Run((RAW,), sources=all_of)] if {"pair_stats", "nearest_center"} & set(ops) else []),
        *far,
        Run((*own, "-k", "cuda-host"), _on("small"), "small", all_of),
    ]
    races += racing
    return [*races, *runs] if fault.kind in ("barrier", "wait", "atomics") else [*runs, *races]


def _sources_of(op: str, file: Path, sources: list[Path]) -> tuple[str, ...]:
    """Return which sources hold a fault, of those that an op is made of: its own, and no op's."""
    known = known_ops()
    own = {s.name for s in sources if s == file or op in _ops([op], [s]) or not _ops(known, [s])}
    return tuple(sorted(own))


def _on(kind: str) -> dict[str, str]:
    return {"NCFAST_TEST_EMULATOR": kind}


def _cpu(fault: Fault) -> list[Run]:
    sources = sorted(ROOT.glob("csrc/cpu/*.cpp"))
    ops = _ops(known_ops(), including(ROOT / fault.file, sources))
    own = [file for op in ops for file in _files_of(op)]
    rest = "(cpu or not backend) and not cuda-host and not reference"
    runs = [
        Run((*own, "-k", f"cpu and not cuda-host and agreement and ({QUICK})")),
        Run((MANY, "-k", " or ".join([*(f"[{op}" for op in ops), "several"]))),
    ]
    runs = [
        *(reversed(runs) if fault.kind in AT_ENDS else runs),
        Run((*own, "-k", rest)),
        Run((*SHARED, "-k", f"({rest}) and ({' or '.join(ops)})")),
        *([Run((EXTREMES, "-k", rest))] if WITH_EXTREMES & set(ops) else []),
        *([Run((*LOSS, "-k", rest))] if "linear_cross_entropy" in ops else []),
    ]
    return [replace(run, variables=NARROW) for run in runs] if fault.needs else runs


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
    left_out = ("contract", "small", "far_rows")
    files = [
        p
        for p in sorted(ROOT.glob("tests/kernels/interpreted*.py"))
        if not any(part in p.name for part in left_out)
    ]
    ops = [op for op in known_ops() if op in reached]
    classes = []
    for op in ops:
        text = (ROOT / f"tests/ops/test_{op}.py").read_text(encoding="utf-8")
        name = re.search(r"^class (Test\w+)\(\w*Contract\):", text, re.MULTILINE)
        if name is not None:
            classes.append(name[1])
    chosen = " or ".join([*classes, "Extremes", "Layouts"])
    given = tuple(str(p.relative_to(ROOT)) for p in files)
    variables = {"TRITON_INTERPRET": "1"}
    # The name of an op is a part of others': as a parameter it stands between hyphens or brackets.
    small = " or ".join(f"[{op}-" for op in ops)
    far = " or ".join(f"-{op}-" for op in ops)
    first = Run(("tests/kernels/interpreted_small.py", "-k", f"({small} or bad)"), variables)
    if fault.kind == "index width":
        first = Run(("tests/kernels/interpreted_far_rows.py", "-k", f"({far})"), variables)
    compiled = Run(("tests/aot/test_triton.py", "-k", "stands_between"))  # here is no thread
    return [
        *([compiled] if fault.kind == "barrier" else []),
        first,
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


def _python(fault: Fault, recorded: Path) -> list[Run]:
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
    runs = [Run(tuple(chosen))] if chosen else []
    return [*runs, Run(IN_PROCESSES)] if fault.file.startswith(OF_RANKS) else runs


def killer(fault: Fault, by: str) -> list[Run]:
    """Return the run of the test that killed a fault before: "TEST" or "TEST on BUILD"."""
    test, _, kind = by.partition(" on ")
    if not (ROOT / test.partition("::")[0]).exists():
        return []
    if test.startswith("tests/kernels/interpreted"):
        return [Run((test,), {"TRITON_INTERPRET": "1"}, known=True)]
    if not fault.file.startswith("csrc/cuda/"):
        return [Run((test,), NARROW if fault.needs else {}, known=True)]
    sources = including(ROOT / fault.file, sorted(ROOT.glob("csrc/cuda/*.cu")))
    op = next((op for op in _ops(known_ops(), sources) if op in test), None)
    every = tuple(sorted({source.name for source in sources}))
    compiled = _sources_of(op, ROOT / fault.file, sources) if op else every
    if not compiled:
        return []
    return [Run((test,), _on(kind) if kind else {}, kind or "plain", compiled, known=True)]


def runs_for(fault: Fault, recorded: Path, by: str = "") -> Iterator[Run]:
    """Yield the runs of pytest that could notice a fault, the likeliest first.

    Args:
        fault: what is planted.
        recorded: the file that says which tests run what of Python; written if it is missing.
        by: what killed the fault before.
    """
    yield from killer(fault, by) if by else []
    if fault.file.startswith("csrc/cuda/"):
        yield from _cuda(fault)
    elif fault.file.startswith("csrc/"):
        yield from _cpu(fault)
    elif fault.file.startswith("ncfast/kernels/"):
        yield from _triton(fault)
    else:
        yield from _python(fault, recorded)

"""What nvcc makes of every CUDA kernel, read from the library without a GPU.

``budgets_cuda.toml`` holds registers per kernel and target, and which instructions a kernel must
contain. ``python -m tests.aot.test_cuda LIBRARY`` prints the table as the library now is.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from .cuda_names import budgets, dtypes, names_of_kernels, readable

ROOT = Path(__file__).parent.parent.parent
TARGETS = ("sm_80", "sm_90a", "sm_100a")
# Of what cuobjdump prints, a hundred megabytes: whose instructions follow, and each one.
SASS = re.compile(
    r"arch = (?P<target>\w+)|Function : (?P<symbol>\w+)"
    r"|/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?(?P<instruction>[A-Z][\w.]+)"
)


def cuobjdump() -> str:
    """Return the tool that reads fat binaries: the toolkit's, or the one in Triton's wheel."""
    if found := shutil.which("cuobjdump"):
        return found
    spec = importlib.util.find_spec("triton")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "backends/nvidia/bin/cuobjdump"
        if bundled.exists():
            return str(bundled)
    pytest.skip("no cuobjdump: neither a CUDA toolkit with it nor triton is installed")


def output(*command: str) -> str:
    """Run a tool and return what it prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@functools.cache
def compiled(library: Path) -> dict[tuple[str, str], tuple[int, int]]:
    """Return registers and stack bytes of every (symbol, target)."""
    found, target, symbol = {}, "", ""
    for line in output(cuobjdump(), "-res-usage", str(library)).splitlines():
        if match := re.search(r"arch = (\w+)", line):
            target = match[1]
        if match := re.search(r"Function (\w+):", line):
            symbol = match[1]
        if match := re.search(r"REG:(\d+) STACK:(\d+)", line):
            found[symbol, target] = (int(match[1]), int(match[2]))
    return found


@functools.cache
def resources(library: Path) -> dict[tuple[str, str], tuple[int, int]]:
    """Return registers and stack bytes of every (kernel, target)."""
    found = compiled(library)
    names = readable(sorted({symbol for symbol, _ in found}))
    most: dict[tuple[str, str], tuple[int, int]] = {}
    for (symbol, target), (registers, stack) in found.items():
        # A kernel of a header is in every file that includes it.
        before = most.get((names[symbol], target), (0, 0))
        most[names[symbol], target] = (max(registers, before[0]), max(stack, before[1]))
    return most


@functools.cache
def instructions(library: Path) -> dict[tuple[str, str], set[str]]:
    """Return the instructions, with their modifiers, of every (kernel, target)."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    target, symbol = "", ""
    for match in SASS.finditer(output(cuobjdump(), "-sass", str(library))):
        if match.lastgroup == "target":
            target = match["target"]
        elif match.lastgroup == "symbol":
            symbol = match["symbol"]
        else:
            found[symbol, target].add(match["instruction"])
    names = readable(sorted({symbol for symbol, _ in found}))
    merged: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (symbol, target), ops in found.items():
        merged[names[symbol], target] |= ops
    return dict(merged)


def test_every_kernel_of_the_sources_has_a_budget_by_its_name():
    """Two kernels of one name would share one budget, the larger: what nvcc need not be asked."""
    names = names_of_kernels()
    assert [name for name in sorted(set(names)) if names.count(name) > 1] == []
    table = budgets()  # a key that is there twice is no TOML
    assert sorted({name.partition("<")[0] for name in table["registers"]}) == sorted(names)
    named = {*table["shared_memory"], *table["instructions_of"]}
    named |= {name for there in table["instructions"].values() for name in there}
    assert {name.partition("<")[0] for name in named} <= set(names)


def test_every_kernel_is_compiled_for_every_target_and_has_a_budget(cuda_library):
    found = resources(cuda_library)
    kernels = sorted({name for name, _ in found})
    assert {target for _, target in found} == set(TARGETS)
    assert len(found) == len(kernels) * len(TARGETS)
    assert sorted(budgets()["registers"]) == kernels
    print(
        f"{len(kernels)} CUDA kernels with their types and tiles x {len(TARGETS)} targets = "
        f"{len(found)} compiled"
    )


def test_every_kernel_is_there_for_its_dtypes_on_every_target(cuda_library):
    """The count that is asked for: kernels x dtypes x targets."""
    by_target = {
        target: dtypes(
            sorted(symbol for symbol, where in compiled(cuda_library) if where == target)
        )
        for target in TARGETS
    }
    found = by_target[TARGETS[0]]
    assert all(other == found for other in by_target.values())
    every = {"float32", "bfloat16", "float16"}
    some = {kernel for kernel, there in found.items() if there not in (every, {"none"})}
    assert not some, f"kernels of some dtypes only: {sorted(some)}"
    assert (found["visit_pairs"], found["center_sums"]) == (every, every)
    assert found["scan_block"] == {"none"}
    counts = {
        dtype: sum(dtype in there for there in found.values()) for dtype in (*sorted(every), "none")
    }
    total = sum(counts.values())
    print(
        f"{len(found)} CUDA kernels x dtypes = {total} ({counts}), x {len(TARGETS)} targets = "
        f"{total * len(TARGETS)}"
    )


def test_registers_and_spills(cuda_library):
    over = []
    for (name, target), (registers, stack) in resources(cuda_library).items():
        allowed = budgets()["registers"][name][target]
        if registers > allowed:
            over.append(f"{name} on {target}: {registers} registers, of at most {allowed}")
        if stack:
            over.append(f"{name} on {target}: {stack} bytes of stack, of at most 0")
    for (name, target), ops in instructions(cuda_library).items():
        spilling = sorted(op for op in ops if op.startswith(("LDL", "STL")))
        if spilling:
            over.append(f"{name} on {target}: spills by {', '.join(spilling)}")
    assert not over, "\n".join(over)


def test_instructions_that_must_be_there(cuda_library):
    table = instructions(cuda_library)
    missing = []
    for instruction, kernels in budgets()["instructions"].items():
        for kernel in kernels:
            members = {k: v for k, v in table.items() if k[0].partition("<")[0] == kernel}
            assert len(members) >= len(TARGETS), f"no kernel is called {kernel}"
            missing += [
                f"{name} on {target}: no {instruction}"
                for (name, target), ops in members.items()
                if not any(op.startswith(instruction) for op in ops)
            ]
    for kernel, wanted in budgets()["instructions_of"].items():
        for target in TARGETS:
            missing += [
                f"{kernel} on {target}: no {instruction}"
                for instruction in wanted
                if not any(op.startswith(instruction) for op in table[kernel, target])
            ]
    assert not missing, "\n".join(missing)


def test_no_float_atomics(cuda_library):
    """Sums by float atomics would have other bits on every run."""
    for (name, target), ops in instructions(cuda_library).items():
        atomics = [op for op in ops if op.startswith(("ATOM", "RED."))]
        floats = [op for op in atomics if re.search(r"\.(F16|F32|F64|BF16)", op)]
        assert not floats, f"{name} on {target}: {floats}"


# -- the library as a file


def test_only_the_stable_abi_is_asked_of_torch(cuda_library):
    """No symbol that only a CUDA torch has, and no C++ symbol of any torch."""
    lines = output("nm", "-D", "--undefined-only", str(cuda_library)).splitlines()
    symbols = {line.split()[-1] for line in lines}
    # Versioned ones are libc's and libstdc++'s, and so is all of namespace std.
    own = {s for s in symbols if "@" not in s and not re.match(r"_ZN?K?[RO]?S", s)}
    weak = {"_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable", "__gmon_start__"}
    stable = set(budgets()["stable_abi"]["symbols"])
    assert own - weak - {"__cxa_finalize"} == stable
    needed = set(re.findall(r"NEEDED.*\[(.+?)\.so", output("readelf", "-d", str(cuda_library))))
    expected = {
        "libtorch_cpu",
        "libc10",
        "libstdc++",
        "libgcc_s",
        "libc",
        "libm",
        "ld-linux-x86-64",
        "libdl",
        "librt",
        "libpthread",
    }
    assert needed <= expected


def test_nothing_is_exported(cuda_library):
    """Not the runtime that is linked in either: torch brings one of its own."""
    lines = output("nm", "-D", "--defined-only", str(cuda_library)).splitlines()
    assert [line for line in lines if line.split()[-2] == "T"] == []


REFUSES = """
import sys, torch
torch.ops.load_library(sys.argv[1])
x, y = torch.eye(3), torch.zeros(3, dtype=torch.int64)
try:
    torch.ops.ncfast_native_cuda.class_moments(x, y, y, x, x[0], torch.zeros(6).long(), 0, 0)
except RuntimeError as error:
    print("REFUSED", error)
"""


def test_it_loads_beside_any_torch_and_refuses_cpu_tensors(cuda_library):
    found = output(sys.executable, "-c", REFUSES, str(cuda_library))
    assert "REFUSED ncfast: class_moments: the CUDA kernels take CUDA tensors only" in found


INSTALLED = """
import sys, pathlib, torch, ncfast
from ncfast import native_cuda
native_cuda._library_path = lambda backend: pathlib.Path(sys.argv[1])
assert native_cuda.missing("cuda", "class_moments") == ""
x, y = torch.eye(3), torch.zeros(3, dtype=torch.int64)
print(ncfast.explain("class_moments", x, y, 3))
try:
    with ncfast.use_backend("cuda"):
        ncfast.functional.class_moments(x, y, 3)
except ncfast.BackendError as error:
    print("REFUSED", error)
"""


def test_the_package_has_it_installed_and_refuses_cpu_tensors(cuda_library):
    found = output(sys.executable, "-c", INSTALLED, str(cuda_library))
    assert "REFUSED class_moments: backend 'cuda' was requested but cannot serve" in found
    assert re.search(r"cuda +serves cuda tensors, not cpu", found)


if __name__ == "__main__":
    table = defaultdict(dict)
    for (kernel, target), (registers, _) in resources(Path(sys.argv[1])).items():
        table[kernel][target] = registers
    for kernel, row in sorted(table.items()):
        text = ", ".join(f"{target} = {row[target]}" for target in TARGETS)
        print(f'"{kernel}" = {{ {text} }}')

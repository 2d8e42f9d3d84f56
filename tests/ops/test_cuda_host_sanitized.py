"""Every CUDA kernel on the host emulator under sanitizers, and the shared memory it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from ncfast import dispatch

from ..aot.cuda_names import budgets, readable

sys.path.insert(0, str(Path(__file__).parents[2] / "csrc"))
import object_cache

OPS = [op for op in dispatch.ops() if not op.endswith("_backward")]
SANITIZED = """
import sys
import torch
from ncfast import use_backend
from ncfast.testing import sample_inputs
import ncfast.functional as F

op, calls = sys.argv[1], 0
for dtype in (torch.float32, torch.bfloat16):
    for sample in sample_inputs(op, dtype):
        if "float64" in sample.name or "many" in sample.name or "long" in sample.name:
            continue
        # Copies from malloc, of the exact size: then a read past the end is seen.
        args = [a.clone() if isinstance(a, torch.Tensor) else a for a in sample.args]
        if not op.endswith("_"):
            for a in args:
                if isinstance(a, torch.Tensor) and a.is_floating_point():
                    a.requires_grad_()
        with use_backend("cuda-host"):
            out = F.function_of(op)(*args)
            sums = [t.double().sum() for t in (out if isinstance(out, tuple) else (out,))
                    if isinstance(t, torch.Tensor) and t.requires_grad]
            if sums:
                sum(sums).backward()
        calls += 1 + bool(sums)
print("CALLS", calls)
"""


def sanitized(library: Path, op: str) -> Path:
    """Call an op on small samples under AddressSanitizer and UBSan; return what it launched.

    A process for each op, whose launches are kept beside the library: of several workers one runs
    it, and a second run of the tests none.
    """
    launches = library.with_name(f"{library.stem}-{op}.launches")
    with object_cache.locked(launches.with_suffix(".lock")):
        if not launches.exists():
            new = launches.with_suffix(".new")
            new.unlink(missing_ok=True)
            result = under_sanitizers(library, op, new)
            assert result.returncode == 0, result.stderr[-4000:]
            assert "runtime error" not in result.stderr
            assert int(result.stdout.partition("CALLS")[2]) >= 5
            new.replace(launches)
    return launches


def under_sanitizers(library: Path, op: str, launches: Path) -> subprocess.CompletedProcess[str]:
    """Call an op in a process that the sanitizers watch."""
    found = [
        subprocess.run(["c++", f"-print-file-name={name}"], capture_output=True, text=True)
        for name in ("libasan.so", "libubsan.so", "libstdc++.so")
    ]
    environment = os.environ | {
        "LD_PRELOAD": " ".join(f.stdout.strip() for f in found),
        "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0",
        "UBSAN_OPTIONS": "halt_on_error=1",
        "NCFAST_CUDA_HOST_LIBRARY": str(library),
        "NCFAST_EMULATOR_LAUNCHES": str(launches),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", SANITIZED, op]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("op", OPS)
def test_under_sanitizers(cuda_host_sanitized, op):
    sanitized(cuda_host_sanitized, op)


def shared_memory(library: Path, launches: Path) -> dict[str, int]:
    """Return the most bytes of dynamic shared memory per kernel, its dtypes and tiles together."""
    table = subprocess.run(["nm", str(library)], capture_output=True, text=True, check=True)
    rows = [line.split() for line in table.stdout.splitlines()]
    at = {int(row[0], 16): row[2] for row in rows if len(row) == 3}
    noted = [tuple(map(int, line.split())) for line in launches.read_text().splitlines()]
    names = readable([at[offset] for offset, _ in noted])
    most: dict[str, int] = defaultdict(int)
    for offset, size in noted:
        name = names[at[offset]].partition("<")[0]
        most[name] = max(most[name], size)
    return dict(most)


def test_shared_memory(cuda_host_sanitized):
    """The more a block takes, the fewer blocks share a multiprocessor."""
    found: dict[str, int] = defaultdict(int)
    for op in OPS:
        for name, size in shared_memory(
            cuda_host_sanitized, sanitized(cuda_host_sanitized, op)
        ).items():
            found[name] = max(found[name], size)
    allowed = budgets()["shared_memory"]
    every = {name.partition("<")[0] for name in budgets()["registers"]}
    # Only text of more than one slice is looked through ahead, too long for this process.
    assert every - set(found) == {"find_not_finite"}
    assert set(found) <= every
    assert {name for name, size in found.items() if size} == set(allowed)
    over = [
        f"{name}: {size} bytes of shared memory, of at most {allowed[name]}"
        for name, size in found.items()
        if size > allowed.get(name, 0)
    ]
    assert not over, "\n".join(over)
    assert max(found.values()) <= 163 << 10, "sm_80 has 163 KiB for a block"

"""Compiles the launches of every Triton kernel for GPUs that are not here, and weighs the results.

python -m tests.aot.ahead_of_time        regenerates budgets.toml
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ncfast import native
from ncfast.kernels import launching, pair_stats

from .launches import LAUNCHES

BUDGETS = Path(__file__).parent / "budgets.toml"
WEIGHTS = Path(__file__).parents[2] / "build/triton_weights"
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90a": GPUTarget("cuda", 90, 32),
    "sm_100a": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
POINTERS = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
}
TENSOR_CORES = ("HMMA", "HGMMA", "UTCHMMA")


@dataclass(frozen=True)
class Variant:
    """Hold one kernel as one launch specialises it; compiled, it is one binary per target."""

    module: str
    kernel: str
    tiles: str  # of its configuration, where a launch of others came first
    dtype: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    divisible: tuple[str, ...]
    options: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        """Return the kernel's name, its tiles if not the first, and the dtype of its features."""
        return f"{self.kernel.lstrip('_')}{self.tiles}.{self.dtype}"


@contextlib.contextmanager
def recorded(
    dtype: torch.dtype, target: str, seen: dict[tuple[str, str], Variant]
) -> Iterator[None]:
    """Record what every launch inside would compile, by kernel and tiles; nothing runs."""

    def record(kernel, programs, configuration, args, constants) -> None:
        constants = {**constants, **configuration.tiles}
        signature, divisible = {}, []
        for parameter, value in zip(kernel.params, args, strict=False):
            name = parameter.name
            one = isinstance(value, int) and value == 1 and not parameter.do_not_specialize
            if value is None or one:
                constants[name] = value
                continue
            if isinstance(value, torch.Tensor):
                signature[name] = POINTERS[value.dtype]
                divisible.append(name)  # allocators align by far more than 16 bytes
                continue
            if isinstance(value, float):
                signature[name] = "fp32"
                continue
            assert isinstance(value, int), (kernel, name, value)
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0 and not parameter.do_not_specialize:
                divisible.append(name)
        function = kernel.fn
        # The first launch of a kernel and tiles stands for it: LAUNCHES begins with the fullest.
        # One of Riesz energies holds what the others leave out.
        mark = "_energies" if constants.get("ENERGIES") else ""
        key = (f"{function.__name__}{mark}.{DTYPES[dtype]}", configuration.name)
        other = any(kernel == key[0] for kernel, _ in seen)
        tiles = mark
        tiles += "_" + re.sub(r"\W+", "_", configuration.name.replace(" ", "")) if other else ""
        variant = Variant(
            function.__module__,
            function.__name__,
            tiles,
            DTYPES[dtype],
            tuple(signature.items()),
            tuple(constants.items()),
            tuple(divisible),
            tuple(configuration.options().items()),
        )
        seen.setdefault(key, variant)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launching, "run", record)
        major = 0 if target.startswith("gfx") else TARGETS[target].arch // 10
        patch.setattr(pair_stats, "architecture", lambda device: major)
        # What no kernel has written must still be usable as positions.
        patch.setattr(
            native, "allocate", lambda shape, dtype, device: torch.zeros(shape, dtype=dtype)
        )
        yield


@functools.cache
def variants(target: str) -> list[Variant]:
    """Return every kernel in the default configuration that each dtype launches on a target."""
    seen: dict[tuple[str, str], Variant] = {}
    for dtype in DTYPES:
        for launch in LAUNCHES:
            with recorded(dtype, target, seen):
                launch(dtype)
    return list(seen.values())


def compiled(variant: Variant, target: str) -> Any:
    """Compile a kernel for a target, with no GPU and no driver."""
    kernel = getattr(importlib.import_module(variant.module), variant.kernel)
    names = kernel.arg_names
    constants = dict(variant.constants)
    if target.startswith("gfx") and "PRECISION" in constants:
        constants["PRECISION"] = "ieee"  # as launching.dot_precision says on such a GPU
    signature = dict(variant.signature)
    source = ASTSource(
        kernel,
        {name: signature.get(name, "constexpr") for name in names},
        {(names.index(name),): value for name, value in constants.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in variant.divisible},
    )
    options = dict(variant.options)
    if target.startswith("gfx"):
        options.pop("maxnreg", None)
    return triton.compile(source, target=TARGETS[target], options=options)


def weigh(variant: Variant, target: str) -> dict[str, int]:
    """Return registers, spills, shared memory, tensor-core and 128-bit memory instructions.

    Triton keeps what it compiled on disk by content; beside it, ``build/`` keeps what is read here.
    """
    binary = compiled(variant, target)
    if target.startswith("gfx"):
        return {"bytes": len(binary.asm["hsaco"])}
    content = hashlib.sha256(Path(__file__).read_bytes() + binary.asm["cubin"]).hexdigest()
    path = WEIGHTS / f"{content[:32]}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    found = _read(binary)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps(found), encoding="utf-8")
    new.replace(path)
    return found


def _read(binary: Any) -> dict[str, int]:
    """Return the weights of a binary for NVIDIA, as the tools of Triton's wheel show them."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(binary.asm["cubin"])

        def output(*command: str) -> str:
            return subprocess.run(
                [str(tools / command[0]), *command[1:], str(path)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout

        usage = re.search(r"REG:(\d+) STACK:(\d+)", output("cuobjdump", "-res-usage"))
        listing = output("nvdisasm", "-c")
    assert usage is not None
    pattern = r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)"
    instructions = re.findall(pattern, listing, re.MULTILINE)

    def count(*heads: str, wide: bool = False) -> int:
        return sum(
            i.split(".")[0] in heads and (not wide or ".128" in i or "BYPASS" in i)
            for i in instructions
        )

    result = {
        "registers": int(usage[1]),
        "spills": count("LDL", "STL"),
        "shared": binary.metadata.shared,
        "wide_loads": count("LDG", "LDGSTS", wide=True) + count("UTMALDG", "UBLKCP"),
    }
    return result | {name: count(name) for name in TENSOR_CORES}


def binaries(targets: list[str], kernel: str = "") -> dict[tuple[Variant, str], list[str]]:
    """Return what has to be compiled, of one kernel or of all, and the names each goes by."""
    names: dict[tuple[Variant, str], list[str]] = {}
    for target in targets:
        for variant in variants(target):
            if kernel in ("", variant.kernel):
                # What reads no features is the same binary for every dtype of theirs.
                job = (replace(variant, dtype="", tiles=""), target)
                names.setdefault(job, []).append(variant.name)
    return names


def weigh_all(targets: list[str]) -> dict[tuple[str, str], dict[str, int]]:
    """Compile every kernel for every target on two cores: (kernel.dtype, target) -> weights."""
    jobs = binaries(targets)
    with ProcessPoolExecutor(2) as pool:
        found = list(pool.map(weigh, *zip(*jobs, strict=True), chunksize=1))
    return {
        (name, target): weights
        for ((_, target), names), weights in zip(jobs.items(), found, strict=True)
        for name in names
    }


def budget(weights: dict[str, int]) -> dict[str, int]:
    """Return what to hold a kernel to: a little more of what costs, and no less of what helps."""
    limits = {
        # ptxas moves a few registers between versions; a spill or a lost vector load is no noise.
        "registers": min(-(-weights["registers"] // 8) * 8 + 8, 255),
        "spills": 0,
        "shared": weights["shared"],
    }
    kept = [name for name in ("wide_loads", *TENSOR_CORES) if weights[name]]
    return limits | {f"least_{name}": 1 for name in kept}


def main() -> None:
    """Write budgets.toml from what the compiler gives today."""
    targets = [t for t in TARGETS if not t.startswith("gfx")]
    lines = [f"# Written by python -m tests.aot.ahead_of_time, Triton {triton.__version__}.", ""]
    for (name, target), weights in sorted(weigh_all(targets).items()):
        print(f"{name:40} {target:8} {weights}", file=sys.stderr)
        lines.append(f"[{name}.{target}]")
        lines += [f"{key} = {value}" for key, value in budget(weights).items()] + [""]
    BUDGETS.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    if os.environ.get("TRITON_INTERPRET", "0") == "1":
        sys.exit("unset TRITON_INTERPRET: an interpreted kernel cannot be compiled")
    main()

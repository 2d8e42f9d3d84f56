"""Every Triton kernel compiles for GPUs that are not here, within its budget."""

from __future__ import annotations

import importlib.util
import inspect
import os
import pkgutil
import sys

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed; it is in the extra 'test'", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET", "0") == "1":
    pytest.skip("an interpreted kernel cannot be compiled", allow_module_level=True)
if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

import triton

import ncfast.kernels

from . import ahead_of_time


@pytest.fixture(scope="module")
def weights():
    return ahead_of_time.weigh_all(list(ahead_of_time.TARGETS))


@pytest.fixture(scope="module")
def budgets():
    return tomllib.loads(ahead_of_time.BUDGETS.read_text(encoding="utf-8"))


def over(found: dict[str, int], allowed: dict[str, int]) -> list[str]:
    """Return every budget that is exceeded, with both numbers."""
    result = []
    for name, limit in allowed.items():
        if name.startswith("least_"):
            have = found[name.removeprefix("least_")]
            if have < limit:
                result.append(f"{name.removeprefix('least_')} is {have}, at least {limit} wanted")
        elif found[name] > limit:
            result.append(f"{name} is {found[name]}, at most {limit} allowed")
    return result


def test_every_kernel_compiles_within_its_budget(weights, budgets, capsys):
    exceeded, held = [], 0
    for (name, target), found in weights.items():
        if target.startswith("gfx"):
            assert found["bytes"]
            continue
        kernel, dtype = name.split(".")
        allowed = budgets.get(kernel, {}).get(dtype, {}).get(target)
        if allowed is None:
            exceeded.append(f"{name} on {target} has no budget")
            continue
        held += 1
        exceeded += [f"{name} on {target}: {text}" for text in over(found, allowed)]
    kernels = {name.split(".")[0] for name, _ in weights}
    targets = {d: [] for d in ahead_of_time.DTYPES.values()}
    for name, target in weights:
        of_dtype = targets[name.split(".")[1]]
        of_dtype += [] if target in of_dtype else [target]
    with capsys.disabled():
        print(f"\nTriton ahead of time: {len(kernels)} kernels x dtypes x targets:", end=" ")
        print("; ".join(f"{dtype} x ({', '.join(ts)})" for dtype, ts in targets.items()), end=": ")
        print(f"{len(weights)} compiled, {held} held to a budget")
    assert not exceeded, "\n".join(exceeded)


def test_no_budget_is_left_over(weights, budgets):
    known = {(*name.split("."), target) for name, target in weights}
    listed = {(k, d, t) for k, by in budgets.items() for d, ts in by.items() for t in ts}
    assert listed <= known


def test_a_budget_that_is_exceeded_gives_both_numbers():
    found = {"registers": 130, "spills": 2, "HGMMA": 0}
    allowed = {"registers": 128, "spills": 0, "least_HGMMA": 1}
    assert over(found, allowed) == [
        "registers is 130, at most 128 allowed",
        "spills is 2, at most 0 allowed",
        "HGMMA is 0, at least 1 wanted",
    ]
    assert over({"registers": 128, "spills": 0, "HGMMA": 4}, allowed) == []


def test_every_kernel_is_compiled():
    defined = set()
    for module in pkgutil.iter_modules(ncfast.kernels.__path__, "ncfast.kernels."):
        if module.name.endswith(".interpreter"):
            continue
        for name, value in inspect.getmembers(importlib.import_module(module.name)):
            entry = isinstance(value, triton.runtime.JITFunction) and name.startswith("_")
            # A kernel stores; what only returns a value is a part of kernels.
            if entry and "tl.store" in inspect.getsource(value.fn):
                defined.add(name.lstrip("_"))
    assert {v.kernel.lstrip("_") for v in ahead_of_time.variants("sm_90a")} >= defined
    assert len(defined) >= 4

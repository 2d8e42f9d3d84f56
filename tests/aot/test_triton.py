"""Every Triton kernel compiles for GPUs that are not here, within its budget."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import sys
import zlib

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


@functools.cache
def kernels() -> set[str]:
    """Return the names of every kernel that is launched."""
    targets = ahead_of_time.TARGETS
    return {variant.kernel for target in targets for variant in ahead_of_time.variants(target)}


def cases() -> list:
    """Return every kernel with every target; all but one in twelve, the same ones, are slow."""
    return [
        pytest.param(
            kernel,
            target,
            id=f"{kernel.lstrip('_')}-{target}",
            marks=[] if zlib.crc32(f"{kernel} {target}".encode()) % 12 == 8 else pytest.mark.slow,
        )
        for kernel in sorted(kernels())
        for target in ahead_of_time.TARGETS
    ]


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


def but_for_a_conversion(variant: ahead_of_time.Variant) -> tuple:
    """Return what two variants share that differ in how what is loaded is converted, and no more.

    ``as_stored`` says which of two launches works; what multiplies the points as they are has it.
    """
    found = []
    for part in (variant.signature, variant.constants, ((name, 16) for name in variant.divisible)):
        kept = {k: v for k, v in part if k not in ("as_stored", "PRECISION")}
        features = ("*fp32", "*bf16", "*fp16")
        found += [tuple((k, "*" if v in features else v) for k, v in kept.items())]
    return variant.kernel, *found, variant.options


@functools.cache
def spared(target: str) -> set[str]:
    """Return what need not be shown to compile where nothing has a budget: half a minute.

    float16 is bfloat16 but for a conversion; so is bfloat16 float32 where it is multiplied as such.
    """
    by_name = {v.name: v for v in ahead_of_time.variants(target)}
    held = {(v.dtype, but_for_a_conversion(v)) for v in by_name.values()}
    result = set()
    for name, variant in by_name.items():
        widened = dict(variant.constants).get("AS_STORED") is False
        other = "bf16" if variant.dtype == "fp16" else "fp32" if widened else ""
        if (other, but_for_a_conversion(variant)) in held and other != variant.dtype:
            result.add(name)
    return result


@pytest.mark.parametrize(("kernel", "target"), cases())
def test_a_kernel_compiles_within_its_budget(kernel, target, budgets):
    """In each dtype and in all its tiles."""
    exceeded = []
    jobs = ahead_of_time.binaries([target], kernel)
    assert jobs, "no call of tests/aot/launches.py launches it"
    for (variant, _), names in jobs.items():
        if target.startswith("gfx"):  # no budget
            if not spared(target).issuperset(names):
                assert ahead_of_time.weigh(variant, target)["bytes"]
            continue
        found = ahead_of_time.weigh(variant, target)
        for name in names:
            allowed = budgets[name.split(".")[0]][name.split(".")[1]][target]
            exceeded += [f"{name} on {target}: {text}" for text in over(found, allowed)]
    assert not exceeded, "\n".join(exceeded)


@pytest.mark.parametrize(("kernel", "order"), [("_gram", "LSB"), ("_fold", "LLLBSS")])
def test_a_barrier_stands_between_what_threads_store_and_load(kernel, order):
    """A tile's places may belong to other threads when it is stored than when it is loaded.

    L, S and B are the loads and stores of float64 and the barriers, in a kernel's order: for every
    chunk, and where the result is added to what the output holds. The interpreter has no threads.
    """
    variant = next(v for v in ahead_of_time.variants("sm_90a") if v.kernel == kernel)
    if kernel == "_fold":
        adds = tuple((name, name == "ADD" or value) for name, value in variant.constants)
        variant = dataclasses.replace(variant, constants=adds)
    text = ahead_of_time.compiled(variant, "sm_90a").asm["ttir"]
    found = re.findall(r"ttg.(barrier)|tt.(load|store) .*f64>>", text)
    assert "".join((a or b)[0].upper() for a, b in found) == order


def test_of_what_is_spared_another_dtype_is_compiled():
    found = spared("gfx942")
    names = {v.name for v in ahead_of_time.variants("gfx942")}
    stems = {name.split("_64x64x16")[0].split(".")[0] for name in found}
    assert stems <= {name.split(".")[0] for name in names - found}
    assert {"visit_pairs.fp16", "visit_pairs_64x64x16.bf16"} <= found
    # Other options, and no like of another dtype.
    assert not found & {"pair_weights_64x64x16_8warps.bf16", "visit_pairs.bf16", "visit_pairs.fp32"}


def test_every_kernel_has_a_budget_and_none_is_left_over(budgets, capsys):
    listed = {(k, d, t) for k, by in budgets.items() for d, ts in by.items() for t in ts}
    held = {
        (*variant.name.split("."), target)
        for target in ahead_of_time.TARGETS
        if not target.startswith("gfx")
        for variant in ahead_of_time.variants(target)
    }
    assert held == listed, f"not in budgets: {held - listed}; left over: {listed - held}"
    compiled = len(ahead_of_time.binaries(list(ahead_of_time.TARGETS)))
    with capsys.disabled():
        print(f"\nTriton ahead of time: {len(held)} budgets; --all compiles {compiled} binaries")


def test_a_budget_that_is_exceeded_gives_both_numbers():
    found = {"registers": 130, "spills": 2, "HGMMA": 0}
    allowed = {"registers": 128, "spills": 0, "least_HGMMA": 1}
    assert over(found, allowed) == [
        "registers is 130, at most 128 allowed",
        "spills is 2, at most 0 allowed",
        "HGMMA is 0, at least 1 wanted",
    ]
    assert over({"registers": 128, "spills": 0, "HGMMA": 4}, allowed) == []


def test_every_kernel_is_launched():
    defined = set()
    for module in pkgutil.iter_modules(ncfast.kernels.__path__, "ncfast.kernels."):
        if module.name.endswith(".interpreter"):
            continue
        for name, value in inspect.getmembers(importlib.import_module(module.name)):
            entry = isinstance(value, triton.runtime.JITFunction) and name.startswith("_")
            # A kernel stores; what only returns a value is a part of kernels.
            if entry and "tl.store" in inspect.getsource(value.fn):
                defined.add(value.fn.__name__)
    assert kernels() >= defined
    assert len(defined) >= 4
    assert sum(not case.marks for case in cases()) >= 5

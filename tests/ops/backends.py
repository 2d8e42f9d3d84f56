"""Which backends the tests of an op run on, and what differs between them.

A test that takes ``backend`` runs on every backend of the dispatch table: here on those that work
on CPU tensors, in ``tests/kernels`` on Triton's interpreter, in ``tests/gpu`` on a GPU.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

import ncfast.functional as F
from ncfast import check_device_errors, dispatch
from ncfast.cli.doctor import sample_arguments

from .files import files_of

# Registered for CPU tensors, but only in a process that interprets Triton (tests/kernels).
INTERPRETER = "triton-interpret"
IN_FLOAT64 = ("cpu", "reference")  # kernels of GPUs keep sums in float32, and reject float64
ON_A_GPU = ("cuda", "triton")
ONLY_THE_ROW = (INTERPRETER, "triton")  # Triton's errors name the row, not the column or the value


def backends(device: str = "cpu") -> list[str]:
    """Return the backends of the dispatch table that have kernels for tensors of a device type."""
    found = dispatch.explain("class_moments", *sample_arguments("class_moments", "cpu"))
    there = [v.backend for v in found if v.available]
    on_cpu = [b for b in there if b not in ON_A_GPU]
    return [b for b in there if b in ON_A_GPU] if device == "cuda" else on_cpu


OPS = [op for op in dispatch.ops() if not op.endswith("_backward")]
EVERY = [b for b in backends() if b != INTERPRETER]


def in_float64(test: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a test whose features are float64: it runs on the backends that take them."""
    test.in_float64 = True
    return test


def exists(test: Callable[..., Any], values: dict[str, Any]) -> bool:
    """Return whether a test makes sense with its parameters: see :func:`keep_what_exists`."""
    backend = values.get("backend", "cpu")
    wide = values.get("dtype") == torch.float64 or getattr(test, "in_float64", False)
    many = values.get("n", 0) > 2000 or values.get("batch") == 37
    return not (wide and backend not in IN_FLOAT64) and not (many and backend == INTERPRETER)


def keep_what_exists(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests in float64 on backends that reject it; that they do is tested once.

    To interpret thousands of tokens takes half a minute, and takes no path that hundreds do not.
    """
    kept, left_out = [], []
    for item in items:
        found = getattr(item, "callspec", None)
        there = found is None or exists(item.function, found.params)
        (kept if there else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def said(backend: str, message: str) -> str:
    """Return what a backend says of bad data, from the pattern of the whole sentence.

    >>> said("cpu", r"x\\[5, 2\\] is nan"), said("triton", r"x\\[5, 2\\] is nan; expected")
    ('x\\\\[5, 2\\\\] is nan', 'x\\\\[5\\\\]')
    """
    if backend not in ONLY_THE_ROW:
        return message
    return re.sub(r"^((?:\w+: )?\w+\\\[[^],]*?)(, .*|\\\].*)$", r"\1\\]", message)


def tests_in(*modules: str) -> dict[str, Callable[..., Any]]:
    """Return the functions of test modules, where they exist, that ask for a backend, by name."""
    result = {}
    for name in modules:
        if importlib.util.find_spec(name) is None:
            continue
        for key, value in vars(importlib.import_module(name)).items():
            if not key.startswith("test_") or not inspect.isfunction(value):
                continue
            if "backend" in inspect.signature(value).parameters:
                assert result.setdefault(key, value) is value, f"{name}.{key} hides another file's"
    return result


def by_hand(ops: Iterable[str]) -> dict[str, type]:
    """Return classes of tests that ask for a backend, for another folder.

    One per op holds those of ``tests/ops/test_OP*.py``, one those of values at float32's ends, one
    those of how rows lie in memory.
    """
    tests = {
        "".join(part.title() for part in op.split("_")): tests_in(
            *(f"tests.ops.{path.stem}" for path in files_of(op))
        )
        for op in ops
    }
    tests["Extremes"] = tests_in("tests.losses.test_extremes")
    tests["Layouts"] = tests_in("tests.ops.test_layouts")
    made = {}
    for what, found in tests.items():
        name = f"Test{what}ByHand"
        members: dict[str, Any] = {k: staticmethod(f) for k, f in found.items()}
        made[name] = type(name, (), {"__doc__": f"The tests of {what}.", **members})
    return made


def carried(op: str, move: Callable[[Any, str], Any], device: str) -> Callable[..., Any]:
    """Return an op's public function on a device: arguments go there, results come back.

    Errors that a kernel leaves for later are raised at once, and what was updated in place comes
    back whether or not there was one.
    """
    function = F.function_of(op)

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        there = [move(a, device) for a in args]
        options = {name: move(a, device) for name, a in options.items()}
        try:
            out = function(*there, **options)
            check_device_errors()
        finally:
            if op.endswith("_"):
                for here, other in zip(args[:4], there[:4], strict=True):
                    if isinstance(here, Tensor) and here is not other:
                        here.copy_(other)
        if isinstance(out, tuple):
            return tuple(move(t, "cpu") for t in out)
        return move(out, "cpu")

    return call


def carry(monkeypatch: pytest.MonkeyPatch, move: Callable[[Any, str], Any], device: str) -> None:
    """Let every public function work on a device, for one test."""
    for op in OPS:
        monkeypatch.setattr(F, F.function_of(op).__name__, carried(op, move, device))

"""The kernels that are registered: each accepts or says why not, and an op is one native call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import ncfast.functional as F
from ncfast import BackendError, dispatch, explain, use_backend
from ncfast.testing import sample_inputs, tiny_tokens
from tests.test_dispatch import D, N, V, clean  # noqa: F401, for every test here

PUBLIC = [op for op in dispatch.ops() if not op.endswith("_backward")]


class Inside(TorchDispatchMode):
    """Look inside every ``ncfast`` op: its arguments, the native calls, and the tensors born."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[tuple[str, tuple[Any, ...]]] = []
        self.native: list[str] = []
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._opname
        if func.namespace == "ncfast":
            self.ops.append((name, args))
            with self:
                return dispatch.call(name, *args)
        result = func(*args, **(kwargs or {}))
        if func.namespace == "ncfast_native":
            self.native.append(name)
        given = {a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)}
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in given:
                self.largest = max(self.largest, tensor.numel())
        return result


def run_with_gradients(op: str, args: tuple[Any, ...]) -> Inside:
    """Call a public function, and backward where it has one, looking inside."""
    inside = Inside()
    leaves = [
        a.detach().requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() else a
        for a in args
    ]
    if op.endswith("_"):
        leaves = list(args)
    with inside:
        out = F.function_of(op)(*leaves)
        out = out if isinstance(out, tuple) else (out,)
        total = [t.sum() for t in out if isinstance(t, Tensor) and t.requires_grad]
        if total:
            torch.stack([t.double() for t in total]).sum().backward()
    return inside


def raw_calls(op: str) -> list[tuple[str, tuple[Any, ...]]]:
    """Return the raw arguments of an op and of its backward, as dispatch sees them."""
    args = tuple(a.clone() if isinstance(a, Tensor) else a for a in sample_inputs(op)[0].args)
    calls = run_with_gradients(op, args).ops
    return [call for call in calls if call[0] in (op, f"{op}_backward")]


def test_every_op_has_samples_and_a_function():
    for op in PUBLIC:
        assert sample_inputs(op)
        assert callable(F.function_of(op))


@pytest.mark.parametrize("op", PUBLIC)
def test_every_row_accepts_and_refuses(op):
    for name, args in raw_calls(op):
        rows = dispatch._table[name]
        assert {"cpu", "reference"} <= set(rows)
        for backend, row in rows.items():
            if backend in ("cpu", "reference"):
                assert dispatch._reason(row, args) == "", f"{name} on {backend}"
            elsewhere = [a.to("meta") if isinstance(a, Tensor) else a for a in args]
            assert "meta" in dispatch._reason(row, tuple(elsewhere))
        # What the kernels would misread is refused by dtype and by shape.
        for i, argument in enumerate(args):
            if not isinstance(argument, Tensor):
                continue
            wrong = (*args[:i], argument.to(torch.complex64), *args[i + 1 :])
            assert "complex64" in dispatch._reason(rows["cpu"], wrong), f"{name}: argument {i}"


@pytest.mark.parametrize("op", PUBLIC)
def test_a_row_reads_no_values(op):
    for name, args in raw_calls(op):
        with FakeTensorMode() as mode:
            fake = [mode.from_tensor(a) if isinstance(a, Tensor) else a for a in args]
            assert explain(name, *fake).chosen == "cpu"


@pytest.mark.parametrize("op", PUBLIC)
def test_one_op_is_one_native_call(op):
    inside = run_with_gradients(op, large(op))
    assert op in inside.native
    assert inside.native == [name for name, _ in inside.ops]
    assert inside.largest < N * 512
    assert inside.largest > 0 or op.endswith("_")  # what is updated in place is all there is


def large(op: str) -> tuple[Any, ...]:
    """Return arguments of N tokens or V classes, whose D is far below 512."""
    x, y = tiny_tokens(N, D, V)
    points = tiny_tokens(V, D, V, seed=1)[0]
    state = (
        torch.zeros(V, dtype=torch.int64),
        torch.zeros(V, D),
        torch.zeros(V).double(),
        torch.zeros(D, D).double(),
    )
    known = {
        "class_moments": (x, y, V),
        "accumulate_class_moments_": (*state, x, y),
        "within_class_scatter": (x, y, points),
        "between_class_scatter": (points,),
        "alignment": (points, points.flip(0)),
        "pair_stats": (points, points[:, 0].square()),
        "linear_argmax": (x, points),
        "nearest_center": (x, points),
    }
    return known.get(op) or sample_inputs(op)[0].args


@pytest.mark.parametrize("op", PUBLIC)
def test_triton_rows_say_why_they_do_not_serve(op):
    for name, args in raw_calls(op):
        reasons = {v.backend: v.reason for v in explain(name, *args)}
        assert reasons["triton"] == "serves cuda tensors, not cpu"
        assert "triton is not installed" in reasons["triton-interpret"] or (
            "TRITON_INTERPRET=1 was not set when ncfast was imported" in reasons["triton-interpret"]
        )
        with use_backend("triton-interpret"), pytest.raises(BackendError, match="cannot serve"):
            dispatch.call(name, *args)

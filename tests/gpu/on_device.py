"""Carries an op's contract to a device: everything is compared where it was, on the CPU."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ncfast import check_device_errors, dispatch, use_backend
from ncfast.cli.doctor import sample_arguments
from ncfast.testing import Sample, poison, sample_inputs
from tests.ops.contract import REGISTRATION_SAMPLES, GpuKernels, OpContract

# cpu rehearses the same tests where there is no GPU: by the interpreter and the emulator.
DEVICE = os.environ.get("NCFAST_TEST_DEVICE", "cuda")
# What could not be built is said once, by benchmarks.gpu, and not by every test.
WITHOUT = os.environ.get("NCFAST_GPU_WITHOUT", "").split()
EVERY = {"cuda": ("triton", "cuda"), "cpu": ("triton-interpret", "cuda-host")}[DEVICE]
BACKENDS = tuple(os.environ.get("NCFAST_TEST_BACKENDS", "").split()) or tuple(
    backend for backend in EVERY if backend not in WITHOUT
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def kernels(op: str) -> list[str]:
    """Return the GPU backends of the dispatch table that hold kernels of an op."""
    if op not in dispatch.ops():
        return []
    verdicts = dispatch.explain(op, *sample_arguments(op, DEVICE))
    # A row for a kernel that is not written yet says so, and nothing else is left out.
    missing = f"has no {op}"
    return [v.backend for v in verdicts if v.backend in BACKENDS and _there(v, missing)]


def _there(verdict: Any, missing: str) -> bool:
    return verdict.available and missing not in verdict.reason


def contract_of(op: str) -> type[OpContract]:
    """Return the contract that an op's own test file writes down."""
    module = importlib.import_module(f"tests.ops.test_{op}")
    found = [c for c in vars(module).values() if getattr(c, "op", None) == op]
    assert len(found) == 1, f"tests/ops/test_{op}.py: expected one class with op = {op!r}"
    return found[0]


def relaid(tensor: Tensor, device: str, copy: bool = False) -> Tensor:
    """Copy a tensor to a device with its strides and its offset: layouts are part of a sample.

    What is there already is returned as it is, unless it has to be a ``copy``.
    """
    if tensor.device.type == device and not copy:
        return tensor
    storage = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    storage.set_(tensor.untyped_storage())
    moved = storage.to(device, copy=True)
    return moved.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


class Moved(torch.autograd.Function):
    """Copy to a device, and the gradient back, layouts kept."""

    @staticmethod
    def forward(ctx, tensor, device):
        """Copy there."""
        ctx.origin = tensor.device.type
        return relaid(tensor.detach(), device, copy=True)

    @staticmethod
    def backward(ctx, grad):
        """Copy back."""
        return relaid(grad, ctx.origin, copy=True), None


def moved(value: Any, device: str) -> Any:
    """Return a tensor on a device, anything else as it is."""
    if not isinstance(value, Tensor) or value.device.type == device:
        return value
    return Moved.apply(value, device) if value.requires_grad else relaid(value, device)


def copied(value: Any, device: str) -> Any:
    """Return a copy of a tensor, anything else as it is: a journey to a device that is not there.

    A test that relies on memory which the op and its caller share fails with it, as on a GPU.
    """
    if not isinstance(value, Tensor):
        return value
    return Moved.apply(value, device) if value.requires_grad else relaid(value, device, copy=True)


class OnDevice(GpuKernels):
    """Tests of one op's kernels on a device."""

    test_only_the_gradients_asked_for = None

    @classmethod
    def call(cls, *args: Any, function: Callable[..., Any] | None = None) -> tuple[Tensor, ...]:
        """Call the public function on the device and bring back what it returns."""
        out = super().call(*(moved(a, DEVICE) for a in args), function=function)
        return tuple(moved(o, "cpu") for o in out)

    def test_opcheck(self, backend: str) -> None:
        if self.differentiable and backend not in kernels(f"{self.op}_backward"):
            pytest.skip(f"{backend} has no {self.op}_backward")
        with use_backend(backend):
            for sample in sample_inputs(self.op):
                if sample.name in REGISTRATION_SAMPLES:
                    self.check_registration(sample, full=False)

    def results(self, sample: Sample, backend: str) -> list[Tensor]:
        """Return the outputs of an op, and the gradients where the backend has them."""
        gradients = self.differentiable and backend in kernels(f"{self.op}_backward")
        leaves = self.leaves(sample.args) if gradients else list(sample.args)
        with use_backend(backend):
            out = list(self.call(*leaves))
            upstream = self.upstream(out)
            return out + (list(self.gradients(leaves, out, upstream).values()) if upstream else [])

    def test_same_bits_on_repeat(self, backend: str) -> None:
        for sample in sample_inputs(self.op, torch.bfloat16):
            if sample.name in ("primes", "long-class", "index-shuffled", "width-129"):
                first, second = (self.results(sample, backend) for _ in range(2))
                for a, b in zip(first, second, strict=True):
                    assert torch.equal(a, b), sample

    def test_any_forward_with_any_backward(self, backward_backend: str) -> None:
        args = sample_inputs(self.op)[0].args
        for ahead, back in ((backward_backend, "reference"), ("reference", backward_backend)):
            leaves = self.leaves(args)
            with use_backend(ahead):
                out = self.call(*leaves)
            upstream = self.upstream(out)
            with use_backend(back), dispatch.trace() as calls, poison():
                grads = self.gradients(leaves, out, upstream)
            assert {c.backend for c in calls} == {back}
            self.assert_gradients(args, grads, upstream)

    def test_refuses_float64(self, backend: str) -> None:
        args = sample_inputs(self.op, torch.float64)[0].args
        with use_backend(backend), pytest.raises(Exception, match="keep sums in float32"):
            self.call(*args)


@pytest.fixture(autouse=True)
def nothing_bad_is_left():
    """Fail the test whose kernels complained of good data."""
    yield
    check_device_errors()

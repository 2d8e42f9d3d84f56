"""What the contract of an op holds beyond ``tests/ops`` for Triton kernels in the interpreter."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ncfast.functional as F
from ncfast import DataError, check_device_errors, use_backend
from ncfast.kernels import launching
from ncfast.kernels.interpreted_programs import watched
from ncfast.testing import Sample, sample_inputs
from tests.ops.contract import REGISTRATION_SAMPLES, GpuKernels

BACKEND = "triton-interpret"
# What would make the host wait for a GPU, or move data to it.
WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique", "item")


class NoWaiting(TorchDispatchMode):
    """Refuse every torch call inside a launch function that waits for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.partition(".")[0]
        assert not any(name.startswith(word) for word in WAITS), f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


class _Chosen:
    """Launch a kernel in one configuration, as an autotuner that has found it the fastest."""

    def __init__(self, kernel, configuration) -> None:
        self.kernel, self.configuration = kernel, configuration

    def __getitem__(self, grid):
        programs = grid(self.configuration.tiles)
        return lambda *args, **constants: launching.run(
            self.kernel, programs, self.configuration, args, constants
        )


class Interpreted(GpuKernels):
    """Tests of one op's kernels beyond its contract."""

    pairs: ClassVar = ((BACKEND, "reference"), ("reference", BACKEND), (BACKEND, "cpu"))
    registered_with: ClassVar = REGISTRATION_SAMPLES

    def test_opcheck(self) -> None:
        with use_backend(BACKEND):
            for sample in sample_inputs(self.op):
                if sample.name in self.registered_with:
                    self.check_registration(sample, full=False)

    def results(self, sample: Sample) -> list[torch.Tensor]:
        leaves = self.leaves(sample.args)
        with use_backend(BACKEND):
            out = list(self.call(*leaves))
            upstream = self.upstream(out)
            return out + (list(self.gradients(leaves, out, upstream).values()) if upstream else [])

    def test_same_bits_on_repeat(self) -> None:
        for sample in sample_inputs(self.op, torch.bfloat16):
            if sample.name in ("primes", "long-class"):
                for a, b in zip(self.results(sample), self.results(sample), strict=True):
                    assert torch.equal(a, b), sample

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_no_programs_race_and_any_order_gives_the_same_bits(self, dtype) -> None:
        names = ("primes", "primes-scatter", "index-shuffled")
        if self.op == "pair_stats":  # seconds for each call
            names = ("histogram",) if dtype == torch.float32 else ()
        for sample in sample_inputs(self.op, dtype):
            if sample.name not in names:
                continue
            with watched():
                first = self.results(sample)
            for order in ("reverse", "shuffled"):
                with watched(order):
                    for a, b in zip(first, self.results(sample), strict=True):
                        assert torch.equal(a, b), f"{sample}: other bits in {order} order"

    @pytest.mark.parametrize("choice", [1, 2])
    def test_every_configuration_keeps_the_error_rule(self, choice, monkeypatch) -> None:
        def tuned(kernel, configurations, key):
            chosen = configurations[min(choice, len(configurations) - 1)]
            return _Chosen(kernel, chosen)

        monkeypatch.setattr(launching, "_tuned", tuned)
        for dtype in (torch.float32, torch.bfloat16):
            with launching.tuning():
                self.test_agreement(BACKEND, sample_inputs(self.op, dtype)[0])
                if hasattr(self, "test_gradient_agreement"):
                    self.test_gradient_agreement(BACKEND, sample_inputs(self.op, dtype)[0])

    def test_never_waits_for_the_device(self) -> None:
        for sample in sample_inputs(self.op):
            if sample.name in ("primes", "primes-scatter", "index-shuffled", "all-ignored"):
                with NoWaiting():
                    self.results(sample)

    def test_refuses_float64(self) -> None:
        args = sample_inputs(self.op, torch.float64)[0].args
        with use_backend(BACKEND), pytest.raises(Exception, match="keep sums in float32"):
            self.call(*args)


def found_later(message: str, op: str, *args, **options) -> None:
    """Require that an op says nothing of bad data, and the next check says it once."""
    with use_backend(BACKEND):
        F.function_of(op)(*args, **options)
    with pytest.raises(DataError, match=f"{op}: {message}"):
        check_device_errors()
    check_device_errors()


BAD_TOKENS = [
    (lambda x, y: y[3:].fill_(7), r"y\[3\] is out of range"),
    (lambda x, y: y[4:].fill_(-1), r"y\[4\] is out of range"),
    (lambda x, y: y[9].fill_(2**40), r"y\[9\] is out of range"),
    (lambda x, y: x[5, 2].fill_(float("nan")), r"x\[5\] holds a NaN or Inf"),
    (lambda x, y: x[7:, 12].fill_(float("inf")), r"x\[7\] holds a NaN or Inf"),
]
BAD_INDEX = [
    ([0, 2, 0], r"index\[2\] names a row for the second time"),
    ([0, 3], r"index\[1\] is out of range"),
    ([1, -1], r"index\[1\] is out of range"),
]

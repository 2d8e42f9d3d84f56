"""The contract of every op, on its Triton kernels, in the interpreter.

``test_interpreted.py`` runs each class in a process of its own, with TRITON_INTERPRET=1: a kernel
that reads out of bounds ends that process, and fails that test. To see one by itself:

    TRITON_INTERPRET=1 pytest tests/kernels/interpreted.py::TestClassMoments
"""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ncfast.functional as F
from ncfast import DataError, check_device_errors, use_backend
from ncfast.dispatch import trace
from ncfast.testing import Sample, poison, sample_inputs, tiny_tokens
from tests.ops import test_class_moments
from tests.ops.contract import REGISTRATION_SAMPLES

BACKEND = "triton-interpret"
# What would make the host wait for a GPU, or move data to it.
WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique", "item")


class NoWaiting(TorchDispatchMode):
    """Refuse every torch call inside a launch function that waits for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.partition(".")[0]
        assert not any(name.startswith(word) for word in WAITS), f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


class Interpreted:
    """Tests of one op's kernels beyond its contract; what kernels have no part in is left out."""

    # The C++ kernels' own: threads, and float64, which the Triton kernels refuse.
    test_same_bits_at_any_thread_count = None
    test_gradcheck = None
    # Autograd and registration sit above dispatch: tests/ops has tested them.
    test_the_baseline_can_tell = None
    test_compiles_once_for_every_size = None
    test_compiles_with_inductor = None
    test_no_second_derivative = None

    pairs: ClassVar = ((BACKEND, "reference"), ("reference", BACKEND), (BACKEND, "cpu"))

    def test_opcheck(self) -> None:
        with use_backend(BACKEND):
            for sample in sample_inputs(self.op):
                if sample.name in REGISTRATION_SAMPLES:
                    self.check_registration(sample, full=False)

    def results(self, sample: Sample) -> list[torch.Tensor]:
        leaves = self.leaves(sample.args)
        with use_backend(BACKEND):
            out = list(self.call(*leaves))
            upstream = self.upstream(out)
            return out + (list(self.gradients(leaves, out, upstream).values()) if upstream else [])

    def test_same_bits_on_repeat(self) -> None:
        for sample in sample_inputs(self.op, torch.bfloat16):
            if sample.name.startswith(("primes", "long-class", "index")):
                for a, b in zip(self.results(sample), self.results(sample), strict=True):
                    assert torch.equal(a, b), sample

    def test_never_waits_for_the_device(self) -> None:
        for sample in sample_inputs(self.op):
            if sample.name in ("primes", "primes-scatter", "index-shuffled", "all-ignored"):
                with NoWaiting():
                    self.results(sample)

    def test_any_forward_with_any_backward(self) -> None:
        args = sample_inputs(self.op)[0].args
        for ahead, back in self.pairs if self.differentiable else ():
            leaves = self.leaves(args)
            with use_backend(ahead):
                out = self.call(*leaves)
            upstream = self.upstream(out)
            with use_backend(back), trace() as calls, poison():
                grads = self.gradients(leaves, out, upstream)
            assert {c.backend for c in calls} == {back}
            self.assert_gradients(args, grads, upstream)

    def test_refuses_float64(self) -> None:
        args = sample_inputs(self.op, torch.float64)[0].args
        with use_backend(BACKEND), pytest.raises(Exception, match="keep sums in float32"):
            self.call(*args)


class TestClassMoments(Interpreted, test_class_moments.TestClassMoments):
    """class_moments and its backward."""

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda x, y: y[3:].fill_(7), r"class_moments: y\[3\] is out of range"),
            (lambda x, y: y[4:].fill_(-1), r"class_moments: y\[4\] is out of range"),
            (lambda x, y: y[9].fill_(2**40), r"class_moments: y\[9\] is out of range"),
            (lambda x, y: x[5, 2].fill_(float("nan")), r"class_moments: x\[5\] holds a NaN or Inf"),
            (lambda x, y: x[7:, 12].fill_(float("inf")), r"class_moments: x\[7\] holds a NaN"),
        ],
    )
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_bad_data_is_found_later(self, dtype, change, message) -> None:
        x, y = tiny_tokens(61, 13, 7, dtype)
        change(x, y)
        with use_backend(BACKEND):
            F.class_moments(x, y, 7)
        with pytest.raises(DataError, match=message):
            check_device_errors()
        check_device_errors()  # said once

    def test_identical_rows_have_no_spread(self) -> None:
        for value, n in ((0.1, 513), (1e-40, 31), (3.3e38, 33), (-3.3e38, 1087)):
            x = torch.full((n, 9), value)
            with use_backend(BACKEND):
                _, means, m2 = F.class_moments(x, torch.zeros(n, dtype=torch.int64), 1)
            assert m2.tolist() == [0.0]
            assert torch.equal(means[0], x[0])

    def test_spread_far_from_the_origin(self) -> None:
        x, y, exact = test_class_moments.far_from_origin(1501, 64, 11)
        with use_backend(BACKEND):
            m2 = F.class_moments(x, y, 11)[2]
        assert abs(float(m2.double().sum()) - exact) <= 1e-6 * exact

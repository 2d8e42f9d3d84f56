"""What every op promises, tested once for all of them.

A test file derives ``class TestOp(OpContract)``, names the op, and writes it down in plain
differentiable torch; ``conftest.py`` hands every test a backend, a dtype and a sample.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import ncfast.functional as F
from ncfast.dispatch import trace, use_backend
from ncfast.testing import Sample, assert_matches, poison, rounding_floor, sample_inputs

BACKENDS = ("cpu", "reference")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# The checks of a whole registration take a second each: these samples cover every argument.
REGISTRATION_SAMPLES = (
    "primes",
    "primes-scatter",
    "primes-weighted",
    "index-shuffled",
    "no-tokens",
)
# Of GPU kernels float16 differs from bfloat16 in a conversion at every load and store, and in what
# it can hold: these samples have every kind of load, and values at both ends.
IN_FLOAT16 = {
    *("primes", "primes-scatter", "primes-weighted", "ignored-nan", "long-class", "zero-rows"),
    *("transposed", "transposed-scatter", "sliced", "expanded-columns", "width-1", "width-129"),
    *("packed", "width-136", "width-136-scatter", "index-shuffled", "index-strided"),
    *("histogram", "head-float32", "extreme", "stored-softcap", "smoothed", "shard"),
}


class Recorder(TorchDispatchMode):
    """Keep the arguments of every ``ncfast`` op called inside, below autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "ncfast":
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Use a number of threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class OpContract:
    """Tests of one op; see the module."""

    op: ClassVar[str]
    outputs: ClassVar[tuple[str, ...]]
    differentiable: ClassVar[tuple[int, ...]] = ()  # positions of arguments that get gradients
    deciding: ClassVar[tuple[int, ...]] = (0,)  # positions of arguments that may ask for float64
    quick_gradcheck: ClassVar[tuple[str, ...]] = ()  # backends checked along random directions
    pairs: ClassVar[tuple[tuple[str, str], ...]] = (BACKENDS, BACKENDS[::-1])  # ahead, and back
    updated: ClassVar[int] = 0  # how many leading arguments the op updates in place

    @staticmethod
    def plain(dtype: torch.dtype, *args: Any) -> tuple[Tensor, ...]:
        """Compute the outputs in plain torch, sums in ``dtype``."""
        raise NotImplementedError

    @staticmethod
    def sized(n: int) -> tuple[Any, ...]:
        """Return float32 arguments whose first size (tokens, or classes visited) is n."""
        raise NotImplementedError

    # -- what the tests share

    @classmethod
    def call(cls, *args: Any, function: Callable[..., Any] | None = None) -> tuple[Tensor, ...]:
        """Call the public function; what it updates in place is copied first and returned."""
        function = function or F.function_of(cls.op)
        if not cls.updated:
            result = function(*args)
            return result if isinstance(result, tuple) else (result,)
        states = tuple(None if s is None else s.clone() for s in args[: cls.updated])
        assert function(*states, *args[cls.updated :]) is None
        return tuple(s for s in states if s is not None)

    @classmethod
    def accumulation(cls, args: Sequence[Any]) -> torch.dtype:
        wide = any(args[i].dtype == torch.float64 for i in cls.deciding)
        return torch.float64 if wide else torch.float32

    @classmethod
    def leaves(cls, args: Sequence[Any], wanted: Sequence[int] | None = None) -> list[Any]:
        """Return the arguments, those that take gradients as leaves that ask for them."""
        result = list(args)
        for i in cls.differentiable if wanted is None else wanted:
            if isinstance(result[i], Tensor):
                result[i] = result[i].detach().requires_grad_()
        return result

    @classmethod
    def gradients(
        cls, leaves: list[Any], out: Sequence[Tensor], upstream: dict[int, Tensor]
    ) -> dict[int, Tensor]:
        """Return the gradient of every leaf from upstream gradients of some outputs."""
        where = [i for i in cls.differentiable if isinstance(leaves[i], Tensor)]
        where = [i for i in where if leaves[i].requires_grad]
        grads = torch.autograd.grad(
            [out[k] for k in upstream],
            [leaves[i] for i in where],
            [g.to(out[k].dtype) for k, g in upstream.items()],
            materialize_grads=True,  # one output alone may not depend on every leaf
        )
        return dict(zip(where, grads, strict=True))

    @classmethod
    def gradient_scale(
        cls, args: Sequence[Any], upstream: dict[int, Tensor], position: int
    ) -> float | None:
        """Return what the terms of a gradient reach where they cancel, or None where none do."""
        return None

    @classmethod
    def output_scale(cls, args: Sequence[Any], name: str) -> float | None:
        """Return what the terms of an output reach where they cancel, or None where none do."""
        return None

    @staticmethod
    def upstream(out: Sequence[Tensor], layout: str = "") -> dict[int, Tensor]:
        """Return a random gradient for every output that has one."""
        generator = torch.Generator().manual_seed(11)
        result = {}
        for k, value in enumerate(out):
            if not value.requires_grad:
                continue
            drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            drawn = drawn.to(value.dtype)
            if layout == "expanded":
                drawn = torch.full((), 0.7, dtype=value.dtype).expand(value.shape)
            elif layout == "transposed":
                drawn = (
                    drawn.T.contiguous().T if drawn.ndim == 2 else drawn.repeat_interleave(2)[::2]
                )
            result[k] = drawn
        return result

    # -- T1: every backend, dtype and sample

    def test_agreement(self, backend: str, sample: Sample) -> None:
        with use_backend(backend), poison(), trace() as calls:
            out = self.call(*sample.args)
        assert {c.backend for c in calls} == {backend}
        self.assert_outputs(sample.args, out)

    def assert_outputs(self, args: Sequence[Any], out: Sequence[Tensor]) -> None:
        """Compare outputs with the plain definition's, in two precisions."""
        dtype = self.accumulation(args)
        truth, baseline = self.plain(torch.float64, *args), self.plain(dtype, *args)
        assert len(out) == len(truth)
        for name, found, exact, plain in zip(self.outputs, out, truth, baseline, strict=False):
            floor = rounding_floor(exact, dtype, found.dtype, self.output_scale(args, name))
            assert_matches(found, exact, plain, floor=floor, name=name)

    def test_the_baseline_can_tell(self) -> None:
        """Twice the error of plain torch must be a small error, or the rule allows anything."""
        told = 0
        for sample in sample_inputs(self.op, torch.float32):
            truth = self.plain(torch.float64, *sample.args)
            baseline = self.plain(torch.float32, *sample.args)
            for exact, plain in zip(truth, baseline, strict=True):
                if exact.numel():
                    error = (plain.double() - exact.double()).abs().max()
                    assert error <= 1e-5 * exact.abs().max(), sample
                    told += 1
        assert told > 10

    # -- determinism

    def test_same_bits_at_any_thread_count(self) -> None:
        for dtype in (torch.float32, torch.bfloat16):
            for sample in sample_inputs(self.op, dtype):
                results = []
                for count in (1, 2, 3, 2):
                    with threads(count), use_backend("cpu"):
                        leaves = self.leaves(sample.args)
                        out = list(self.call(*leaves))
                        upstream = self.upstream(out)
                        if upstream:
                            out += self.gradients(leaves, out, upstream).values()
                    results.append(out)
                for other in results[1:]:
                    for a, b in zip(results[0], other, strict=True):
                        assert torch.equal(a, b), f"{sample}: other bits"

    # -- T3: registration

    def test_opcheck(self, backend: str) -> None:
        with use_backend(backend):
            for sample in sample_inputs(self.op):
                self.check_registration(sample, full=sample.name in REGISTRATION_SAMPLES)

    def check_registration(self, sample: Sample, full: bool) -> None:
        """Run torch's own checks on the op and its backward op, with a sample's raw arguments."""
        tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
        with Recorder() as recorder:
            leaves = self.leaves(sample.args)
            out = self.call(*leaves)
            upstream = self.upstream(out)
            if upstream:
                self.gradients(leaves, out, upstream)
        mine = (self.op, f"{self.op}_backward")
        seen = [(func, args) for func, args in recorder.calls if func._opname in mine]
        assert len(seen) == (2 if upstream else 1)
        for func, args in seen:
            raw = [a.detach() if isinstance(a, Tensor) else a for a in args]
            raw[: self.updated] = [s if s is None else s.clone() for s in raw[: self.updated]]
            forward = func._opname == self.op
            torch.library.opcheck(
                func, tuple(self.leaves(raw) if forward else raw), test_utils=tests
            )
            if full:
                # torch's check adds outputs up in the first one's dtype: integers cannot take it.
                sums = forward and out[0].is_floating_point() and not self.updated
                torch.library.opcheck(
                    func,
                    tuple(self.leaves(raw) if sums else raw),
                    test_utils="test_aot_dispatch_dynamic",
                )

    def compiled_equals_eager(self, compiled: Callable[..., Any], n: int) -> None:
        args = self.sized(n)
        results = []
        for function in (None, compiled):
            leaves = self.leaves(args)
            out = list(self.call(*leaves, function=function))
            upstream = self.upstream(out)
            if upstream:
                out += self.gradients(leaves, out, upstream).values()
            results.append(out)
        for a, b in zip(*results, strict=True):
            assert torch.equal(a, b)

    def test_compiles_once_for_every_size(self) -> None:
        torch._dynamo.reset()
        function = F.function_of(self.op)
        compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
        self.compiled_equals_eager(compiled, 61)
        with torch._dynamo.config.patch(error_on_recompile=True):
            for n in (97, 131):
                self.compiled_equals_eager(compiled, n)

    def test_compiles_with_inductor(self) -> None:
        torch._dynamo.reset()
        # Or the backward pass that an earlier version traced is taken from the disk.
        with torch._functorch.config.patch(enable_autograd_cache=False):
            self.compiled_equals_eager(torch.compile(F.function_of(self.op), fullgraph=True), 61)


class GradientContract(OpContract):
    """Tests of one op that has gradients (T2)."""

    asked_of: ClassVar[tuple[str, ...]] = ("primes", "center-tensor", "index-strided")

    def assert_gradients(self, args, found: dict[int, Tensor], upstream: dict[int, Tensor]) -> None:
        """Compare gradients with autograd's through the plain definition, in two precisions."""
        dtype = self.accumulation(args)
        # A float64 copy, but not of what an expanded leaf shares: its gradient is per element.
        wide = [a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
        pairs = []
        for precision, inputs in ((torch.float64, wide), (dtype, args)):
            leaves = self.leaves(inputs)
            out = self.plain(precision, *leaves)
            pairs.append(self.gradients(leaves, out, upstream))
        for i, grad in found.items():
            assert grad.dtype == args[i].dtype
            scale = self.gradient_scale(args, upstream, i)
            assert_matches(
                grad,
                pairs[0][i],
                pairs[1][i],
                floor=rounding_floor(pairs[0][i], dtype, grad.dtype, scale),
                name=f"gradient of argument {i}",
            )

    def test_gradient_agreement(self, backend: str, gradient_sample: Sample) -> None:
        args = gradient_sample.args
        leaves = self.leaves(args)
        with use_backend(backend), poison():
            out = self.call(*leaves)
            upstream = self.upstream(out)
            found = self.gradients(leaves, out, upstream)
        self.assert_gradients(args, found, upstream)

    def test_gradcheck(self, backend: str) -> None:
        checked = 0
        for sample in sample_inputs(self.op, torch.float64):
            tensors = [sample.args[i] for i in self.differentiable]
            tensors = [t for t in tensors if isinstance(t, Tensor)]
            # Overlapping memory cannot be nudged one element at a time; zero rows have a kink.
            overlaps = any(0 in t.stride() and t.numel() for t in tensors)
            if sum(t.numel() for t in tensors) > 700 or overlaps or "zero" in sample.name:
                continue
            if not sum(t.numel() for t in tensors):
                continue
            leaves = self.leaves(sample.args)

            with use_backend(backend):
                kept = [k for k, t in enumerate(self.call(*leaves)) if t.requires_grad]

                def function(*args: Any, kept: list[int] = kept) -> tuple[Tensor, ...]:
                    out = self.call(*args)
                    return tuple(out[k] for k in kept)

                quick = backend in self.quick_gradcheck
                assert torch.autograd.gradcheck(function, leaves, fast_mode=quick), sample
            checked += 1
        assert checked >= 5

    def test_each_output_and_layout_of_upstream_gradients(self, backend: str) -> None:
        args = sample_inputs(self.op)[0].args
        leaves = self.leaves(args)
        with use_backend(backend), poison():
            for layout in ("", "expanded", "transposed"):
                upstream = self.upstream(self.call(*leaves), layout)
                for k in upstream:
                    one = {k: upstream[k]}
                    found = self.gradients(leaves, self.call(*leaves), one)
                    self.assert_gradients(args, found, one)

    def test_only_the_gradients_asked_for(self, backend: str) -> None:
        for sample in sample_inputs(self.op):
            positions = [i for i in self.differentiable if isinstance(sample.args[i], Tensor)]
            if sample.name not in self.asked_of:
                continue
            with use_backend(backend):
                every = self.leaves(sample.args)
                out = self.call(*every)
                upstream = self.upstream(out)
                full = self.gradients(every, out, upstream)
                for size in range(1, len(positions)):
                    for wanted in itertools.combinations(positions, size):
                        leaves = self.leaves(sample.args, wanted)
                        found = self.gradients(leaves, self.call(*leaves), upstream)
                        assert set(found) == set(wanted)
                        for i, grad in found.items():
                            assert torch.equal(grad, full[i]), f"{sample}: argument {i} of {wanted}"

    def test_no_second_derivative(self, backend: str) -> None:
        leaves = self.leaves(sample_inputs(self.op)[0].args)
        with use_backend(backend):
            out = self.call(*leaves)
            # A gradient that itself depends on the leaves, so that there is a second derivative.
            value = sum((t * t).sum() for t in out if t.requires_grad)
            first = torch.autograd.grad(value, leaves[self.differentiable[0]], create_graph=True)[0]
            with pytest.raises(RuntimeError, match="second derivatives are not implemented"):
                first.square().sum().backward()

    def test_any_forward_with_any_backward(self) -> None:
        args = sample_inputs(self.op)[0].args
        for ahead, back in self.pairs:
            leaves = self.leaves(args)
            with use_backend(ahead):
                out = self.call(*leaves)
            upstream = self.upstream(out)
            with use_backend(back), trace() as calls, poison():
                grads = self.gradients(leaves, out, upstream)
            assert {c.backend for c in calls} == {back}
            self.assert_gradients(args, grads, upstream)


class GpuKernels:
    """Leave out of a contract what kernels of GPUs have no part in."""

    # The C++ kernels' own: threads, and float64, which GPU kernels refuse.
    test_same_bits_at_any_thread_count = None
    test_gradcheck = None
    # Autograd and registration sit above dispatch: tests/ops has tested them.
    test_the_baseline_can_tell = None
    test_compiles_once_for_every_size = None
    test_compiles_with_inductor = None
    test_no_second_derivative = None

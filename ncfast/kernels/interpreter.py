"""Makes Triton's interpreter honest, so that kernels can be proven on a CPU.

Bare (Triton 3.8), ``TRITON_INTERPRET=1`` keeps bfloat16 as 16-bit integers and computes on those;
it truncates where a GPU rounds, computes every float32 dot in full precision, drops device asserts
and cannot serve an autotuned kernel. :func:`install` mends each of these:

1. a dot of bfloat16 operands is exact products summed in float32;
2. any other arithmetic on bfloat16 raises: a kernel converts to float32 when it loads;
3. float32 is rounded, not truncated, to bfloat16;
4. a dot with ``input_precision="tf32"`` sees 10 bits of mantissa, with ``"tf32x3"`` the three
   products of a 10-bit head and a 10-bit rest, as a tensor core does;
5. ``tl.device_assert`` raises;
6. there is a driver, so that ``triton.autotune`` can time its configurations.

It spends less on what it does again and again, too: a third of a run went into patching the
language anew for every call of one ``triton.jit`` function by another, a tenth into a table of
types that was built at every question. Shapes are checked and spelt once.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime import interpreter

__all__ = ["install"]

_builder = interpreter.InterpreterBuilder
_TF32_BITS = 13  # bits of a float32 mantissa that tf32 has not


class _Driver(DriverBase):
    """Stand in for a GPU driver: enough for autotune to time a kernel on the CPU."""

    @classmethod
    def is_active(cls) -> bool:
        return True

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_device_interface(self) -> Any:
        return torch.cpu

    def get_empty_cache_for_benchmark(self) -> torch.Tensor:
        return torch.empty(1)

    def clear_cache(self, cache: torch.Tensor) -> None:
        return None

    def get_benchmarker(self) -> Callable[..., Any]:
        def benchmark(function: Callable[[], Any], quantiles: Any = None, **_: Any) -> Any:
            begin = time.perf_counter()
            function()
            milliseconds = 1000 * (time.perf_counter() - begin)
            return [milliseconds] * len(quantiles) if quantiles else milliseconds

        return benchmark


def _float32(handle: Any) -> np.ndarray:
    if handle.dtype.scalar == tl.bfloat16:
        return (handle.data.astype(np.uint32) << 16).view(np.float32)
    return handle.data.astype(np.float32)


def _round_off(values: np.ndarray, bits: int) -> np.ndarray:
    """Round float32 to the nearest value with that many bits fewer; ties go to the even one."""
    raw = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    half = np.uint32((1 << (bits - 1)) - 1)
    rounded = (raw + half + ((raw >> bits) & 1)) & np.uint32(0xFFFFFFFF << bits & 0xFFFFFFFF)
    special = (raw & 0x7F800000) == 0x7F800000
    kept = np.where(raw & 0x007FFFFF, raw | 0x00400000, raw)  # Inf stays Inf, NaN stays NaN
    return np.where(special, kept, rounded).view(np.float32)


def _dot(self: Any, a: Any, b: Any, d: Any, input_precision: Any, imprecise: int) -> Any:
    kinds = {a.dtype.scalar, b.dtype.scalar}
    precision = str(input_precision).rpartition(".")[2]
    if tl.bfloat16 in kinds:
        left, right = _float32(a), _float32(b)
        product = np.matmul(left, right)
    elif kinds == {tl.float32} and precision in ("TF32", "TF32x3"):
        left, right = (_round_off(t.data, _TF32_BITS) for t in (a, b))
        product = np.matmul(left, right)
        if precision == "TF32x3":
            rests = [_round_off(t.data - head, _TF32_BITS) for t, head in ((a, left), (b, right))]
            product += np.matmul(rests[0], right) + np.matmul(left, rests[1])
    else:
        return _original_dot(self, a, b, d, input_precision, imprecise)
    return interpreter.TensorHandle((product + d.data).astype(d.data.dtype), d.dtype.scalar)


def _cast(self: Any, source: Any, wanted: Any) -> Any:
    have, want = source.dtype.scalar, wanted.scalar
    if have == tl.bfloat16 and want == tl.float32:
        return interpreter.TensorHandle(_float32(source), want)
    if have == tl.float32 and want == tl.bfloat16:
        bits = _round_off(source.data, 16).view(np.uint32) >> 16
        return interpreter.TensorHandle(bits.astype(np.uint16), want)
    if tl.bfloat16 in (have, want) and have != want:
        raise TypeError(f"the interpreter cannot convert {have} to {want}: go by float32")
    return _original_cast(self, source, wanted)


def _reject(what: str, *handles: Any) -> None:
    if any(
        getattr(h, "dtype", None) is not None and h.dtype.scalar == tl.bfloat16 for h in handles
    ):
        raise TypeError(
            f"{what} of bfloat16 is wrong in the interpreter: convert to float32 when loading"
        )


def _refusing(original: Callable[..., Any], what: str) -> Callable[..., Any]:
    @functools.wraps(original)
    def operation(self: Any, *args: Any, **kwargs: Any) -> Any:
        _reject(what, *args)
        return original(self, *args, **kwargs)

    return operation


def _reduction(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def apply(self: Any, values: Any) -> Any:
        _reject("a reduction", *(values if isinstance(values, tuple) else (values,)))
        return original(self, values)

    return apply


def _languages(function: Callable[..., Any]) -> frozenset[str]:
    """Return what a kernel's module knows of the two modules that Triton patches."""
    patched = (tl, tl.core)
    found = [v for v in list(function.__globals__.values()) if any(v is one for one in patched)]
    return frozenset(module.__name__ for module in found)


def _patching_once(original: Callable[..., Any]) -> Callable[..., Any]:
    """Let a launch patch the language, not again every function that its kernel calls."""
    languages = functools.cache(_languages)
    patched: set[str] = set()

    @functools.wraps(original)
    def patch(function: Callable[..., Any]) -> Any:
        wanted = languages(function)
        if wanted and wanted <= patched:
            return interpreter._LangPatchScope()  # nothing to restore
        scope = original(function)
        before = frozenset(patched)
        patched.update(wanted)
        restore = scope.restore

        def restored() -> None:
            patched.intersection_update(before)
            restore()

        scope.restore = restored
        return scope

    return patch


def _looked_up(original: Callable[[Any], np.dtype]) -> Callable[[Any], np.dtype]:
    """Return the numpy type of a Triton type from a table that is not built at every question."""
    known: dict[str, np.dtype] = {}

    @functools.wraps(original)
    def look_up(wanted: Any) -> np.dtype:
        scalar = wanted.scalar
        found = known.get(scalar.name)
        if found is None:
            found = known[scalar.name] = original(scalar)
        return found

    return look_up


def _block_of_known_shape(original: Callable[..., None]) -> Callable[..., None]:
    """Let a block type find its shape's product and text, if it had been checked before."""
    known: dict[tuple[int, ...], tuple[Any, int, str]] = {}

    @functools.wraps(original)
    def initialise(self: Any, element_ty: Any, shape: Any) -> None:
        sizes = tuple([size.value if type(size) is tl.constexpr else size for size in shape])
        found = known.get(sizes)
        kept = type(shape) in (list, tl.tuple) and all(type(size) is int for size in sizes)
        if found is None or not kept:  # what is no shape is refused
            original(self, element_ty, shape)
            known[sizes] = self.shape, self.numel, str(self.shape)
            return
        self.element_ty, (self.shape, self.numel, text) = element_ty, found
        self.name = f"<{text}, {element_ty}>"

    return initialise


def _tensor_of_known_shape(original: Callable[..., None]) -> Callable[..., None]:
    """Let a tensor share its shape with those of as many elements along each axis."""
    known: dict[tuple[int, ...], tuple[Any, Any]] = {}

    @functools.wraps(original)
    def initialise(self: Any, handle: Any, type: Any) -> None:
        sizes = tuple(type.shape.values) if type.is_block() else ()
        found = known.get(sizes)
        if found is None:
            original(self, handle, type)
            known[sizes] = self.shape, self.numel
            return
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.shape, self.numel = found

    return initialise


_original_dot = _builder.create_dot
_original_cast = _builder.cast_impl


@functools.lru_cache(maxsize=1)
def install() -> None:
    """Mend the interpreter of this process, once.

    >>> install()
    """
    _builder.create_dot = _dot
    _builder.cast_impl = _cast
    _builder.binary_op = _refusing(_builder.binary_op, "arithmetic")
    _builder.unary_op = _refusing(_builder.unary_op, "arithmetic")
    _builder.create_fma = _refusing(_builder.create_fma, "arithmetic")
    interpreter.ReduceOps.apply = _reduction(interpreter.ReduceOps.apply)
    interpreter._patch_lang = _patching_once(interpreter._patch_lang)
    tl.block_type.__init__ = _block_of_known_shape(tl.block_type.__init__)
    tl.tensor.__init__ = _tensor_of_known_shape(tl.tensor.__init__)
    interpreter._get_np_dtype = _looked_up(interpreter._get_np_dtype)
    options = interpreter.interpreter_builder.options
    interpreter.interpreter_builder.options = dataclasses.replace(options, debug=True)
    triton.runtime.driver.set_active(_Driver())

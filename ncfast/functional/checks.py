"""What the functions check before they call an op, and how they center."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.autograd import forward_ad

from ..arrays import as_ids
from ..errors import DataError
from ..ops._metadata import FLOATS
from ..reference.checks import IGNORE_INDEX, check_finite, check_labels

__all__ = [
    "FLOATS",
    "INTEGERS",
    "center_tensor",
    "check_finite",
    "check_labels",
    "class_ids",
    "class_labels",
    "finite_rows",
    "given",
    "reject_tangent",
    "require",
    "require_any_class",
    "require_classes",
    "require_index",
    "require_own_memory",
    "require_tokens",
]


# What labels may be: int64 holds all of them (uint64 it does not).
INTEGERS = (
    *(torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint8, torch.uint16, torch.uint32),
)


def finite_rows(x: Tensor) -> Tensor:
    """Return [N] bool, which rows of x [N, D] hold neither NaN nor Inf.

    Extremes tell of both, and take a fourteenth of the time of ``isfinite(x).all(1)`` (4,096 rows
    of width 384: 0.12 ms for 1.7).

    >>> finite_rows(torch.tensor([[0.0, 1.0], [torch.nan, 0.0], [-torch.inf, 0.0]])).tolist()
    [True, False, False]
    """
    return torch.isfinite(x.amax(1)) & torch.isfinite(x.amin(1))


def given(tensor: object) -> str:
    """Describe an argument for an error."""
    if not isinstance(tensor, Tensor):
        return f"a {type(tensor).__name__}"
    return f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"


def require(
    op: str,
    name: str,
    tensor: Tensor,
    shape: tuple[int | str, ...],
    dtypes: tuple[torch.dtype, ...],
    like: Tensor | None = None,
) -> None:
    """Raise unless a tensor has the shape (a letter: any size), dtype and device an op needs."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{op}: {name} is {given(tensor)}; expected {_asked(shape, dtypes, like)}")
    if hasattr(tensor, "device_mesh"):
        raise TypeError(
            f"{op}: {name} is a {type(tensor).__name__} sharded over ranks; expected a plain "
            "tensor: gather it (full_tensor), or call where it is whole"
        )
    fits = len(tensor.shape) == len(shape) and all(
        isinstance(want, str) or have == want
        for have, want in zip(tensor.shape, shape, strict=True)
    )
    # The words are put together only here: a size in a message would compile anew for every size.
    if not fits or (like is not None and tensor.device != like.device):
        raise ValueError(f"{op}: {name} is {given(tensor)}; expected {_asked(shape, dtypes, like)}")
    if tensor.dtype not in dtypes:
        raise TypeError(f"{op}: {name} is {given(tensor)}; expected {_asked(shape, dtypes, like)}")
    reject_tangent(op, name, tensor)


def reject_tangent(op: str, name: str, tensor: Tensor) -> None:
    """Raise at a tensor of forward-mode differentiation: torch's operators of Python lose what it
    carries, and its derivative would be 0 without a word.
    """
    if forward_ad._current_level < 0:
        return
    if forward_ad.unpack_dual(tensor).tangent is not None:
        raise NotImplementedError(
            f"{op}: {name} carries a forward-mode derivative (torch.func.jvp, jacfwd, hessian or "
            "forward_ad), which is not implemented; expected backward(), or torch.autograd.grad"
        )


def _asked(
    shape: tuple[int | str, ...], dtypes: tuple[torch.dtype, ...], like: Tensor | None
) -> str:
    names = "float" if dtypes == FLOATS else " or ".join(map(str, dtypes))
    return f"{names} [{', '.join(map(str, shape))}]" + (
        f" on {like.device}" if like is not None else ""
    )


def class_labels(op: str, name: str, labels: Tensor) -> Tensor:
    """Return labels as int64, or raise where they are no integers (masks, class probabilities)."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"{op}: {name} is {given(labels)}; expected a tensor of integers")
    if labels.dtype not in INTEGERS:
        kind = "class probabilities" if labels.dtype in FLOATS else "a mask"
        why = f", as {kind} are not supported" if labels.dtype in (*FLOATS, torch.bool) else ""
        raise TypeError(f"{op}: {name} is {given(labels)}; expected integer class ids{why}")
    return labels.to(torch.int64)


def class_ids(op: str, name: str, ids: object, num_classes: int) -> Tensor:
    """Return class ids as int64 [K] on the CPU, or raise where they are none, or out of range."""
    tensor = as_ids(op, name, ids, "cpu")
    if int(tensor.min()) < 0 or int(tensor.max()) >= num_classes:
        raise DataError(
            f"{op}: {name} holds ids from {int(tensor.min())} to {int(tensor.max())}; "
            f"expected ids in [0, {num_classes})"
        )
    return tensor


def require_tokens(op: str, x: Tensor, y: Tensor) -> Tensor:
    """Raise unless x [N, D] and y [N] are features and labels; return the labels as int64."""
    require(op, "x", x, ("N", "D"), FLOATS)
    y = class_labels(op, "y", y)
    require(op, "y", y, (x.shape[0],), (torch.int64,), like=x)
    return y


def require_own_memory(op: str, read: Mapping[str, Tensor], **written: Tensor | None) -> None:
    """Raise unless every element of what an op writes lies in memory of its own, apart from the
    others' and from what it reads.
    """
    for name, tensor in written.items():
        if tensor is None or tensor.is_contiguous():  # torch.compile sorts no symbols
            continue
        # With strides in ascending order, each must step over all that the smaller ones reach.
        reach = 0
        sides = zip(tensor.stride(), tensor.shape, strict=True)
        for stride, size in sorted((stride, size) for stride, size in sides if size > 1):
            if stride <= reach:
                raise ValueError(
                    f"{op}: {name} is {given(tensor)} with strides {tuple(tensor.stride())}, whose "
                    "elements share memory; expected a tensor to write to: clone() it"
                )
            reach += stride * (size - 1)

    _require_apart(op, {name: t for name, t in written.items() if t is not None}, dict(read))


def _require_apart(op: str, written: dict[str, Tensor], read: dict[str, Tensor]) -> None:
    if torch.compiler.is_compiling():
        return  # nothing has an address yet
    spans = {name: _span(tensor) for name, tensor in (written | read).items()}
    found = [(name, span) for name, span in spans.items() if span is not None]
    for (name, span), (other, its) in itertools.combinations(found, 2):
        if name in written and _overlap(span, its):
            raise ValueError(
                f"{op}: {name} and {other} share memory, and {name} is written to; expected "
                "tensors that do not overlap: clone() one"
            )


_Span = tuple[int, list[tuple[int, int]], int]  # address, bytes of strides with counts, of a number


def _span(tensor: Tensor) -> _Span | None:
    """Return where a tensor lies; None where it has no memory (fake, meta) or no element."""
    if not tensor.numel() or tensor.is_meta or isinstance(tensor, FakeTensor):
        return None
    sides = zip(tensor.stride(), tensor.shape, strict=True)
    steps = [(s * tensor.itemsize, n - 1) for s, n in sides if n > 1]
    return tensor.data_ptr(), steps, tensor.itemsize


def _overlap(one: _Span, other: _Span) -> bool:
    """Tell whether two tensors may share a byte: those beside each other in one row do not."""
    (a, a_steps, a_size), (b, b_steps, b_size) = one, other
    a_end = a + sum(s * n for s, n in a_steps) + a_size
    b_end = b + sum(s * n for s, n in b_steps) + b_size
    if a >= b_end or b >= a_end:
        return False
    row = max((s for s, _ in a_steps + b_steps), default=0)
    if not row:
        return True
    # Of each row, and both have the same, they take so many bytes.
    a_bytes = sum(s * n for s, n in a_steps if s < row) + a_size
    b_bytes = sum(s * n for s, n in b_steps if s < row) + b_size
    if a_bytes + b_bytes > row:
        return True
    between = (b - a) % row
    return between < a_bytes or row - between < b_bytes


def require_index(op: str, index: Tensor | None, like: Tensor) -> None:
    if index is not None:
        require(op, "index", index, ("K",), (torch.int64,), like=like)


def require_classes(op: str, name: str, rows: Tensor, x: Tensor, index: Tensor | None) -> None:
    require(op, "x", x, ("N", "D"), FLOATS)
    require(op, name, rows, ("V", x.shape[1]), FLOATS, like=x)
    require_index(op, index, x)
    require_any_class(op, (rows if index is None else index).shape[0])


def require_any_class(op: str, count: int) -> None:
    if count == 0:
        raise ValueError(f"{op}: there is no class to choose from; expected at least one")


def center_tensor(
    op: str, points: Tensor, center: Tensor | str | None, index: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Turn a centring into the [D] tensor to subtract, with gradients to the points it averages."""
    if isinstance(center, Tensor):
        width = points.shape[1]
        allowed = (torch.float32, torch.float64) if dtype == torch.float64 else (torch.float32,)
        require(op, "center", center, (width,), allowed, like=points)
        return center.to(dtype)
    if center is None or center == "none":
        return points.new_zeros(points.shape[1], dtype=dtype)
    if center == "classes":
        # The mean of the selected rows is the mean of one class: one native, differentiable pass.
        labels = points.new_zeros(points.shape[0], dtype=torch.int64)
        if index is not None and points.shape[0]:
            # Clamped, so that the op itself rejects a row that does not exist, in its own words.
            rows = index.clamp(0, points.shape[0] - 1)
            labels = torch.full_like(labels, IGNORE_INDEX).index_fill(0, rows, 0)
        _, means, _ = torch.ops.ncfast.class_moments(points, labels, 1)
        return means[0].to(dtype)
    raise ValueError(
        f"{op}: center is {center!r}; expected 'classes', 'none' or a tensor [{points.shape[1]}]"
    )

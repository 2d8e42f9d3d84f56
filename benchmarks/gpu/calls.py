"""One call of every op at a head: random tensors of the right shapes, made on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .heads import Head
from .work import PAIR_KINDS

__all__ = ["arguments", "call", "updated"]

# Codes of the op's schema: CDNV and the distance of centred directions.
KINDS, POWERS, TARGETS = [0, 1], [1, 1], [0.0, 0.0]


class _Tensors:
    """Make the tensors of one head, by the names they have in schemas."""

    def __init__(self, head: Head, dtype: torch.dtype, device: torch.device) -> None:
        self.head, self.dtype, self.device = head, dtype, device
        self.made: dict[str, Any] = {}

    def _normal(self, rows: int, dtype: torch.dtype, seed: int) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(seed)
        shape = (rows, self.head.width)
        # In its own dtype: float32 of a large head beside it would double the memory.
        return torch.randn(*shape, generator=generator, dtype=dtype, device=self.device)

    def _vector(self, dtype: torch.dtype, seed: int, size: int | None = None) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(seed)
        shape = (self.head.classes if size is None else size,)
        return torch.rand(shape, generator=generator, dtype=dtype, device=self.device) + 0.5

    def _make(self, name: str) -> Any:
        h, f32, f64 = self.head, torch.float32, torch.float64
        makers: dict[str, Callable[[], Any]] = {
            "x": lambda: self._normal(h.tokens, self.dtype, 1),
            "y": lambda: torch.arange(h.tokens, device=self.device) * 7_919 % h.classes,
            "num_classes": lambda: h.classes,
            "means": lambda: self._normal(h.classes, f32, 2),
            "points": lambda: self._normal(h.classes, self.dtype, 3),
            "head_weight": lambda: self._normal(h.classes, self.dtype, 4) / h.width**0.5,
            "center": lambda: self._normal(1, f32, 5)[0] / 8,
            "variances": lambda: self._vector(f64, 6),
            "counts": lambda: torch.full((h.classes,), 3, device=self.device),
            "m2": lambda: self._vector(f64, 7),
            "scatter": lambda: torch.zeros(h.width, h.width, dtype=f64, device=self.device),
            "kinds": lambda: KINDS,
            "powers": lambda: POWERS,
            "targets": lambda: TARGETS,
            "vocab_size": lambda: h.classes,
        }
        if name not in makers:
            raise KeyError(name)
        return makers[name]()

    def __getitem__(self, name: str) -> Any:
        if name not in self.made:
            self.made[name] = self._make(name)
        return self.made[name]


def _schema(op: str) -> Any:
    return getattr(torch.ops.ncfast, op).default._schema


def _plain(argument: Any) -> Any:
    """Return what an argument is where nothing else is said: off, none, or on."""
    kind = str(argument.type)
    if kind.startswith("Optional"):
        return None
    return {"int": 0, "SymInt": 0, "float": 0.0, "bool": True}[kind]


def arguments(op: str, head: Head, dtype: torch.dtype, device: torch.device) -> list[Any]:
    """Return the arguments of an op, or of its backward, by the names in its schema.

    A tensor of the schema that this file cannot make is a KeyError.
    """
    assert len(KINDS) == PAIR_KINDS
    tensors = _Tensors(head, dtype, device)
    forward = op.removesuffix("_backward")
    if forward != op:
        _add_outputs(tensors, forward, head, dtype, device)
    result: list[Any] = []
    for argument in _schema(op).arguments:
        if argument.name == "scatter" and op == forward:
            result.append(None)  # the accumulating op's own time; scatters are timed by themselves
            continue
        if argument.name.startswith("needs_"):  # a gradient of what is given, as autograd asks
            result.append(tensors.made.get(argument.name.removeprefix("needs_")) is not None)
            continue
        try:
            result.append(tensors[argument.name])
        except KeyError:
            if str(argument.type) == "Tensor":
                raise KeyError(
                    f"{op}: no tensor is made for its argument {argument.name}"
                ) from None
            result.append(_plain(argument))
    return result


def _add_outputs(
    tensors: _Tensors, forward: str, head: Head, dtype: torch.dtype, device: torch.device
) -> None:
    """Give a backward what its forward returns, and a gradient for each of those that has one."""
    inputs = arguments(forward, head, dtype, device)
    outputs = getattr(torch.ops.ncfast, forward)(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    names = [r.name for r in _schema(forward).returns]
    if not any(names):
        names = {"class_moments": ["counts", "means", "m2"]}.get(forward, [""] * len(outputs))
    for argument, value in zip(_schema(forward).arguments, inputs, strict=True):
        tensors.made[argument.name] = value
    for name, value in zip(names, outputs, strict=True):
        tensors.made[name] = value
        tensors.made[f"grad_{name}"] = torch.ones_like(value)
    first = outputs[0]
    tensors.made["grad"] = torch.ones_like(first) if first.is_floating_point() else first


def updated(op: str) -> int:
    """Return how many leading arguments an op changes in place."""
    written = [a.alias_info is not None and a.alias_info.is_write for a in _schema(op).arguments]
    return written.index(False) if False in written else len(written)


def call(op: str, given: list[Any]) -> tuple[Tensor, ...]:
    """Call an op with its raw arguments; return what it returns, or what it has changed."""
    out = getattr(torch.ops.ncfast, op)(*given)
    if out is None:
        return tuple(t for t in given[: updated(op)] if t is not None)
    return out if isinstance(out, tuple) else (out,)

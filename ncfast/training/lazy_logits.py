"""Logits that are never computed: what a model's own forward pass does to them is written down.

A model's loss is rarely cross-entropy of features and head alone: it is shifted, scaled, capped,
divided by a count, and a router's loss may be added. Here the head returns a :class:`LazyLogits` in
place of logits, the model's own code runs on, and only its call of ``cross_entropy`` is answered by
:func:`ncfast.losses.linear_cross_entropy`. So no family needs code of its own, and what cannot be
followed raises with its name.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..language.errors import LanguageError

Number = float  # LazyLogits has a method of that name
# Of logits, labels and the other options of F.cross_entropy.
Loss = Callable[["LazyLogits", Tensor, Mapping[str, Any]], Tensor]


class LazyLogits:
    """Stand for ``outer * tanh(inner * (features @ weight.T + bias))``, or the same without tanh.

    Args:
        features: [..., D] float, the head's input.
        weight: [V, D] float.
        bias: [V] float, or None.
        loss: computes the loss where the model asks for cross-entropy.
        scale: the constant before tanh, or the only one.
        outer: the constant after tanh; None where there is no tanh.
        autocast: whether autocast was on where the head was called, and its dtype; None: as it is
            where the loss is computed.

    >>> logits = LazyLogits(torch.zeros(2, 5, 3), torch.ones(7, 3), None, None)
    >>> (logits[:, :-1].float() / 2).view(-1, 7).shape
    torch.Size([8, 7])
    """

    def __init__(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        loss: Loss,
        scale: float | Tensor = 1.0,
        outer: float | None = None,
        autocast: tuple[bool, torch.dtype] | None = None,
    ) -> None:
        self.features, self.weight, self.bias, self.loss = features, weight, bias, loss
        self.scale, self.outer, self.autocast = scale, outer, autocast

    def _with(self, **changed: Any) -> LazyLogits:
        names = ("features", "weight", "bias", "loss", "scale", "outer", "autocast")
        return LazyLogits(**{name: getattr(self, name) for name in names} | changed)

    # What code asks of a tensor.

    @property
    def shape(self) -> torch.Size:
        """Return the shape that the logits would have."""
        return torch.Size((*self.features.shape[:-1], self.weight.shape[0]))

    @property
    def ndim(self) -> int:
        """Return the number of dimensions."""
        return self.features.ndim

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the features."""
        return self.features.dtype

    @property
    def device(self) -> torch.device:
        """Return the device of the features."""
        return self.features.device

    def size(self, dim: int | None = None) -> Any:
        """Return the shape, or one dimension of it."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """Return the number of dimensions."""
        return self.features.ndim

    # What models do to logits before their loss.

    def float(self) -> LazyLogits:
        """Return itself: the loss is computed in float32 or wider."""
        return self

    def contiguous(self) -> LazyLogits:
        """Return itself."""
        return self

    def to(self, *args: Any, **kwargs: Any) -> LazyLogits:
        """Return itself for a conversion of dtype, or to the device where it is."""
        for value in (*args, *kwargs.values()):
            device = value.device if isinstance(value, Tensor | LazyLogits) else value
            if isinstance(device, str | torch.device | int) and not isinstance(device, bool):
                device = torch.device(device)
                same = device.index in (None, self.device.index)
                if device.type != self.device.type or not same:
                    raise _cannot_follow(f"to({device}) of logits on {self.device}")
        return self

    def view(self, *shape: Any) -> LazyLogits:
        """Return the same logits under another shape whose last dimension is the vocabulary."""
        sizes = tuple(shape[0]) if isinstance(shape[0], tuple | list | torch.Size) else shape
        classes, width = self.weight.shape
        tokens = self.features.numel() // width
        if sizes[-1] == -1 and math.prod(sizes[:-1]) == tokens:
            sizes = (*sizes[:-1], classes)
        if sizes[-1] != classes:
            raise _cannot_follow(f"view{sizes} of logits {tuple(self.shape)}")
        return self._with(features=self.features.reshape(*sizes[:-1], width))

    reshape = view

    def __getitem__(self, index: Any) -> LazyLogits:
        """Return some positions, and all classes or the first ones of them."""
        parts = index if isinstance(index, tuple) else (index,)
        taken = sum(_dimensions(part) for part in parts)
        whole = any(part is Ellipsis for part in parts)
        if taken > self.ndim or None in [part for part in parts if not isinstance(part, Tensor)]:
            raise _cannot_follow(f"logits[{index}]")
        if not whole and taken < self.ndim:
            return self._with(features=self.features[parts])
        last = parts[-1]
        if last is Ellipsis and taken < self.ndim:
            return self._with(features=self.features[parts])
        if not isinstance(last, slice):
            raise _cannot_follow(f"logits[{index}], which picks classes")
        features = self.features[(*parts[:-1], slice(None))]
        if last == slice(None):
            return self._with(features=features)
        bias = None if self.bias is None else self.bias[last]
        return self._with(features=features, weight=self.weight[last], bias=bias)

    def __mul__(self, factor: Any) -> LazyLogits:
        """Return the logits times a constant."""
        if isinstance(factor, Tensor) and factor.numel() != 1:
            raise _cannot_follow(f"logits * a tensor of shape {tuple(factor.shape)}")
        if not isinstance(factor, int | float | Tensor):
            raise _cannot_follow(f"logits * {type(factor).__name__}")
        if self.outer is None:
            return self._with(scale=self.scale * factor)
        if isinstance(factor, Tensor):
            raise _cannot_follow("tanh(logits) * a tensor: a soft-cap is a number")
        return self._with(outer=self.outer * factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> LazyLogits:
        """Return the logits over a constant."""
        return self * (1 / divisor)

    def __add__(self, bias: Any) -> LazyLogits:
        """Return the logits plus a bias of every class, or plus other logits of the same tokens."""
        if isinstance(bias, LazyLogits):
            return self._plus(bias)
        fits = isinstance(bias, Tensor) and bias.shape == self.weight.shape[:1]
        plain = self.outer is None and isinstance(self.scale, float) and self.scale == 1.0
        if not fits or not plain:
            raise _cannot_follow(f"logits + {getattr(bias, 'shape', bias)}")
        return self._with(bias=bias if self.bias is None else self.bias + bias)

    __radd__ = __add__

    def _reject(self, *args: Any) -> Any:
        raise _cannot_follow("logits with an operator other than * / +")

    __sub__ = __rsub__ = __neg__ = __pow__ = __rpow__ = __rtruediv__ = __matmul__ = _reject
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _reject
    __hash__ = object.__hash__

    def _plus(self, other: LazyLogits) -> LazyLogits:
        """Return the sum as one product: features beside features, rows beside rows."""
        if self.outer is not None or other.outer is not None or self.shape != other.shape:
            raise _cannot_follow(f"logits {tuple(self.shape)} + logits {tuple(other.shape)}")
        (x, first, _), (y, second, _) = self.folded(), other.folded()
        biases = [bias for bias in (first, second) if bias is not None]
        return LazyLogits(
            torch.cat([x, y], -1),
            torch.cat([self.weight, other.weight], -1),
            sum(biases[1:], biases[0]) if biases else None,
            self.loss,
            autocast=self.autocast,
        )

    def tanh(self) -> LazyLogits:
        """Return the hyperbolic tangent, as a soft-cap begins."""
        if self.outer is not None:
            raise _cannot_follow("tanh of tanh")
        return self._with(outer=1.0)

    # Where they end.

    def cross_entropy(
        self,
        target: Tensor,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: Number = 0.0,
    ) -> Tensor:
        """Compute ``torch.nn.functional.cross_entropy`` of these logits."""
        if size_average is not None or reduce is not None:
            raise _cannot_follow("cross_entropy with size_average or reduce")
        if target.is_floating_point() or target.shape != self.features.shape[:-1]:
            raise _cannot_follow(
                f"cross_entropy of logits {tuple(self.shape)} and {target.dtype} labels "
                f"{tuple(target.shape)}"
            )
        if self.ndim > 2:
            raise _cannot_follow(f"cross_entropy of logits {tuple(self.shape)}")
        return self.loss(
            self,
            target,
            dict(
                weight=weight,
                ignore_index=ignore_index,
                reduction=reduction,
                label_smoothing=label_smoothing,
            ),
        )

    def folded(self) -> tuple[Tensor, Tensor | None, Number]:
        """Return features, bias and soft-cap that hold the constants."""
        scale, softcap = self.scale, 0.0
        if self.outer is not None:
            softcap, scale = self.outer, self.scale * self.outer
        x, bias = self.features, self.bias
        if isinstance(scale, Tensor) or abs(scale - 1.0) > 1e-12:
            # A scale that is no power of two would round 16-bit features a second time.
            x = x * scale if x.dtype == torch.float64 else x.float() * scale
            bias = None if bias is None else bias * scale
        return x, bias, softcap

    def autocast_of_head(self) -> contextlib.AbstractContextManager:
        """Return a context with the autocast that the class's own head was called under."""
        kind = self.device.type
        if self.autocast is None or self.autocast == autocast_now(kind):
            return contextlib.nullcontext()
        enabled, dtype = self.autocast
        return torch.autocast(kind, dtype=dtype, enabled=enabled)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Follow a function of torch that is given such logits, or raise with its name."""
        if func is nn.functional.cross_entropy:
            return _cross_entropy(*args, **(kwargs or {}))
        if func is torch.tanh or func is nn.functional.tanh:
            return args[0].tanh()
        if func in (torch.mul, torch.Tensor.mul, torch.Tensor.__mul__, torch.Tensor.__rmul__):
            return args[1] * args[0] if isinstance(args[1], cls) else args[0] * args[1]
        if func in (torch.add, torch.Tensor.add, torch.Tensor.__add__, torch.Tensor.__radd__):
            return args[1] + args[0] if isinstance(args[1], cls) else args[0] + args[1]
        raise _cannot_follow(f"{getattr(func, '__name__', func)} of logits")

    def __getattr__(self, name: str) -> Any:
        """Reject what else is asked of logits, by its name."""
        raise _cannot_follow(f"logits.{name}")


class LazyFeatures:
    """Stand for features on their way to a matrix that is no module (DeBERTa's own head).

    Args:
        features: [..., D] float.
        loss: see :class:`LazyLogits`.

    >>> lazy = LazyFeatures(torch.zeros(2, 3), None)
    >>> torch.matmul(lazy, torch.ones(7, 3).t()).shape
    torch.Size([2, 7])
    """

    def __init__(self, features: Tensor, loss: Loss) -> None:
        self.features, self.loss = features, loss

    def __matmul__(self, matrix: Tensor) -> LazyLogits:
        """Return the product with a [D, V] matrix, lazily."""
        return LazyLogits(self.features, matrix.t(), None, self.loss)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Follow the product with a matrix, or raise with the function's name."""
        if func in (torch.matmul, torch.Tensor.matmul) and isinstance(args[0], cls):
            return args[0] @ args[1]
        raise _cannot_follow(f"{getattr(func, '__name__', func)} of the head's input")


def autocast_now(kind: str) -> tuple[bool, torch.dtype]:
    """Return whether autocast is on for a kind of device, and its dtype.

    >>> autocast_now("cpu")[0]
    False
    """
    return torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)


def _cross_entropy(input: LazyLogits, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return input.cross_entropy(target, *args, **kwargs)


def _dimensions(part: Any) -> int:
    """Return how many dimensions of a tensor a part of its index takes."""
    if part is Ellipsis:
        return 0
    return part.ndim if isinstance(part, Tensor) and part.dtype == torch.bool else 1


class CannotFollowError(LanguageError, AttributeError):
    """Tell what is asked of logits that are never computed; an attribute, too, may be missing."""


def _cannot_follow(what: str) -> CannotFollowError:
    return CannotFollowError(
        f"the model's forward pass computes {what}, which ncfast.apply_to cannot follow without "
        "computing the logits; use the model as it is (ncfast.restore(model))"
    )

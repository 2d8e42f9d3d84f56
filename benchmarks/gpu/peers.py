"""What ncfast is timed against: plain torch by op, compiled or not, and other people's kernels."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .calls import arguments
from .heads import Head
from .work import WORK

__all__ = ["LOSS", "LOSS_PEERS", "PLAIN", "Absent", "loss_of", "loss_work", "plain_call"]

LOSS = "linear_cross_entropy + backward"  # what peers do in one go
_TOKENS = 2_048  # of scores over all classes at a time
_ROWS = 2_048  # of pairs with all later classes at a time


class Absent(Exception):
    """Say why something is not timed here."""


def _class_moments(x: Tensor, y: Tensor, num_classes: int) -> tuple[Tensor, ...]:
    wide, ones = x.float(), torch.ones_like(y, dtype=torch.float32)
    counts = torch.zeros(num_classes, device=x.device).index_add(0, y, ones)
    sums = torch.zeros(num_classes, x.shape[1], device=x.device).index_add(0, y, wide)
    means = sums / counts.clamp(min=1)[:, None]
    squares = (wide - means[y]).square().sum(1)
    return counts, means, torch.zeros_like(counts).index_add(0, y, squares)


def _accumulate(counts: Tensor, means: Tensor, m2: Tensor, _: Any, x: Tensor, y: Tensor) -> Any:
    """Add sums and counts only: less than the op does."""
    means.index_add_(0, y, x.to(means.dtype))
    counts.index_add_(0, y, torch.ones_like(y))
    return counts, means


def _within(x: Tensor, y: Tensor, means: Tensor) -> tuple[Tensor, ...]:
    residuals = x - means[y].to(x.dtype)
    return ((residuals.T @ residuals).double(),)


def _between(means: Tensor, weights: Any, center: Tensor, index: Any) -> tuple[Tensor, ...]:
    moved = means - center.to(means.dtype)
    return ((moved.T @ moved).double(),)


def _alignment(head: Tensor, points: Tensor, center: Tensor, index: Any) -> tuple[Tensor, ...]:
    return (torch.nn.functional.cosine_similarity(head.float(), points.float() - center, dim=1),)


def _pair_stats(points: Tensor, variances: Tensor, center: Tensor, *_: Any) -> tuple[Tensor, ...]:
    """Return sums of both kinds, by blocks of rows above the diagonal, products in the dtype."""
    squares, half = points.float().square().sum(1), variances.float() / 2
    moved = points.float() - center
    units = (moved / moved.norm(dim=1, keepdim=True)).to(points.dtype)
    cdnv = torch.zeros((), dtype=torch.float64, device=points.device)
    log = torch.zeros_like(cdnv)
    for first in range(0, points.shape[0], _ROWS):
        rows = slice(first, min(first + _ROWS, points.shape[0]))
        later = slice(first, None)
        gap = squares[rows, None] + squares[later] - 2 * (points[rows] @ points[later].T).float()
        above = torch.ones_like(gap, dtype=torch.bool).triu(1)
        value = (half[rows, None] + half[later]) / gap
        cdnv += torch.where(above, value, 0).sum(dtype=torch.float64)
        apart = 2 - 2 * (units[rows] @ units[later].T).float()
        value = -0.5 * apart.clamp(min=1e-30).log()
        log += torch.where(above, value, 0).sum(dtype=torch.float64)
    return cdnv, log


def _top_two(scores: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, ...]:
    found = [scores(part).float().topk(2) for part in x.split(_TOKENS)]
    values = torch.cat([f.values for f in found])
    return torch.cat([f.indices[:, 0] for f in found]), values[:, 0] - values[:, 1]


def _linear_argmax(x: Tensor, head: Tensor, bias: Any, index: Any) -> tuple[Tensor, ...]:
    return _top_two(lambda part: part @ head.T, x)


def _nearest_center(x: Tensor, means: Tensor, index: Any) -> tuple[Tensor, ...]:
    half, narrow = means.square().sum(1) / 2, means.to(x.dtype)
    return _top_two(lambda part: (part @ narrow.T).float() - half, x)


def _cross_entropy(x: Tensor, head: Tensor, y: Tensor, *_: Any) -> tuple[Tensor, ...]:
    logits = (x @ head.T).float()
    return torch.nn.functional.cross_entropy(logits, y, reduction="none"), logits.logsumexp(1)


PLAIN: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "class_moments": _class_moments,
    "accumulate_class_moments_": _accumulate,
    "within_class_scatter": _within,
    "between_class_scatter": _between,
    "alignment": _alignment,
    "pair_stats": _pair_stats,
    "linear_argmax": _linear_argmax,
    "nearest_center": _nearest_center,
    "linear_cross_entropy": _cross_entropy,
}


def _compiled(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    # A CPU only tries the plumbing: no code is generated there.
    backend = "inductor" if device.type == "cuda" else "eager"
    return torch.compile(function, backend=backend)


def plain_call(
    op: str, head: Head, dtype: torch.dtype, device: torch.device, compiled: bool
) -> Callable[[], Sequence[Tensor]]:
    """Return a call of an op, or of its backward through autograd, in plain torch.

    Where nobody would write it so (the pairs' gradient would store V x V), it is Absent.
    """
    forward = op.removesuffix("_backward")
    if forward not in PLAIN:
        raise Absent("has no such op of its own")
    if compiled and forward == "pair_stats":
        raise Absent("left out: a loop over blocks would be unrolled for minutes")
    function = _compiled(PLAIN[forward], device) if compiled else PLAIN[forward]
    given = arguments(forward, head, dtype, device)
    if forward == op:
        return lambda: function(*given)
    if forward == "pair_stats":
        raise Absent("would store V x V for backward")
    schema = getattr(torch.ops.ncfast, forward).default._schema.arguments
    wanted = ("x", "means", "points", "head_weight", "center")
    leaves = [
        a.requires_grad_() if isinstance(a, Tensor) and s.name in wanted else a
        for s, a in zip(schema, given, strict=True)
    ]
    out = [t for t in function(*leaves) if t.requires_grad]
    asked = [a for a in leaves if isinstance(a, Tensor) and a.requires_grad]
    ones = [torch.ones_like(t) for t in out]
    return lambda: torch.autograd.grad(out, asked, ones, retain_graph=True, allow_unused=True)


def _ncfast_loss(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    import ncfast.functional as F

    return F.linear_nll_lse(x, w, y)[0].mean()


def _torch_loss(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy((x @ w.T).float(), y)


def _native_loss() -> Callable[..., Tensor]:
    # torch 2.13 and newer.
    function = getattr(torch.nn.functional, "linear_cross_entropy", None)
    if function is None:
        raise Absent(f"torch {torch.__version__} has no linear_cross_entropy")
    return function


def _liger() -> Callable[..., Tensor]:
    if importlib.util.find_spec("liger_kernel") is None:
        raise Absent("liger-kernel is not installed")
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss()
    return lambda x, w, y: loss(w, x, y)


def _cut_cross_entropy() -> Callable[..., Tensor]:
    if importlib.util.find_spec("cut_cross_entropy") is None:
        raise Absent("cut-cross-entropy is not installed")
    from cut_cross_entropy import linear_cross_entropy

    return lambda x, w, y: linear_cross_entropy(x, w, y)


_LOSSES: dict[str, Callable[[], Callable[..., Tensor]]] = {
    "torch": lambda: _torch_loss,
    "torch.compile": lambda: _torch_loss,
    "torch.nn.functional.linear_cross_entropy": _native_loss,
    "liger-kernel": _liger,
    "cut-cross-entropy": _cut_cross_entropy,
}
LOSS_PEERS = tuple(_LOSSES)


def loss_of(
    provider: str, head: Head, dtype: torch.dtype, device: torch.device
) -> Callable[[], Sequence[Tensor]]:
    """Return a call of the mean loss and its gradients to x and the head, ncfast's or a peer's."""
    function = _LOSSES[provider]() if provider in _LOSSES else _ncfast_loss
    if provider == "torch.compile":
        function = _compiled(function, device)
    x, w, y = arguments("linear_cross_entropy", head, dtype, device)[:3]
    x.requires_grad_()
    w.requires_grad_()
    return lambda: torch.autograd.grad(function(x, w, y), (x, w))


def loss_work(head: Head, itemsize: int) -> Any:
    """Return the least work of the loss and its gradients: both ops' products."""
    return WORK["linear_cross_entropy_backward"](head, itemsize)

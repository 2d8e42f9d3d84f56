"""Negative log-likelihood and log-sum-exp of a linear classifier, without its logits."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import native
from ..reference import linear_cross_entropy as reference
from ._register import (
    accumulation_dtype,
    define,
    no_double_backward,
    not_dtype,
    not_shape,
    unreadable,
)

# What the cpu backward may take for its two panels of logits and for rows it must convert. Products
# are added once per span: longer spans gain under 2 %.
PANEL_BYTES = 40 << 20
TOKEN_SPAN, CLASS_SPAN, CLASS_TILE = 1024, 4096, 512


def spans(width: int, element: int, converted: bool) -> tuple[int, int]:
    """Return the tokens and classes of a panel of the cpu backward.

    ``converted``: the head's rows must be copied to be multiplied, and their gradient rounded.
    """
    token_span = TOKEN_SPAN if width <= 4096 else TOKEN_SPAN // 4
    values = PANEL_BYTES // element - token_span * width
    class_span = values // (2 * token_span + 2 * converted * width) // CLASS_TILE * CLASS_TILE
    return token_span, max(CLASS_TILE, min(CLASS_SPAN, class_span))


def _stored_values(x: Tensor, head_weight: Tensor, memory_budget: int, dtype: torch.dtype) -> Any:
    if isinstance(memory_budget, int) and memory_budget == 0:
        return 0
    return torch.sym_min(memory_budget // dtype.itemsize, x.shape[0] * head_weight.shape[0])


def _fake(
    x: Tensor,
    head_weight: Tensor,
    y: Tensor,
    head_bias: Tensor | None,
    softcap: float,
    vocab_start: int,
    vocab_size: int,
    label_smoothing: float,
    memory_budget: int,
    check_finite: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = accumulation_dtype(x, head_weight)
    nll, lse = (x.new_empty((x.shape[0],), dtype=dtype) for _ in range(2))
    values = _stored_values(x, head_weight, memory_budget, dtype)
    return nll, lse, x.new_empty((values,), dtype=dtype)


def _reference(
    x: Tensor,
    head_weight: Tensor,
    y: Tensor,
    head_bias: Tensor | None,
    softcap: float,
    vocab_start: int,
    vocab_size: int,
    label_smoothing: float,
    memory_budget: int,
    check_finite: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = accumulation_dtype(x, head_weight)
    values = _stored_values(x, head_weight, memory_budget, dtype)
    logits = x.new_empty((values,), dtype=dtype)
    shard = (softcap, vocab_start, vocab_size, label_smoothing, check_finite)
    return reference.linear_cross_entropy(x, head_weight, y, head_bias, *shard, logits)


def _cpu(
    x: Tensor,
    head_weight: Tensor,
    y: Tensor,
    head_bias: Tensor | None,
    softcap: float,
    vocab_start: int,
    vocab_size: int,
    label_smoothing: float,
    memory_budget: int,
    check_finite: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = accumulation_dtype(x, head_weight)
    values = _stored_values(x, head_weight, memory_budget, dtype)
    nll, lse, logits = (
        native.allocate((size,), dtype, x.device) for size in (x.shape[0], x.shape[0], values)
    )
    bias = None if head_bias is None else head_bias[None]
    settings = (softcap, vocab_start, vocab_size, label_smoothing, check_finite)
    native.call("linear_cross_entropy", x, head_weight, y, bias, *settings, nll, lse, logits)
    return nll, lse, logits


def _cpu_accepts(
    x: Tensor, head_weight: Tensor, y: Tensor, head_bias: Tensor | None, *settings: Any
) -> str:
    dtype = accumulation_dtype(x, head_weight)
    classes = head_weight.shape[0]
    return (
        unreadable(dtype, x=x, head_weight=head_weight, head_bias=head_bias)
        or not_dtype(torch.int64, y=y)
        or not_shape(
            ("head_weight", head_weight, (classes, x.shape[-1])),
            ("y", y, (x.shape[0],)),
            ("head_bias", head_bias, (classes,)),
        )
    )


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    x, head_weight, y, head_bias, *settings, _, _ = inputs
    _, lse, logits = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(logits)
    ctx.save_for_backward(x, head_weight, y, head_bias, lse, logits)
    ctx.settings = settings


def _backward(ctx: Any, grad_nll: Tensor | None, grad_lse: Tensor | None, _: Any) -> Any:
    needs = [ctx.needs_input_grad[i] for i in (0, 1, 3)]
    if grad_nll is None and grad_lse is None:
        return (None,) * 10
    grads = torch.ops.ncfast.linear_cross_entropy_backward(
        grad_nll, grad_lse, *ctx.saved_tensors, *ctx.settings, *needs
    )
    x, head_weight, head_bias = (g if need else None for g, need in zip(grads, needs, strict=True))
    return x, head_weight, None, head_bias, *(None,) * 6


def _outputs(
    x: Tensor, head_weight: Tensor, head_bias: Tensor | None, needs: tuple[bool, bool, bool]
) -> list[tuple[tuple[int, ...], torch.dtype]]:
    # A gradient nobody asked for is an empty tensor: the schema's arity never changes.
    classes, width = head_weight.shape
    return [
        (tuple(x.shape) if needs[0] else (0, width), x.dtype),
        ((classes, width) if needs[1] else (0, width), head_weight.dtype),
        (
            (classes,) if needs[2] else (0,),
            head_weight.dtype if head_bias is None else head_bias.dtype,
        ),
    ]


def _backward_fake(
    grad_nll: Tensor | None,
    grad_lse: Tensor | None,
    x: Tensor,
    head_weight: Tensor,
    y: Tensor,
    head_bias: Tensor | None,
    lse: Tensor,
    logits: Tensor,
    softcap: float,
    vocab_start: int,
    vocab_size: int,
    label_smoothing: float,
    *needs: bool,
) -> tuple[Tensor, ...]:
    outputs = _outputs(x, head_weight, head_bias, (needs[0], needs[1], needs[2]))
    return tuple(x.new_empty(shape, dtype=dtype) for shape, dtype in outputs)


def _backward_cpu(
    grad_nll: Tensor | None,
    grad_lse: Tensor | None,
    x: Tensor,
    head_weight: Tensor,
    y: Tensor,
    head_bias: Tensor | None,
    lse: Tensor,
    logits: Tensor,
    softcap: float,
    vocab_start: int,
    vocab_size: int,
    label_smoothing: float,
    *needs: bool,
) -> tuple[Tensor, ...]:
    outputs = [
        native.allocate(shape, dtype, x.device)
        for shape, dtype in _outputs(x, head_weight, head_bias, (needs[0], needs[1], needs[2]))
    ]
    wanted = [out if need else None for out, need in zip(outputs, needs, strict=True)]
    converted = head_weight.dtype != lse.dtype or head_weight.stride(1) != 1
    native.call(
        "linear_cross_entropy_backward",
        *(None if grad is None else grad.contiguous() for grad in (grad_nll, grad_lse)),
        x,
        head_weight,
        y,
        None if head_bias is None else head_bias[None],
        lse.contiguous(),
        logits.contiguous(),
        *(softcap, vocab_start, vocab_size, label_smoothing),
        *spans(x.shape[1], lse.dtype.itemsize, converted),
        *wanted[:2],
        None if wanted[2] is None else wanted[2][None],
    )
    return tuple(outputs)


def _backward_cpu_accepts(
    grad_nll: Tensor | None,
    grad_lse: Tensor | None,
    x: Tensor,
    head_weight: Tensor,
    y: Tensor,
    head_bias: Tensor | None,
    lse: Tensor,
    logits: Tensor,
    *settings: Any,
) -> str:
    tokens = (x.shape[0],)
    dtype = accumulation_dtype(x, head_weight)
    return (
        _cpu_accepts(x, head_weight, y, head_bias)
        or not_dtype(dtype, grad_nll=grad_nll, grad_lse=grad_lse, lse=lse, logits=logits)
        or not_shape(
            ("grad_nll", grad_nll, tokens), ("grad_lse", grad_lse, tokens), ("lse", lse, tokens)
        )
    )


def workspace_bytes(
    tokens: int, classes: int, width: int, dtype: torch.dtype, memory_budget: int, threads: int
) -> dict[str, int]:
    """Return the bytes the cpu kernels take beside inputs and gradients; see functional."""
    element = 8 if dtype == torch.float64 else 4
    converted = dtype.itemsize != element
    token_span, class_span = spans(width, element, converted)
    token_span, class_span = min(token_span, tokens), min(class_span, classes)
    token_span = math.ceil(token_span / 32) * 32  # rows of zeros pad a product
    blocks = math.ceil(tokens / 256)
    groups = min(math.ceil(classes / CLASS_TILE), max(1, 32 // max(blocks, 1)))
    packed = 256 + CLASS_TILE * converted
    forward = threads * element * (packed * width + 2 * 256 * CLASS_TILE)
    # A product may lie in memory of its own beside the scratch for it.
    backward = threads * element * 2 * 256 * max(CLASS_TILE, width)
    backward += element * token_span * (2 * class_span + width)
    backward += converted * element * width * (2 * class_span + tokens)
    stored = min(memory_budget // element, tokens * classes) * element
    return {
        "forward": forward + 24 * tokens + 16 * tokens * groups + element * classes,
        "backward": backward + 16 * tokens + 2 * element * classes,
        "stored": stored,
    }


define(
    "linear_cross_entropy(Tensor x, Tensor head_weight, Tensor y, Tensor? head_bias, "
    "float softcap, SymInt vocab_start, SymInt vocab_size, float label_smoothing, "
    "SymInt memory_budget, bool check_finite) -> (Tensor nll, Tensor lse, Tensor logits)",
    fake=_fake,
    reference=_reference,
    cpu=_cpu,
    cpu_accepts=_cpu_accepts,
    setup_context=_setup_context,
    backward=_backward,
)
define(
    "linear_cross_entropy_backward(Tensor? grad_nll, Tensor? grad_lse, Tensor x, "
    "Tensor head_weight, Tensor y, Tensor? head_bias, Tensor lse, Tensor logits, float softcap, "
    "SymInt vocab_start, SymInt vocab_size, float label_smoothing, bool needs_x, "
    "bool needs_head_weight, bool needs_head_bias) -> (Tensor, Tensor, Tensor)",
    fake=_backward_fake,
    reference=reference.linear_cross_entropy_backward,
    cpu=_backward_cpu,
    cpu_accepts=_backward_cpu_accepts,
    **no_double_backward("linear_cross_entropy"),
)

"""Negative log-likelihood and log-sum-exp of a linear classifier, without its logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import native
from ..reference import linear_cross_entropy as reference
from ._definition import Arguments, Output, define, define_backward
from ._metadata import accumulation_dtype, not_dtype, not_shape, unreadable

# Tokens and classes of a panel of the backward kernels; 0 leaves both to panel_of, csrc/common.
PANEL = (0, 0)


def _outputs(a: Arguments) -> list[Output]:
    dtype, tokens = accumulation_dtype(a.x, a.head_weight), (a.x.shape[0],)
    values: Any = 0
    if not (isinstance(a.memory_budget, int) and a.memory_budget == 0):
        all_logits = a.x.shape[0] * a.head_weight.shape[0]
        values = torch.sym_min(a.memory_budget // dtype.itemsize, all_logits)
    return [Output(tokens, dtype), Output(tokens, dtype), Output((values,), dtype)]


def _reference(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    *inputs, memory_budget, check_finite = args
    x, head_weight = inputs[:2]
    dtype = accumulation_dtype(x, head_weight)
    stored = min(memory_budget // dtype.itemsize, x.shape[0] * head_weight.shape[0])
    logits = x.new_empty((stored,), dtype=dtype)
    return reference.linear_cross_entropy(*(*inputs, check_finite, logits))


def _rejects(a: Arguments) -> str:
    dtype, classes = accumulation_dtype(a.x, a.head_weight), a.head_weight.shape[0]
    return (
        unreadable(dtype, x=a.x, head_weight=a.head_weight, head_bias=a.head_bias)
        or not_dtype(torch.int64, y=a.y)
        or not_shape(
            ("head_weight", a.head_weight, (classes, a.x.shape[-1])),
            ("y", a.y, (a.x.shape[0],)),
            ("head_bias", a.head_bias, (classes,)),
        )
    )


def _backward_rejects(a: Arguments) -> str:
    tokens, dtype = (a.x.shape[0],), accumulation_dtype(a.x, a.head_weight)
    per_token = {"grad_nll": a.grad_nll, "grad_lse": a.grad_lse, "lse": a.lse}
    return (
        _rejects(a)
        or not_dtype(dtype, **per_token, logits=a.logits)
        or not_shape(*((name, tensor, tokens) for name, tensor in per_token.items()))
    )


def _row(bias: Tensor | None) -> Tensor | None:
    """Return a bias as the matrix of one row that kernels read."""
    return None if bias is None else bias[None]


def _kernel_arguments(a: Arguments) -> tuple[Any, ...]:
    settings = (a.softcap, a.vocab_start, a.vocab_size, a.label_smoothing, a.check_finite)
    return a.x, a.head_weight, a.y, _row(a.head_bias), *settings


def _backward_kernel_arguments(a: Arguments) -> tuple[Any, ...]:
    grads = (None if grad is None else grad.contiguous() for grad in (a.grad_nll, a.grad_lse))
    saved = (a.lse.contiguous(), a.logits.contiguous())
    settings = (a.softcap, a.vocab_start, a.vocab_size, a.label_smoothing)
    return *grads, a.x, a.head_weight, a.y, _row(a.head_bias), *saved, *settings, *PANEL


def workspace_bytes(
    tokens: int, classes: int, width: int, dtype: torch.dtype, memory_budget: int, threads: int
) -> dict[str, int]:
    """Return the bytes it takes on the cpu beside inputs and gradients; see functional."""
    element = 8 if dtype == torch.float64 else 4
    sizes = (tokens, classes, width, element)
    converted = dtype.itemsize != element
    found = native.head_workspace(*sizes, converted, threads) or _reference_bytes(*sizes, converted)
    stored = min(memory_budget // element, tokens * classes) * element
    return {"forward": found[0], "backward": found[1], "stored": stored}


def _reference_bytes(
    tokens: int, classes: int, width: int, element: int, converted: bool
) -> tuple[int, int]:
    """Return what the definition takes, which runs where there are no kernels."""
    logits, head = min(tokens, 256) * classes, classes * width * element
    forward = logits * (3 * element + 2) + head * converted
    return forward, logits * (5 * element + 3) + head * (2 + converted)


define(
    "linear_cross_entropy(Tensor x, Tensor head_weight, Tensor y, Tensor? head_bias, "
    "float softcap, SymInt vocab_start, SymInt vocab_size, float label_smoothing, "
    "SymInt memory_budget, bool check_finite) -> (Tensor nll, Tensor lse, Tensor logits)",
    outputs=_outputs,
    rejects=_rejects,
    reference=_reference,
    kernel_arguments=_kernel_arguments,
)
define_backward(
    "linear_cross_entropy_backward(Tensor? grad_nll, Tensor? grad_lse, Tensor x, "
    "Tensor head_weight, Tensor y, Tensor? head_bias, Tensor lse, Tensor logits, float softcap, "
    "SymInt vocab_start, SymInt vocab_size, float label_smoothing, bool needs_x, "
    "bool needs_head_weight, bool needs_head_bias) "
    "-> (Tensor grad_x, Tensor grad_head_weight, Tensor grad_head_bias)",
    rejects=_backward_rejects,
    reference=reference.linear_cross_entropy_backward,
    kernel_arguments=_backward_kernel_arguments,
    kernel_outputs=lambda a, grads: (*grads[:2], _row(grads[2])),
    absent="head_weight",
)

"""Proof that a loss without logits is the model's own: as it is now, and as training may make it.

Of a forward pass with lazy logits everything runs but the matrices of the head, each of which is
taken for ``x @ weight.T + bias``. So each is asked for that: as it is, after each of its parameters
has changed (what starts as the identity hides from one look), and in train mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .. import functional as F
from ..language.errors import LanguageError
from ..language.head_check import tolerance_of
from ..language.modes import eval_mode, modes_kept
from ..language.perturbation import Changes, buffers_kept, spread_rows
from .head_calls import HeadPass

_ROWS = 8  # features that a matrix is asked about
_SIZES = (0.1, 0.4, 1.6, 6.4)


@torch.no_grad()
def prove_matrix(one: HeadPass) -> str:
    """Prove that a module of the head is its matrix, and bias, and nothing besides.

    Weights, modes and random state stay. Returns why it is not so in train mode (dropout), or
    nothing. A LanguageError names the part that makes it another function.
    """
    module, name = one.module, type(one.applied.model).__name__
    if one.applied.head.captures == "output":
        return ""  # what the class multiplies by is read where it does
    if type(module) is nn.Linear and one.before is None:
        return ""  # which is its matrix by torch's word; a large one would take seconds to ask
    weight = one.matrix()[0]
    if hasattr(weight, "device_mesh") or weight.is_meta:
        return ""  # a part of the weight says nothing by itself
    shape, drawn = (1, _ROWS, weight.shape[1]), torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=drawn, dtype=torch.float32).to(weight)
    parts = dict(module.named_parameters()) | dict(module.named_buffers())
    devices = [weight.device] if weight.is_cuda else []
    with (
        modes_kept(module),
        torch.random.fork_rng(devices),
        torch.autocast(weight.device.type, enabled=False),
        buffers_kept(module),
        Changes() as changes,
    ):
        module.eval()
        before = _compared(one, x, f"the head of {name} ({type(module).__name__}) is")
        for part, tensor in parts.items():
            if not tensor.is_floating_point() or not tensor.numel():
                continue
            for size in _SIZES:
                changes.add(tensor, size)
                after = one.forward(x)
                if float((after - before).norm()) > 10 * tolerance_of(after) * float(before.norm()):
                    break
                changes.undo()
            else:  # a factor whose other factor is zero
                changes.add(tensor, _SIZES[0])
            before = _compared(one, x, f"when {part} of its head changes, {name}'s logits are")
        module.train()
        try:
            # Dropout is drawn anew each time: one of a few draws differs.
            for _ in range(3):
                _compared(one, x, f"in train mode the head of {name} ({_named(module)}) is")
        except LanguageError as error:
            return str(error)
    return ""


def _compared(one: HeadPass, x: Tensor, subject: str) -> Tensor:
    """Return what a module makes of x, or raise where it is not the product."""
    weight, bias = one.matrix()
    theirs = one.forward(x)
    ours = nn.functional.linear(x, weight, bias)
    if not isinstance(theirs, Tensor) or theirs.shape != ours.shape:
        found = tuple(theirs.shape) if isinstance(theirs, Tensor) else type(theirs).__name__
        raise LanguageError(f"{subject} {found}; expected logits {tuple(ours.shape)}")
    error, size = (theirs - ours).double().norm(), theirs.double().norm()
    if not float(error) <= tolerance_of(theirs, weight) * float(size):
        raise LanguageError(
            f"{subject} not features times its weight, plus its bias: they differ by "
            f"{float(error / size) if size else float(error):.2g} of their size; such a head is "
            "not supported by apply_to"
        )
    return theirs


def _named(module: nn.Module) -> str:
    inner = module.named_modules()
    drops = [f"{n}, p={m.p}" for n, m in inner if isinstance(m, nn.Dropout) and m.p > 0]
    return f"{type(module).__name__}: {drops[0]}" if drops else type(module).__name__


@torch.no_grad()
def prove_loss(model: nn.Module, weight: Tensor, instead: Callable[[], Any]) -> None:
    """Compare a model's loss within ``instead()``, a context, with the class's own.

    The dtype of ``weight``, the head's, says how logits are rounded.
    """
    words = model.get_input_embeddings().weight  # type: ignore[operator]
    ids = spread_rows(len(words), 16)[None].to(words.device)
    labels = ids.clone()
    labels[:, 3:5] = F.IGNORE_INDEX
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    with eval_mode(model):
        own = model(**inputs)
        with instead():
            ours = model(**inputs)
    own, ours = (out[0] if isinstance(out, tuple) else out.loss for out in (own, ours))
    if not (torch.isfinite(own) or torch.isfinite(ours)):
        return  # weights that have diverged say so in the loss of the step itself
    # Not by the loss's dtype: classes compute the loss of 16-bit logits in float32.
    exact = tolerance_of(weight) < 1e-4 and not torch.is_autocast_enabled(ids.device.type)
    tolerance = 1e-4 if exact else 2e-2
    if not abs(float(own) - float(ours)) <= tolerance * max(1.0, abs(float(own))):
        raise LanguageError(
            f"the loss of {type(model).__name__} is {float(own):.6g}, and {float(ours):.6g} from "
            "its features and head; such a model is not supported by apply_to"
        )

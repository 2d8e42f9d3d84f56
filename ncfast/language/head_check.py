"""Proof that features and head are the logits: as the model is now, and as training may make it.

A part that starts as the identity (DoRA, ``lora_bias``, a learned scale) hides from one look. So
every parameter and buffer that works between features and logits is changed in turn, and the
logits are looked at again. A few tokens and a few rows of large tensors are enough, and all is put
back bit for bit. What the model does to its logits after the matrix is probed by known ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from .after_matrix import probe_after_matrix
from .errors import LanguageError
from .head_pass import Pass, address, run_whole
from .heads import Head, after_product
from .modes import eval_mode, modes_kept
from .perturbation import Changes, buffers_kept, spread_rows

# Of the logits' size, in the coarsest dtype on the way: a scale of 2 % passes in none.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 1e-2}
BLOCK = 8192  # head rows compared at once


@torch.no_grad()
def prove(model: nn.Module, head: Head, extra_inputs: dict[str, Any]) -> tuple[Head, str | None]:
    """Prove that features, head, scale and soft-cap give the model's own logits, always.

    Mode, weights, buffers and random state stay as they are. Returns the head, with scale, soft-cap
    and outside bias as they were found; and why it is not exact in train mode, or None. Where
    logits differ beyond rounding, now or after some part has changed, the LanguageError names the
    part.
    """
    inputs = _inputs(model, head, extra_inputs)
    devices = [head.weight.device] if head.weight.is_cuda else []
    with eval_mode(model), torch.random.fork_rng(devices), buffers_kept(model):
        first = run_whole(model, head, inputs)
        _check_shapes(model, head, first)
        _check_finite(model, first)
        _check_hooks(model, inputs, first)
        head = _with_outside_bias(model, head, first)
        head = probe_after_matrix(model, head, inputs, first.logits)
        if (wrong := _difference(head, first)) is not None:
            raise LanguageError(
                f"this head is not supported: features times head weight differ from the "
                f"logits of {type(model).__name__} by {wrong:.2g} of their size; the model "
                f"changes its logits after the output matrix{_by(first.parts)}"
            )
        _perturb(model, head, inputs, first)
        return head, _in_training(model, head, inputs, first)


@torch.no_grad()
def prove_embedding(model: nn.Module, head: Head) -> None:
    """Raise unless an encoder's word embedding, its "head", looks up the rows it states, adapters
    changed or not.
    """
    words: Any = head.module
    ids = spread_rows(len(head.weight), 8).to(head.weight.device)[None]
    parts = dict(words.named_parameters()) | dict(words.named_buffers())
    name = type(model).__name__
    with eval_mode(words), Changes() as changes:
        for part, tensor in {"": torch.zeros(0), **parts}.items():
            if tensor.is_floating_point() and tensor.numel():
                changes.add(tensor, 0.1)
            found = words(ids)
            if not isinstance(found, torch.Tensor):
                raise LanguageError(
                    f"the word embedding of {name} is a {type(words).__name__} that gives a "
                    f"{type(found).__name__}; expected one that looks up rows [V, D]"
                )
            rows, found = head.weight[ids].float(), found.float()
            # Some families multiply what they look up by a constant (Gemma): rows stay rows.
            scale = float((rows * found).sum() / rows.square().sum().clamp_min(1e-30))
            if not float((found - scale * rows).abs().max()) <= 2e-2 * float(
                found.abs().max().clamp_min(1e-6)
            ):
                raise LanguageError(
                    f"the word embedding of {name} does not look up the rows of its matrix "
                    f"(once {part or 'nothing'} changes); expected a plain embedding, LoRA "
                    "without DoRA, or adapters merged (merge_and_unload)"
                )


def _inputs(model: Any, head: Head, extra_inputs: dict[str, Any]) -> dict[str, Any]:
    rows = model.get_input_embeddings().weight.shape[0]
    ids = spread_rows(rows, 8)[None].to(head.weight.device)
    return dict(input_ids=ids, attention_mask=torch.ones_like(ids), **extra_inputs)


def _check_shapes(model: nn.Module, head: Head, first: Pass) -> None:
    rows, width = head.weight.shape
    if first.features.shape != (1, *first.logits.shape[1:2], width) or first.logits.dim() != 3:
        raise LanguageError(
            f"the head of {type(model).__name__} takes features of shape "
            f"{tuple(first.features.shape)} for logits {tuple(first.logits.shape)}; expected width "
            f"{width}: this head is not supported"
        )
    if first.logits.shape[-1] != rows:
        raise LanguageError(
            f"{type(model).__name__} gives {first.logits.shape[-1]} logits but its head has {rows} "
            "rows: this head is not supported"
        )


def _check_finite(model: nn.Module, first: Pass) -> None:
    """Raise where the model gives NaN or Inf on a few tokens, and name the weight it comes from."""
    if torch.isfinite(first.features).all() and torch.isfinite(first.logits).all():
        return
    parts = dict(model.named_parameters()) | dict(model.named_buffers())
    guilty = [n for n, p in parts.items() if p.is_floating_point() and not _bounded(p)]
    source = f"{guilty[0]} holds NaN or Inf" if guilty else "all its weights are finite"
    raise LanguageError(
        f"the features or logits of {type(model).__name__} are NaN or Inf on ordinary tokens "
        f"({source}); expected a model that computes finite numbers"
    )


def _check_hooks(model: Any, inputs: dict[str, Any], first: Pass) -> None:
    """Raise where hooks on the whole model change what its forward pass gives: features are read
    within that pass, where such hooks do not work.
    """
    if not (model._forward_hooks or model._forward_pre_hooks):
        return
    found = getattr(model(**inputs), "logits", None)
    same = isinstance(found, torch.Tensor) and found.shape == first.logits.shape
    size = tolerance_of(first.logits) * float(first.logits.norm())
    if not same or not float((found - first.logits).norm()) <= size:  # type: ignore[operator]
        raise LanguageError(
            f"a forward hook on {type(model).__name__} itself changes its logits, and its features "
            "are read without it; expected the hook on a module inside, or none"
        )


def _bounded(tensor: torch.Tensor) -> bool:
    # Attention masks kept as buffers are -inf on purpose.
    return bool((torch.isfinite(tensor) | (tensor == -torch.inf)).all())


def _with_outside_bias(model: nn.Module, head: Head, first: Pass) -> Head:
    """Find a bias that the model adds outside of the output matrix's own module."""
    inside = {address(p) for p in (*head.bias_owner.parameters(), *head.bias_owner.buffers())}
    shape = (head.weight.shape[0],)
    outside = [
        name
        for name, part in first.parts.items()
        if part.shape == shape and address(part) not in inside
    ]
    if len(outside) != 1:
        return head
    owner, _, name = outside[0].rpartition(".")
    return replace(head, outside_bias=(model.get_submodule(owner), name))


def tolerance_of(*tensors: torch.Tensor) -> float:
    """Return the relative difference that rounding explains, of the coarsest dtype given."""
    found = max(TOLERANCE.get(tensor.dtype, 1e-2) for tensor in tensors)
    if any(tensor.is_cuda for tensor in tensors) and torch.backends.cuda.matmul.allow_tf32:
        found = max(found, 2e-3)
    return found


def _difference(head: Head, seen: Pass) -> float | None:
    """Return how far features and head are from the logits, or None where rounding explains it."""
    weight, bias, logits = head.weight, head.bias, seen.logits
    tolerance = tolerance_of(logits, weight, seen.features)
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    features, squares, size, largest, top = seen.features.to(wide), 0.0, 0.0, 0.0, 0.0
    for start in range(0, len(weight), BLOCK):
        rows = slice(start, start + BLOCK)
        part = None if bias is None else bias[rows].to(wide)
        ours = after_product(nn.functional.linear(features, weight[rows].to(wide), part), head)
        theirs = logits[..., rows].to(wide)
        error = (ours - theirs).double()
        squares += float(error.square().sum())
        size += float(theirs.double().square().sum())
        largest, top = max(largest, float(error.abs().max())), max(top, float(theirs.abs().max()))
        if not torch.isfinite(error).all():
            return float("inf")
    share = (squares / size) ** 0.5 if size else squares**0.5
    worst = largest / top if top else largest
    return None if share <= tolerance and worst <= 4 * tolerance else max(share, worst)


def _by(parts: dict[str, torch.Tensor]) -> str:
    return f" (what works there: {', '.join(list(parts)[:6])})" if parts else ""


def _perturb(model: nn.Module, head: Head, inputs: dict[str, Any], first: Pass) -> None:
    """Change every part between features and logits, one after the other, and look again."""
    name, before = type(model).__name__, first
    with Changes() as changes:
        for part, tensor in first.parts.items():
            if not tensor.is_floating_point() or not tensor.numel():
                continue  # an index: training never changes it
            after = before
            # As much as it takes to be seen beside the logits there are; a factor whose other
            # factor is still zero moves nothing, and stays changed a little for its sake.
            for size in (0.1, 0.4, 1.6, 6.4):
                changes.add(tensor, size)
                after = run_whole(model, head, inputs)
                if _moved(before.logits, after.logits, tolerance_of(after.logits, head.weight)):
                    break
                changes.undo()
            else:
                changes.add(tensor, 0.1)
                after = run_whole(model, head, inputs)
            if (wrong := _difference(head, after)) is not None:
                raise LanguageError(
                    f"this head is not supported: when {part} changes, as training may change it, "
                    f"features times head weight differ from the logits of {name} by {wrong:.2g} "
                    "of their size; expected logits that are one matrix (and bias) times features"
                )
            before = after


def _moved(before: torch.Tensor, after: torch.Tensor, tolerance: float) -> bool:
    step, size = (after - before).float().norm(), before.float().norm()
    return bool(step > 10 * tolerance * size)


def _in_training(model: nn.Module, head: Head, inputs: dict[str, Any], first: Pass) -> str | None:
    """Say why the head is not what its logits say in train mode, or None."""
    path = {id(head.module), id(head.weight_owner), id(head.bias_owner)}
    around = [m for m in model.modules() if any(id(inner) in path for inner in m.modules())]
    later = [*around, *first.modules]
    with modes_kept(model):
        # The body stays in eval mode: its dropout would hide nothing, and its buffers stay as
        # they are.
        for module in later:
            module.training = True
        # Dropout is drawn anew each time: one of a few draws differs.
        wrong = [_difference(head, run_whole(model, head, inputs)) for _ in range(3)]
    found = [share for share in wrong if share is not None]
    if not found:
        return None
    names = {id(module): name for name, module in model.named_modules()}
    dropouts = [
        names.get(id(m), type(m).__name__)
        for m in first.modules
        if getattr(m, "p", 0) and _drops(m)
    ]
    part = f"{', '.join(dict.fromkeys(dropouts))} " if dropouts else "dropout or noise "
    return (
        f"{part}works between features and logits of {type(model).__name__} in train mode (they "
        f"differ by {max(found):.2g} of their size); expected none there to train with: set its "
        "rate to 0, or leave the head out of the adapter"
    )


def _drops(module: nn.Module) -> bool:
    return "Dropout" in type(module).__name__

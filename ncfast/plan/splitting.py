"""How a model is split over the devices of tensor parallelism: its layers, and its head by rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn

from ..functional import linear_nll_lse
from ..language import LanguageError
from ..language.heads import Head
from ..training import Objective, recomputable_layers

__all__ = ["on_own_rows", "split_head", "split_layers"]

_STYLES = {"colwise", "rowwise"}


def split_layers(model: nn.Module, mesh: Any) -> None:
    """Share the matrices of every layer, by the plan that transformers has for this model."""
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    config: Any = model.config
    found = getattr(config, "base_model_tp_plan", None)
    if not found or hasattr(model, "peft_config"):
        what = "LoRA" if hasattr(model, "peft_config") else type(model).__name__
        raise LanguageError(
            f"tensor parallelism with {what}, for which transformers has no plan; expected "
            "--parallel fsdp"
        )
    size = mesh.size()
    for name in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(config, name, None)
        if heads is not None and heads % size:
            raise LanguageError(
                f"tensor parallelism over {size} devices with {name}={heads}; expected a number "
                "of devices that divides it"
            )
    unknown = {s for s in found.values() if s not in _STYLES and not s.startswith("replicated")}
    if unknown - {"embedding_rowwise", "colwise_gather_output", "colwise_rep"}:
        raise LanguageError(
            f"tensor parallelism with {type(model).__name__}, whose plan asks for "
            f"{', '.join(sorted(unknown))}; expected {' and '.join(sorted(_STYLES))} alone, or "
            "--parallel fsdp"
        )
    made = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}
    for layer in recomputable_layers(model):
        # "layers.*.mlp.up_proj" names a module inside of every layer.
        inside = {
            pattern.split(".*.", 1)[1]: made[style]()
            for pattern, style in found.items()
            if style in made and ".*." in pattern
        }
        if not inside:
            raise LanguageError(f"tensor parallelism found no matrix in {type(layer).__name__}")
        parallelize_module(layer, mesh, inside)


def split_head(objective: Objective, mesh: Any) -> None:
    """Share the vocabulary of embedding and head, and let the loss take a rank's own rows."""
    from torch.distributed.tensor import DTensor, Replicate, Shard
    from torch.distributed.tensor.parallel import RowwiseParallel, parallelize_module

    language = objective.model
    model: Any = language.model
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = embedding.weight is head.weight
    parallelize_module(embedding, mesh, RowwiseParallel(input_layouts=Replicate()))
    if not tied:
        whole = head.weight
        rows = whole.new_empty((-(-whole.shape[0] // mesh.size()), whole.shape[1]))
        layout = dict(shape=whole.shape, stride=whole.stride(), run_check=False)
        own = DTensor.from_local(rows, mesh, [Shard(0)], **layout)
        head.weight = nn.Parameter(own, whole.requires_grad)
    else:
        head.weight = embedding.weight
    language._head = _OwnRows(**vars(language._head))
    group = mesh.get_group()

    def cross_entropy(features: Tensor, part: Any, count: float) -> Tensor:
        x, rows, bias = language.scaled(features)
        x = _Shared.apply(x, group)
        # What functional/sharded_cross_entropy.py sends: the largest log-sum-exp, the sum of
        # exponentials and the target's logit of every token.
        nll, lse = linear_nll_lse(x, rows, part.labels.clamp(max=len(rows) - 1), bias)
        for sent in (lse.detach().clone(), lse.detach().clone(), nll.detach().clone()):
            distributed.all_reduce(sent, group=group)
        return (nll.sum() + 0.0 * lse.sum()) / count

    def add_terms(features: Tensor, classes: Tensor) -> Tensor:
        rows, terms = language.head_weight, objective.terms.values()
        return torch.stack([on_own_rows(term, features, classes, rows) for term in terms]).sum()

    objective.cross_entropy = cross_entropy  # type: ignore[method-assign]
    objective.add_terms = add_terms  # type: ignore[method-assign]


def on_own_rows(term: Any, x: Tensor, classes: Tensor, rows: Tensor) -> Tensor:
    """Compute a term on the head's rows [V / ranks, D] of this rank, which its classes stand in.

    As with a head on several ranks, their gradient is of the rows that this one holds.
    """
    means = term.class_means
    vocabulary = means.num_classes
    if means.every_class:
        found: Tensor = term(x, classes, _Whole.apply(rows, vocabulary))
        return found
    means.num_classes = len(rows)
    try:
        found = term(x, classes, rows)
    finally:
        means.num_classes = vocabulary
    return found


class _OwnRows(Head):
    """Read the rows of a head that this rank holds."""

    @property
    def weight(self) -> Tensor:
        """Return [V / ranks, D]."""
        found: Any = super().weight
        return found.to_local() if hasattr(found, "to_local") else found


class _Shared(torch.autograd.Function):
    """Hand features on as they are; add their gradients over ranks, in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.float()
        total = total.clone() if total is grad else total
        distributed.all_reduce(total, group=ctx.group)
        return total.to(grad.dtype), None


class _Whole(torch.autograd.Function):
    """Make a head of all classes out of a rank's rows, in the memory of one row."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, classes: int) -> Tensor:
        ctx.like = rows
        return rows.new_empty((1, rows.shape[1])).expand(classes, -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return torch.zeros_like(ctx.like), None

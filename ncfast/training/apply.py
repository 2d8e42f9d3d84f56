"""A model in memory that computes its own loss without its logits, for whoever trains it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..language.inspection import unwrapped
from ..losses import Regularizer
from .applied import NAME, Applied, Settings, applied_to


def innermost(model: Any) -> Any:
    """Return the transformers model whose class defines the loss, inside peft and all wrappers.

    >>> import torch
    >>> layer = torch.nn.Linear(2, 2)
    >>> innermost(layer) is layer
    True
    """
    inner = unwrapped(model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def by_name(caller: str, terms: Mapping[str, Regularizer] | None) -> dict[str, Regularizer]:
    """Return the terms that were given to a caller."""
    if terms is not None and not hasattr(terms, "keys"):
        raise TypeError(
            f"{caller}: terms is {type(terms).__name__}; expected terms by name, such as "
            '{"nc3": term}'
        )
    return dict(terms or {})


def apply_to(
    model: Any,
    *,
    terms: Mapping[str, Regularizer] | None = None,
    label_smoothing: float = 0.0,
    eval_logits: bool = False,
) -> Applied:
    """Make a language model compute its own loss without logits.

    From here on ``model(**batch)`` with labels runs the class's own forward pass, whose
    cross-entropy is :func:`ncfast.losses.linear_cross_entropy`: shift, ``num_items_in_batch``,
    scales, soft-caps and a router's loss stay the class's own. It returns the class's own outputs,
    with ``logits=None``. Without labels nothing changes. Parameters, ``state_dict`` and
    ``save_pretrained`` stay as they are. A batch without a label gives 0, where torch gives NaN.

    Args:
        model: a masked or causal model of transformers, also inside peft,
            DistributedDataParallel or torch.compile.
        terms: neural-collapse terms by name, added to the loss in training; each brings its own
            weight. They need the whole batch of a step in one call: the stock Trainer's
            ``num_items_in_batch`` raises with them (use ``NeuralCollapseTrainer``).
        label_smoothing: in [0, 1), in training and evaluation, as the Trainer's
            ``label_smoothing_factor``. That one of the stock Trainer keeps labels from the model
            and so gets logits, and the same loss as without this function.
        eval_logits: in ``eval`` mode compute logits too. ``Trainer.predict`` and a Trainer with
            ``compute_metrics`` get them in any case, but under ``torch.compile``.

    Returns:
        A handle: its ``restore()`` (or :func:`restore`, or leaving its ``with`` block) gives the
        class's forward pass back.

    Raises:
        LanguageError: the model is not a masked or causal language model, its head is not
            supported, or its forward pass does with logits what cannot be followed.
        ValueError: it has been applied already, or an argument is out of range.
        TypeError: what is given is no model, or the terms are no mapping.

    >>> import torch
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> config = GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=2, n_positions=16)
    >>> model, ids = GPT2LMHeadModel(config).eval(), torch.arange(12).view(2, 6)
    >>> own = model(input_ids=ids, labels=ids).loss
    >>> with apply_to(model):
    ...     outputs = model(input_ids=ids, labels=ids)
    >>> outputs.logits is None, torch.allclose(outputs.loss, own)
    (True, True)
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(
            f"apply_to: model is {type(model).__name__}; expected a model of transformers, as "
            "from_pretrained returns it"
        )
    given = by_name("apply_to", terms)
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"apply_to: label_smoothing is {label_smoothing}; expected [0, 1)")
    inner = innermost(model)
    if getattr(vars(inner).get(NAME), "settings", None) is not None:
        raise ValueError(
            f"apply_to: {type(inner).__name__} computes its loss without logits already; expected "
            "a model after ncfast.restore(model)"
        )
    applied = applied_to(inner)
    applied.settings = Settings(given, None, label_smoothing or None, eval_logits=eval_logits)
    return applied


def restore(model: Any) -> Any:
    """Give a model its own forward pass back, if :func:`apply_to` has changed it.

    Args:
        model: as given to :func:`apply_to`, or wrapped since.

    Returns:
        The model, as given.

    >>> import torch
    >>> restore(torch.nn.Linear(2, 2))
    Linear(in_features=2, out_features=2, bias=True)
    """
    applied = vars(innermost(model)).get(NAME)
    if applied is not None:
        applied.restore()
    return model

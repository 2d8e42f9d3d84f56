"""A model in memory that computes its own loss without its logits, for whoever trains it."""

from __future__ import annotations

import copy
import functools
import inspect
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .. import functional as F
from ..language.errors import LanguageError
from ..language.heads import Head, find_head
from ..language.inspection import kind_of
from ..losses import Regularizer, linear_cross_entropy
from .lazy_logits import LazyFeatures, LazyLogits

_NAME = "_ncfast_applied"


@dataclass
class Settings:
    """Say what the loss of a forward pass with labels is.

    Args:
        terms: neural-collapse terms, added in training.
        share: what the terms are multiplied by, beside their own weights.
        label_smoothing: of the cross-entropy; None for what the model asks for.
        num_items: what a mean that the model asks for is over; None for its own tokens.
        eval_logits: whether a model in ``eval`` mode computes logits and loss as its class does.

    Example:
        >>> Settings().eval_logits
        False
    """

    terms: Mapping[str, Regularizer] = field(default_factory=dict)
    share: float | None = None
    label_smoothing: float | None = None
    num_items: Tensor | int | None = None
    eval_logits: bool = False


class HeadPass:
    """Be the forward pass of a module of the head.

    Args:
        applied: the model's handle.
        module: the module.
    """

    def __init__(self, applied: Applied, module: nn.Module) -> None:
        self.applied, self.module = applied, module
        self.forward = module.forward
        self.before = vars(module).get("forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return lazy logits in a forward pass with labels, and the module's output elsewhere."""
        applied, head = self.applied, self.applied.head
        if not applied.active:
            return self.forward(*args, **kwargs)
        if head.captures == "output":
            return LazyFeatures(self.forward(*args, **kwargs), applied.loss)
        features = args[0] if args else next(iter(kwargs.values()))
        owner: Any = head if head.module is self.module else self.module
        if owner is head:
            _reject_dropout(applied.model, self.module)
        return LazyLogits(features, owner.weight, owner.bias, applied.loss)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Go with a copy of the model; a copy of the module alone is a module like any other."""
        if id(self.applied.model) not in memo:
            return copy.deepcopy(self.forward, memo)
        twin = memo[id(self)] = object.__new__(HeadPass)
        vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin


class Applied:
    """Be the handle of a model that computes its loss without logits; a context manager, too.

    Attributes:
        model: the transformers model inside all wrappers.
        settings: of the loss now; None for the class's own forward pass.

    Example:
        >>> with ncfast.apply_to(model):  # doctest: +SKIP
        ...     model(**batch).loss.backward()
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.settings: Settings | None = None
        self.active = False  # in a forward pass whose logits are lazy
        self.losses = 0  # how many the forward pass has asked for
        self.head: Head
        self.passes: list[HeadPass] = []
        self.softcap = 0.0  # of the last loss
        self._before = vars(model).get("forward")
        self.forward = model.forward
        parameters = list(inspect.signature(model.forward).parameters)
        if "labels" not in parameters:
            raise LanguageError(
                f"the forward pass of {type(model).__name__} takes no labels; expected a model "
                "that computes a loss"
            )
        self._labels_at = parameters.index("labels")
        # functools.wraps keeps the signature, from which the Trainer reads what the model takes.
        instead = functools.wraps(type(model).forward)(_forward)
        vars(model)["forward"] = self._instead = types.MethodType(instead, model)
        vars(model)[_NAME] = self
        self._attach_head()

    def _attach_head(self) -> None:
        """Stand in the forward pass of the modules that are the head now."""
        self.head = find_head(self.model)
        modules = _matrices(self.head)
        if [one.module for one in self.passes] == modules:
            return
        self._detach_head()
        self.passes = [HeadPass(self, module) for module in modules]
        for one in self.passes:
            vars(one.module)["forward"] = one

    def _detach_head(self) -> None:
        for one in self.passes:
            own = vars(one.module)
            own.pop("forward", None)
            if one.before is not None:
                own["forward"] = one.before
        self.passes = []

    def restore(self) -> nn.Module:
        """Give the model its own forward pass back.

        Returns:
            The model.
        """
        self.settings = None
        self._detach_head()
        own = vars(self.model)
        # Where another library has wrapped the pass since, it goes through this one to the class's.
        if own.get("forward") is self._instead:
            own.pop("forward")
            if self._before is not None:
                own["forward"] = self._before
            own.pop(_NAME, None)
        return self.model

    def __enter__(self) -> Applied:
        """Return the handle: the model has been changed already."""
        return self

    def __exit__(self, *error: object) -> None:
        """Restore the model."""
        self.restore()

    @contextmanager
    def using(self, settings: Settings | None) -> Iterator[None]:
        """Compute the loss of forward passes in here with these settings."""
        before, self.settings = self.settings, settings
        try:
            yield
        finally:
            self.settings = before

    def run(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Run the model's forward pass, with lazy logits where it is given labels."""
        settings, labels = self.settings, kwargs.get("labels")
        if labels is None and len(args) > self._labels_at:
            labels = args[self._labels_at]
        if settings is None or labels is None:
            return self.forward(*args, **kwargs)
        if settings.eval_logits and not self.model.training:
            return self.forward(*args, **kwargs)
        whole = kwargs.get("num_items_in_batch") is None or settings.share is not None
        if self.model.training and settings.terms and not whole:
            raise LanguageError(
                "num_items_in_batch is given to a model with terms: its caller divides by a whole "
                "batch's tokens, of which the terms see a part only; expected "
                "ncfast.training.trainer.NeuralCollapseTrainer, or a call without it"
            )
        if not torch.compiler.is_compiling():
            self._attach_head()  # adapters may have replaced it
        self.active, self.losses = True, 0
        try:
            outputs = self.forward(*args, **kwargs)
        finally:
            self.active = False
        if self.losses == 0:
            raise LanguageError(
                f"the forward pass of {type(self.model).__name__} computed a loss without asking "
                "for the cross-entropy of its logits; ncfast.apply_to does not know such a loss"
            )
        return _without_logits(outputs)

    def loss(
        self,
        logits: LazyLogits,
        target: Tensor,
        options: Mapping[str, Any],
    ) -> Tensor:
        """Compute what the model asked ``cross_entropy`` of its logits for, and add the terms."""
        settings = self.settings or Settings()
        x, bias, softcap = logits.folded()
        self.losses, self.softcap = self.losses + 1, softcap
        options = dict(options, linear_bias=bias, softcap=softcap)
        if settings.label_smoothing is not None:
            options["label_smoothing"] = settings.label_smoothing
        if settings.num_items is not None and options["reduction"] == "mean":
            options["num_tokens"] = settings.num_items
        loss = linear_cross_entropy(x, logits.weight, target, **options)
        if not (self.model.training and settings.terms):
            return loss
        if self.losses > 1:
            raise LanguageError(
                f"{type(self.model).__name__} computes several cross-entropies in one forward "
                "pass; expected one where there are terms"
            )
        share = 1.0 if settings.share is None else settings.share
        # Of an adapted head the terms see what goes into it, and the rows that it amounts to.
        adapted = logits.weight.shape[1] != self.head.weight.shape[1]
        weight = self.head.weight if adapted else logits.weight
        features = logits.features[:, : weight.shape[1]].float()
        target = target.masked_fill(target == options["ignore_index"], F.IGNORE_INDEX)
        for term in settings.terms.values():
            loss = loss + share * term(features, target, weight)
        return loss


def _forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    return self._ncfast_applied.run(args, kwargs)


def _matrices(head: Head) -> list[nn.Module]:
    """Return the modules whose product with features makes logits.

    That is one, or several inside an adapter of the head: its base layer and the second matrix of
    LoRA. The adapter's own forward pass then does its dropout, scales and sums; that of DoRA
    multiplies logits class by class, which its matrix does as well.
    """
    if len(getattr(head.module, "lora_magnitude_vector", ())):
        return [head.module]
    inner = [module for module in head.module.modules() if module is not head.module]
    rows = [m for m in inner if getattr(m, "out_features", None) == len(head.weight)]
    return rows or [head.module]


def _reject_dropout(model: nn.Module, module: nn.Module) -> None:
    """Raise where a module draws dropout, which its matrix knows nothing of."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Dropout) and part.p > 0 and part.training:
            raise LanguageError(
                f"the head of {type(model).__name__} has dropout inside ({name}, p={part.p}); "
                "expected 0 for such a head: set lora_dropout=0"
            )


def _without_logits(outputs: Any) -> Any:
    """Return the same outputs with None where logits would be."""
    if isinstance(outputs, tuple):
        return tuple(value for value in outputs if not isinstance(value, LazyLogits))
    kept = {k: value for k, value in outputs.items() if not isinstance(value, LazyLogits)}
    return type(outputs)(**kept)


def unwrapped(model: Any) -> Any:
    """Return the model inside DistributedDataParallel and torch.compile.

    Args:
        model: the model as it is trained.

    Returns:
        The model inside; one of peft stays as it is.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> unwrapped(torch.compile(layer)) is layer
        True
    """
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        else:
            return model


def innermost(model: Any) -> Any:
    """Return the transformers model whose class defines the loss, inside peft and all wrappers.

    Args:
        model: the model as it is trained.

    Returns:
        The model inside.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> innermost(layer) is layer
        True
    """
    inner = unwrapped(model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


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
        eval_logits: in ``eval`` mode compute logits too, as ``Trainer.predict`` and
            ``compute_metrics`` need them: without, these get no predictions.

    Returns:
        A handle: its ``restore()`` (or :func:`restore`, or leaving its ``with`` block) gives the
        class's forward pass back.

    Raises:
        LanguageError: the model is not a masked or causal language model, its head is not
            supported, or its forward pass does with logits what cannot be followed.
        ValueError: it has been applied already, or an argument is out of range.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> config = GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=2, n_positions=16)
        >>> model, ids = GPT2LMHeadModel(config).eval(), torch.arange(12).view(2, 6)
        >>> own = model(input_ids=ids, labels=ids).loss
        >>> with apply_to(model):
        ...     outputs = model(input_ids=ids, labels=ids)
        >>> outputs.logits is None, torch.allclose(outputs.loss, own)
        (True, True)
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"apply_to: label_smoothing is {label_smoothing}; expected [0, 1)")
    inner = innermost(model)
    if getattr(vars(inner).get(_NAME), "settings", None) is not None:
        raise ValueError(
            f"apply_to: {type(inner).__name__} computes its loss without logits already; expected "
            "a model after ncfast.restore(model)"
        )
    applied = applied_to(inner)
    applied.settings = Settings(
        dict(terms or {}), None, label_smoothing or None, eval_logits=eval_logits
    )
    return applied


def restore(model: Any) -> Any:
    """Give a model its own forward pass back, if :func:`apply_to` has changed it.

    Args:
        model: as given to :func:`apply_to`, or wrapped since.

    Returns:
        The model, as given.

    Example:
        >>> restore(nn.Linear(2, 2))
        Linear(in_features=2, out_features=2, bias=True)
    """
    applied = vars(innermost(model)).get(_NAME)
    if applied is not None:
        applied.restore()
    return model


def applied_to(model: nn.Module) -> Applied:
    """Return a model's handle, made and proven where it has none, for use with ``using``.

    Args:
        model: the transformers model inside all wrappers.

    Returns:
        The handle; its settings are None unless :func:`apply_to` has set them.

    Raises:
        LanguageError: as :func:`apply_to`.

    Example:
        >>> applied_to(model).settings is None  # doctest: +SKIP
        True
    """
    if isinstance(vars(model).get(_NAME), Applied):
        return vars(model)[_NAME]
    if kind_of(model) == "encoder":
        raise LanguageError(
            f"{type(model).__name__} has no language-model head; expected a masked or causal model"
        )
    applied = Applied(model)
    try:
        _prove(applied)
    except BaseException:
        applied.restore()
        raise
    return applied


@torch.no_grad()
def _prove(applied: Applied) -> None:
    """Compare the loss with the class's own on a few tokens."""
    model, name = applied.model, type(applied.model).__name__
    words = model.get_input_embeddings().weight  # type: ignore[operator]
    ids = torch.linspace(0, len(words) - 1, min(16, len(words))).long()[None].to(words.device)
    labels = ids.clone()
    labels[:, 3:5] = F.IGNORE_INDEX
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    was_training = model.training
    model.eval()
    try:
        own = model(**inputs)
        with applied.using(Settings()):
            ours = model(**inputs)
    finally:
        model.train(was_training)
    own, ours = (out[0] if isinstance(out, tuple) else out.loss for out in (own, ours))
    tolerance = 1e-4 if own.dtype in (torch.float32, torch.float64) else 2e-2
    if not abs(float(own) - float(ours)) <= tolerance * max(1.0, abs(float(own))):
        raise LanguageError(
            f"the loss of {name} is {float(own):.6g}, and {float(ours):.6g} from its features and "
            "head; such a model is not supported by apply_to"
        )

"""The forward pass of a model that computes its own loss without its logits."""

from __future__ import annotations

import copy
import functools
import inspect
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .. import functional as F
from ..language.errors import LanguageError
from ..language.heads import Head, find_head
from ..language.inspection import kind_of
from ..losses import Regularizer, linear_cross_entropy
from .apply_proof import prove_loss, prove_matrix
from .head_calls import HeadPass, matrices
from .lazy_logits import LazyLogits

NAME = "_ncfast_applied"


@dataclass
class Settings:
    """Say what the loss of a forward pass with labels is.

    Args:
        terms: neural-collapse terms, added in training.
        share: what the terms are multiplied by, beside their own weights.
        label_smoothing: of the cross-entropy; None for what the model asks for.
        num_items: what a mean that the model asks for is over; None for its own tokens.
        eval_logits: whether a model in ``eval`` mode computes logits and loss as its class does,
            where no Trainer asks for predictions.

    >>> Settings().eval_logits
    False
    """

    terms: Mapping[str, Regularizer] = field(default_factory=dict)
    share: float | None = None
    label_smoothing: float | None = None
    num_items: Tensor | int | None = None
    eval_logits: bool = False


class Applied:
    """Be the handle of a model that computes its loss without logits; a context manager, too.

    Attributes:
        model: the transformers model inside all wrappers.
        settings: of the loss now; None for the class's own forward pass.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.settings: Settings | None = None
        self.active = False  # in a forward pass whose logits are lazy
        self.losses = 0  # how many the forward pass has asked for
        self.answered = False  # set where a forward pass with labels came this way
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
        self._instead = types.MethodType(_in_place_of(model), model)
        self._hook: RemovableHandle | None = None
        self._not_in_training = ""
        self._terms: Tensor | None = None  # of the forward pass that is running

    def __deepcopy__(self, memo: dict[int, Any]) -> Applied:
        """Go with a copy of the model."""
        copied = memo[id(self)] = object.__new__(Applied)
        vars(copied).update(copy.deepcopy(vars(self), memo))
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Raise: a forward pass of ours cannot be loaded where ncfast has not proven it."""
        raise LanguageError(
            f"a {type(self.model).__name__} whose loss ncfast.apply_to computes cannot be pickled "
            "whole; expected save_pretrained, torch.save(model.state_dict(), ...), or "
            "ncfast.restore(model) before"
        )

    def attach(self) -> None:
        """Stand in the model's forward pass; :meth:`restore` undoes it, also when this raises."""
        model = self.model
        vars(model)[NAME] = self  # first, so that pickle meets it before the forward pass
        vars(model)["forward"] = self._instead
        body: Any = getattr(model, "base_model", model)
        if body is not model:
            self._hook = body.register_forward_pre_hook(self._watch)
        self._attach_head()

    def _attach_head(self) -> None:
        """Stand in the forward pass of the modules that are the head now."""
        self.head = find_head(self.model)
        modules = matrices(self.head)
        if [one.module for one in self.passes] == modules:
            return
        self._detach_head()
        found = [HeadPass(self, module) for module in modules]
        self._not_in_training = _other_in_training(found)
        self.passes = found
        for one in self.passes:
            vars(one.module)["forward"] = one

    def _watch(self, body: nn.Module, args: Any) -> None:
        """Look, whenever the model's body runs, whether TRL's loss has been put around this one."""
        names = getattr(getattr(self.model.forward, "__code__", None), "co_varnames", ())
        if "fused_lm_head" in names and not self.active:
            self._reject_terms()

    def _reject_terms(self) -> None:
        terms = self.settings is not None and self.settings.terms
        if terms and self.model.training and torch.is_grad_enabled():
            raise LanguageError(
                "TRL computes its loss without the model's own (fused_lm_head), and so without the "
                "terms of ncfast.apply_to; expected apply_to without terms for a trainer of TRL"
            )

    def _detach_head(self) -> None:
        for one in self.passes:
            own = vars(one.module)
            own.pop("forward", None)
            if one.before is not None:
                own["forward"] = one.before
        self.passes = []

    def restore(self) -> nn.Module:
        """Give the model its own forward pass back, and return it."""
        self.settings = None
        self._detach_head()
        if self._hook is not None:
            self._hook.remove()
        own = vars(self.model)
        # Where another library has wrapped the pass since, it goes through this one to the class's.
        if own.get("forward") is self._instead:
            own.pop("forward")
            if self._before is not None:
                own["forward"] = self._before
            own.pop(NAME, None)
        return self.model

    def __enter__(self) -> Applied:
        """Return the handle: the model has been changed already."""
        return self

    def __exit__(self, *error: object) -> None:
        """Restore the model."""
        self.restore()

    def prove(self) -> None:
        """Compare the loss with the class's own on a few tokens; LanguageError: they differ."""
        # Without what was put around the pass since: accelerate's autocast rounds the class's
        # logits to 16 bits, and its loss differs from ours by 1e-2.
        own = vars(self.model)
        around = own.get("forward")
        if around is not None:  # not restored
            own["forward"] = self._instead
        try:
            with self.using(None):
                prove_loss(self.model, self.head.weight, lambda: self.using(Settings()))
        finally:
            if around is not None:
                own["forward"] = around

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
        self.answered = True
        if kwargs.get("fused_lm_head"):  # TRL asks for its own loss, of each token
            self._reject_terms()
            return self.forward(*args, **kwargs)
        if not self.model.training and (settings.eval_logits or _asks_for_predictions()):
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
        if self._not_in_training and self.model.training:
            self._look_again()
        self.active, self.losses, self._terms = True, 0, None
        try:
            outputs = self.forward(*args, **kwargs)
        finally:
            self.active = False
        if self.losses == 0:
            raise LanguageError(
                f"the forward pass of {type(self.model).__name__} computed a loss without asking "
                "for the cross-entropy of its logits; ncfast.apply_to does not know such a loss"
            )
        terms, self._terms = self._terms, None
        return _without_logits(outputs, terms)

    def _look_again(self) -> None:
        """Raise while a matrix of the head is another one in train mode: a rate may be 0 now."""
        if not torch.compiler.is_compiling():
            self._not_in_training = _other_in_training(self.passes)
        if self._not_in_training:
            raise LanguageError(self._not_in_training)

    def loss(
        self,
        logits: LazyLogits,
        target: Tensor,
        options: Mapping[str, Any],
    ) -> Tensor:
        """Compute what the model asked ``cross_entropy`` of its logits for, and the terms."""
        settings = self.settings or Settings()
        x, bias, softcap = logits.folded()
        self.losses, self.softcap = self.losses + 1, softcap
        options = dict(options, linear_bias=bias, softcap=softcap)
        if settings.label_smoothing is not None:
            options["label_smoothing"] = settings.label_smoothing
        if settings.num_items is not None and options["reduction"] == "mean":
            options["num_tokens"] = settings.num_items
        with logits.autocast_of_head():
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
        features = logits.features[:, : weight.shape[1]]
        # In int64: a target in uint8 holds no -100.
        target = target.long().masked_fill(target == options["ignore_index"], F.IGNORE_INDEX)
        found = [term(features, target, weight) for term in settings.terms.values()]
        # Not here: the class may go on to divide this loss, as by num_items_in_batch.
        self._terms = share * torch.stack(found).sum()
        return loss


def _other_in_training(passes: Sequence[HeadPass]) -> str:
    """Prove every matrix of a head; say why one is another in train mode, or nothing."""
    return next(filter(None, [prove_matrix(one) for one in passes]), "")


def _in_place_of(model: nn.Module) -> Any:
    """Return a function of one's own for each model: the Trainer reads what a model takes from its
    signature, which functools.wraps writes on the function.
    """

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self._ncfast_applied.run(args, kwargs)

    return forward


def _asks_for_predictions() -> bool:
    """Tell whether a Trainer evaluates this forward pass for its logits, and not for the loss only.

    Nothing that reaches the model says so: it stands in the Trainer's own ``prediction_step``.
    """
    if torch.compiler.is_compiling():
        return False
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "prediction_step":
            loss_only = frame.f_locals.get("prediction_loss_only")
            if isinstance(loss_only, bool):
                return not loss_only
        frame = frame.f_back
    return False


def _without_logits(outputs: Any, terms: Tensor | None) -> Any:
    """Return the same outputs with None where logits would be, and the terms added to the loss."""
    added = (lambda loss: loss) if terms is None else (lambda loss: loss + terms)
    if isinstance(outputs, tuple) and not hasattr(outputs, "_fields"):
        loss, *others = (value for value in outputs if not isinstance(value, LazyLogits))
        return (added(loss), *others)
    named = outputs._asdict() if hasattr(outputs, "_asdict") else dict(outputs.items())
    kept = {k: None if isinstance(v, LazyLogits) else v for k, v in named.items()}
    kept["loss"] = added(kept["loss"])
    return type(outputs)(**kept)


def applied_to(model: nn.Module) -> Applied:
    """Return the handle of a model inside all wrappers, for use with ``using``.

    It is made and proven where there is none, as by :func:`apply_to`, which alone sets its
    settings.
    """
    if isinstance(vars(model).get(NAME), Applied):
        return vars(model)[NAME]
    if kind_of(model) == "encoder":
        raise LanguageError(
            f"{type(model).__name__} has no language-model head; expected a masked or causal model"
        )
    applied = Applied(model)
    try:
        applied.attach()
        applied.prove()
    except BaseException:
        applied.restore()
        raise
    return applied

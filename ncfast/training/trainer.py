"""The same loss through the Hugging Face Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Trainer

from ..language import LanguageModel
from ..losses import Regularizer, linear_cross_entropy
from .wrapped import inside_forward


class NeuralCollapseTrainer(Trainer):
    """Train with cross-entropy without logits, plus neural-collapse terms.

    Accumulation, launchers, mixed precision, reporting and checkpoints are the Trainer's own. Under
    DistributedDataParallel the terms see the tokens of all ranks, as in one process. With
    ``gradient_accumulation_steps`` above 1 a term sees each micro-batch by itself, as the Trainer
    never holds the whole batch; ``ncfast finetune`` and ``ncfast.training.Objective`` are exact
    there.

    Args:
        args, kwargs: those of ``transformers.Trainer``; ``processing_class`` is the tokenizer.
        terms: the terms by name; each brings its own weight. They are logged as ``nc/NAME``.

    Example:
        >>> NeuralCollapseTrainer(model, args, terms={"nc3": term}).train()  # doctest: +SKIP
    """

    def __init__(
        self, *args: Any, terms: Mapping[str, Regularizer] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if self.processing_class is None:
            raise ValueError("NeuralCollapseTrainer: processing_class is None; wanted a tokenizer")
        self._language = LanguageModel.from_pretrained_model(
            cast("torch.nn.Module", self.model), self.processing_class
        )
        self.terms = {k: term.to(self.args.device) for k, term in (terms or {}).items()}
        # So that the Trainer counts a whole batch's labels and leaves the dividing to us.
        self.model_accepts_loss_kwargs = True
        self._causal = self._language.kind == "causal"
        for callback in self.callback_handler.callbacks:
            if hasattr(callback, "attach"):  # NeuralCollapseCallback: it logs through this Trainer
                callback.attach(self)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the loss of a micro-batch, as the Trainer asks for it."""
        if return_outputs:  # evaluation with predictions wants the logits
            return super().compute_loss(model, inputs, True, num_items_in_batch)
        if self.accelerator.num_processes == 1:
            return self._loss(model, inputs, num_items_in_batch)
        inner = self._language.model
        return inside_forward(model, inner, lambda: self._loss(model, inputs, num_items_in_batch))

    def _loss(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None
    ) -> Tensor:
        language, labels = self._language, inputs["labels"]
        features = language.features(inputs["input_ids"], inputs.get("attention_mask"))
        if self._causal:
            features, labels = features[:, :-1], labels[:, 1:]
        x, y = features.flatten(0, 1), labels.flatten()
        scaled, weight, bias = language.scaled(x)
        # The Trainer's count: of causal labels before the shift, so that its curves are ours.
        counted = num_items_in_batch if model.training else None
        loss = linear_cross_entropy(
            scaled,
            weight,
            y,
            linear_bias=bias,
            softcap=language.softcap,
            num_tokens=counted,
        )
        if counted is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over ranks
        if model.training:
            share = 1 / self.args.gradient_accumulation_steps
            for term in self.terms.values():
                loss = loss + share * term(x.float(), y, language.head_weight)
        return loss

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, *args: Any, **kwargs: Any
    ) -> Any:
        """Evaluate the loss without logits where that is all that is wanted."""
        if not prediction_loss_only:
            return super().prediction_step(model, inputs, prediction_loss_only, *args, **kwargs)
        with torch.no_grad():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the terms' last values beside the loss."""
        for name, term in self.terms.items():
            logs |= {f"nc/{name}": float(term.last["value"])} if "value" in term.last else {}
        super().log(logs, *args, **kwargs)

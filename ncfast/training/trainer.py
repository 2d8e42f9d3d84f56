"""The same loss through the Hugging Face Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import Trainer

from ..losses import Regularizer
from .applied import Settings, applied_to
from .apply import innermost


class NeuralCollapseTrainer(Trainer):
    """Train with cross-entropy without logits, plus neural-collapse terms.

    The loss is the stock Trainer's to rounding, for every argument that touches it: what the model
    takes reaches it, what it adds (a router's loss) is added, ``label_smoothing_factor``
    smooths. Under DistributedDataParallel the terms see the tokens of all ranks, as in one process.
    With ``gradient_accumulation_steps`` above 1 a term sees each micro-batch by itself, as the
    Trainer never holds the whole batch; ``ncfast finetune`` and ``ncfast.training.Objective`` are
    exact there. Evaluation with predictions computes logits.

    Args:
        args, kwargs: those of ``transformers.Trainer``.
        terms: the terms by name; each brings its own weight. They are logged as ``nc/NAME``.

    Raises:
        ValueError: an option that cannot be honoured is set; the message names it.
        LanguageError: the model is none that :func:`ncfast.apply_to` takes.

    >>> from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments
    >>> config = GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=2, n_positions=16)
    >>> args = TrainingArguments("unused", use_cpu=True, report_to="none")
    >>> trainer = NeuralCollapseTrainer(GPT2LMHeadModel(config).eval(), args)
    >>> ids = Tensor(range(12)).long().view(2, 6)
    >>> round(trainer.compute_loss(trainer.model, {"input_ids": ids, "labels": ids}).item())
    4
    """

    def __init__(
        self, *args: Any, terms: Mapping[str, Regularizer] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._reject_unsupported()
        self._applied = applied_to(innermost(self.model))
        if self.args.label_smoothing_factor and self._applied.softcap:
            raise ValueError(
                f"NeuralCollapseTrainer: label_smoothing_factor is "
                f"{self.args.label_smoothing_factor} and {type(self._applied.model).__name__} caps "
                "its logits; expected 0 there: the sum of capped logits has no closed form"
            )
        self._predicting = False
        self.terms = {k: term.to(self.args.device) for k, term in (terms or {}).items()}
        for callback in self.callback_handler.callbacks:
            if hasattr(callback, "attach"):  # NeuralCollapseCallback: it logs through this Trainer
                callback.attach(self)

    def _reject_unsupported(self) -> None:
        """Raise where an option asks for what this Trainer cannot do."""
        state, sharded = self.accelerator.state, "it shards the head over ranks"
        unsupported = {
            "compute_loss_func": (self.compute_loss_func, "it takes logits, which are never made"),
            "use_liger_kernel": (self.args.use_liger_kernel, "it replaces the same loss"),
            "fsdp": (getattr(state, "fsdp_plugin", None), sharded),
            "deepspeed": (getattr(state, "deepspeed_plugin", None), sharded),
            "parallelism_config": (getattr(state, "parallelism_config", None), sharded),
            "n_gpu": (max(self.args.n_gpu - 1, 0), "DataParallel copies the model in every step"),
        }
        for name, (value, reason) in unsupported.items():
            if value:
                raise ValueError(
                    f"NeuralCollapseTrainer: {name} is set, and {reason}; expected it unset "
                    "(or transformers.Trainer)"
                )

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the loss of a micro-batch, as the Trainer asks for it."""
        if self._predicting or inputs.get("labels") is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        smoother, self.label_smoother = self.label_smoother, None  # it would ask for logits
        try:
            with self._applied.using(self._settings(num_items_in_batch)):
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        finally:
            self.label_smoother = smoother

    def _settings(self, num_items_in_batch: Tensor | int | None) -> Settings:
        """Return what the loss is, and the terms' share of this micro-batch."""
        share = 1.0
        if self.model_accepts_loss_kwargs and num_items_in_batch is not None:
            # The Trainer then divides by the whole batch's tokens and not by the steps, and
            # multiplies by the ranks what it averages over them.
            steps = self.args.gradient_accumulation_steps
            share /= getattr(self, "current_gradient_accumulation_steps", steps)
            if self.args.average_tokens_across_devices:
                share /= self.accelerator.num_processes
        smoothing = self.args.label_smoothing_factor
        # Where the Trainer smooths it divides by the whole batch's tokens, whatever the class does.
        return Settings(
            self.terms, share, smoothing or None, num_items_in_batch if smoothing else None
        )

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, *args: Any, **kwargs: Any
    ) -> Any:
        """Evaluate the loss without logits where that is all that is asked for."""
        self._predicting = not prediction_loss_only
        try:
            return super().prediction_step(model, inputs, prediction_loss_only, *args, **kwargs)
        finally:
            self._predicting = False

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the terms' last values beside the loss."""
        for name, term in self.terms.items():
            seen = "loss" in logs and "value" in term.last
            logs |= {f"nc/{name}": float(term.last["value"])} if seen else {}
        super().log(logs, *args, **kwargs)

"""The same loss through the Hugging Face Trainer."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Trainer

from ..errors import DataError
from ..language.errors import LanguageError
from ..losses import Regularizer
from .applied import Applied, Settings, applied_to
from .apply import by_name, innermost
from .checkpoints import kind_of_term

TERMS = "ncfast_terms.safetensors"


class NeuralCollapseTrainer(Trainer):
    """Train with cross-entropy without logits, plus neural-collapse terms.

    The loss is the stock Trainer's to rounding, for every argument that touches it: what the model
    takes reaches it, what it adds (a router's loss) is added, ``label_smoothing_factor``
    smooths. At the first and the last step and at every evaluation it is compared with the class's
    own on 16 tokens. Under DistributedDataParallel the terms see the tokens of all ranks, as in one
    process. With ``gradient_accumulation_steps`` above 1 a term sees each micro-batch by itself, as
    the Trainer never holds the whole batch; ``ncfast finetune`` and ``ncfast.training.Objective``
    are exact there. Evaluation with predictions computes logits. A checkpoint holds the terms'
    state: class means, and how far schedules are.

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
        given = by_name("NeuralCollapseTrainer", terms)
        super().__init__(*args, **kwargs)
        self._reject_unsupported()
        self._predicting, self._proven = False, -1  # the step at which the loss was compared
        self.terms = {k: term.to(self.args.device) for k, term in given.items()}
        # A model of model_init is a new one for each run, and so are its terms.
        self._fresh = copy.deepcopy({k: term.state_dict() for k, term in self.terms.items()})
        self._applied = self._applied_to(self.model)
        for callback in self.callback_handler.callbacks:
            if hasattr(callback, "attach"):  # NeuralCollapseCallback: it logs through this Trainer
                callback.attach(self)

    def _applied_to(self, model: Any) -> Applied:
        """Return the handle of a model, or raise where it cannot do what this Trainer is set to."""
        applied, smoothing = applied_to(innermost(model)), self.args.label_smoothing_factor
        if smoothing and applied.softcap:
            raise ValueError(
                f"NeuralCollapseTrainer: label_smoothing_factor is {smoothing} and "
                f"{type(applied.model).__name__} caps its logits; expected 0 there: the sum of "
                "capped logits has no closed form"
            )
        given = applied.settings
        if given is not None and (given.terms or given.label_smoothing):
            raise ValueError(
                "NeuralCollapseTrainer: the model has terms or label smoothing of ncfast.apply_to, "
                "which this Trainer would leave out; expected them as its own (terms=, "
                "label_smoothing_factor), or transformers.Trainer"
            )
        return applied

    def call_model_init(self, trial: Any = None) -> Any:
        """Return a new model, with fresh terms."""
        model = super().call_model_init(trial)
        if hasattr(self, "_fresh"):  # not while the Trainer itself is made
            self._applied = self._applied_to(model)
            for name, state in self._fresh.items():
                self.terms[name].load_state_dict(state)
        return model

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
        self._prove_first_and_last(model)
        smoother, self.label_smoother = self.label_smoother, None  # it would ask for logits
        self._applied.answered = False
        try:
            with self._applied.using(self._settings(num_items_in_batch)):
                found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        finally:
            self.label_smoother = smoother
        if not self._applied.answered:
            raise LanguageError(
                f"the loss did not come from the forward pass that NeuralCollapseTrainer put into "
                f"{type(self._applied.model).__name__}: the model, or its forward, was replaced or "
                "restored since; expected both to stay as they were when the Trainer was made"
            )
        return found

    def _prove_first_and_last(self, model: Any) -> None:
        """Compare the loss with the class's own at the first and the last step of a run."""
        step = self.state.global_step
        if model.training and step != self._proven and step in (0, self.state.max_steps - 1):
            self._proven = step
            self._applied.prove()

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate, after the loss was compared with the class's own."""
        self._applied.prove()
        return super().evaluation_loop(*args, **kwargs)

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

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save the terms' state as well."""
        super()._save_optimizer_and_scheduler(output_dir)
        if self.terms and self.args.should_save:
            found = {
                f"{name}.{key}": value.clone().contiguous()
                for name, term in self.terms.items()
                for key, value in term.state_dict().items()
            }
            kinds = {name: kind_of_term(term) for name, term in self.terms.items()}
            save_file(found, Path(output_dir) / TERMS, {"kinds": json.dumps(kinds)})

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load the terms' state as well."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if not self.terms or checkpoint is None:
            return
        path = Path(checkpoint) / TERMS
        if not path.exists():
            said = f"{checkpoint} holds no state of the terms: they begin anew"
            warnings.warn(said, stacklevel=2)
            return
        with safe_open(path, "pt") as file:
            noted = json.loads((file.metadata() or {}).get("kinds", "{}"))
        for name, term in self.terms.items():
            if (kind := kind_of_term(term)) != noted.get(name, kind):  # of before, none is noted
                raise DataError(
                    f"{path}: the state of term {name} is of a {noted[name]}; expected a {kind}"
                )
        saved = load_file(path)
        for name, term in self.terms.items():
            start = f"{name}."
            term.load_state_dict(
                {k.removeprefix(start): v for k, v in saved.items() if k.startswith(start)}
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

"""A callback that measures neural collapse while a Hugging Face Trainer trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback

from ..errors import DataError
from ..language import LanguageModel
from ..language.inspection import unwrapped
from ..language.modes import eval_mode
from ..metrics import neural_collapse
from ..statistics import ClassStatistics

SHOWN = ("unc3_std", "nc3_mean", "nc1_quotient", "norm_cov")


class NeuralCollapseCallback(TrainerCallback):
    """Measure the model on batches of one's own every so many steps, and log ``nc/*``.

    It only measures: loss, gradients, modes and random state stay as they are. It measures the
    model that is saved: in the dtype of its weights, without the autocast of ``bf16`` or ``fp16``.
    What it measures is kept in ``history`` and in the Trainer's ``log_history``; after
    :meth:`attach` it goes through ``Trainer.log``, and so to whatever the Trainer reports to
    (TensorBoard, W&B).

    Args:
        batches: dicts with ``input_ids``, ``labels`` (-100 to ignore) and whatever else the model's
            forward pass takes, as a collator makes them; read again at every measurement.
        tokenizer: of the model.
        classes: class ids to look at; None for all.
        every: steps between two measurements.
        shift: labels are the inputs, as transformers' causal models take them, and are shifted
            here; None: by kind of model.

    ``examples/trainer.py`` attaches one.
    """

    def __init__(
        self,
        batches: Iterable[dict[str, torch.Tensor]],
        tokenizer: Any,
        classes: Sequence[int] | torch.Tensor | None = None,
        every: int = 100,
        shift: bool | None = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"every={every}; expected at least 1 step")
        if isinstance(batches, Iterator):
            raise TypeError(
                f"NeuralCollapseCallback: batches is a {type(batches).__name__}, which is empty "
                "when it is read a second time; expected a list or a DataLoader"
            )
        self.batches, self.tokenizer, self.classes = batches, tokenizer, classes
        self.every, self.shift = every, shift
        self.history: list[dict[str, float]] = []
        self._log: Callable[[dict[str, float]], None] | None = None
        self._language: LanguageModel | None = None

    def attach(self, trainer: Any) -> NeuralCollapseCallback:
        """Add the callback to a Trainer, whose ``log`` then gets what it measures.

        transformers tells a callback nothing of its Trainer, so the list ``callbacks`` cannot do
        this. ``NeuralCollapseTrainer`` attaches those of its list itself.

        Args:
            trainer: a ``transformers.Trainer``; it may have the callback already.

        Returns:
            The callback.
        """
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        self._log = trainer.log
        return self

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Measure when it is time."""
        if state.global_step % self.every == 0:
            found = self.measure(kwargs["model"])
            self.history.append({"step": state.global_step, **found})
            if self._log is None:
                state.log_history.append({"step": state.global_step, **found})
            else:
                # Trainer.log clears should_log, by which the Trainer's own row would be lost.
                should_log = control.should_log
                self._log(found)
                control.should_log = should_log
        return control

    def measure(self, model: Any) -> dict[str, float]:
        """Measure a model on the callback's batches.

        Args:
            model: a masked or causal language model.

        Returns:
            The metrics, named ``nc/*``.
        """
        inner = unwrapped(model)
        with (
            eval_mode(model),
            torch.no_grad(),
            torch.random.fork_rng(),
            _without_autocast(inner),
        ):
            return self._measure(self._language_of(inner))

    def _language_of(self, model: Any) -> LanguageModel:
        """Return the model as features and head; its head is proven once."""
        if self._language is None or self._language.model is not model:
            self._language = LanguageModel.from_pretrained_model(model, self.tokenizer)
        return self._language

    def _measure(self, language: LanguageModel) -> dict[str, float]:
        wide = language.head_weight.dtype == torch.float64
        stats = ClassStatistics(
            language.vocab_size,
            language.hidden_size,
            self.classes,
            scatter=False,
            dtype=torch.float64 if wide else torch.float32,
            device=language.device,
        )
        shift = language.kind == "causal" if self.shift is None else self.shift
        for number, batch in enumerate(self.batches):
            if "labels" not in batch:
                raise DataError(
                    f"NeuralCollapseCallback: batch {number} has no labels (it has: "
                    f"{', '.join(batch)}); expected labels [B, T], -100 to ignore"
                )
            inputs = {
                name: value.to(language.device) if isinstance(value, torch.Tensor) else value
                for name, value in batch.items()
            }
            labels = inputs.pop("labels")
            features = language.features(**inputs)
            if shift:
                features, labels = features[:, :-1], labels[:, 1:]
            # As they are: the statistics note how coarse their features were stored.
            stats.update(features.flatten(0, 1), labels.flatten())
        if not stats.tokens:
            raise DataError(
                "NeuralCollapseCallback: no label of the batches is one of the classes it looks "
                "at; expected batches with some"
            )
        report = neural_collapse(stats, head_weight=language.head_weight.detach())
        return {f"nc/{key}": float(report[key]) for key in SHOWN if key in report}


@contextmanager
def _without_autocast(model: Any) -> Iterator[None]:
    """Take the autocast that accelerate has wrapped around a forward pass away, for a while."""
    own = vars(model)
    wrapped, original = own.get("forward"), own.get("_original_forward")
    if original is not None:
        own["forward"] = original
    try:
        with torch.autocast(next(model.parameters()).device.type, enabled=False):
            yield
    finally:
        if original is not None:
            own["forward"] = wrapped

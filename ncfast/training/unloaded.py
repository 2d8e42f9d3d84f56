"""A step of a model that is not there: what is planned from a configuration alone."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from ..language import LanguageModel
from ..language.errors import import_extra
from ..language.heads import find_head, read_softcap
from ..losses import DualityRegularizer
from .batches import Task, TrainingBatch
from .objective import Objective


def unchecked_model(model: Any, kind: Any = "causal") -> LanguageModel:
    """Wrap a model without a tokenizer, and without running it to check its head; it reads no
    text.
    """
    wrapped = LanguageModel.__new__(LanguageModel)
    wrapped.model, wrapped.kind, wrapped.name = model, kind, type(model).__name__
    wrapped.tokenizer, wrapped.feature_point, wrapped.max_positions = None, "head_input", None
    wrapped._extra_inputs = {"use_cache": False} if kind == "causal" else {}
    wrapped._head = find_head(model)
    wrapped.softcap = read_softcap(model.config)
    wrapped.vocab_size, wrapped.hidden_size = wrapped._head.weight.shape
    wrapped.input_rows = wrapped.tokenizer_rows = model.get_input_embeddings().weight.shape[0]
    return wrapped


def example_batch(blocks: int, block_size: int, classes: int, task: Task = "clm") -> TrainingBatch:
    """Make a batch of random tokens below ``classes`` that counts as a real one does: ``clm``
    predicts every token but the last, ``mlm`` 15 % of them.

    >>> example_batch(2, 8, 100).predicted
    14
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, classes, (blocks, block_size), generator=generator)
    labels = ids.clone()
    if task == "clm":
        labels[:, -1] = -100
    else:
        labels[torch.rand(ids.shape, generator=generator, dtype=torch.float32) >= 0.15] = -100
    return TrainingBatch(ids, torch.ones_like(ids), labels, labels, ids.numel())


def meta_model(config: Any, kind: str, lora: int, dtype: torch.dtype) -> Any:
    """Make a model of a configuration on the device ``meta``, ready to train.

    ``lora``: rank of adapters on all linear layers but the head, with peft; 0 for none.
    """
    import transformers

    made = {
        "causal": transformers.AutoModelForCausalLM,
        "masked": transformers.AutoModelForMaskedLM,
    }[kind]
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = made.from_config(config, dtype=dtype)
        if lora:
            peft = import_extra("peft", "planning LoRA")
            settings = peft.LoraConfig(r=lora, lora_alpha=2 * lora, target_modules="all-linear")
            model = peft.get_peft_model(model, settings)
    return model.train()


def unloaded_step(
    model: Any,
    kind: str,
    blocks: int,
    block_size: int,
    *,
    term_classes: int,
    micro_batches: int = 1,
    precision: str = "fp32",
) -> tuple[Objective, TrainingBatch]:
    """Return the objective of a model from :func:`meta_model`, and the batch of a step.

    ``term_classes`` of a (U)NC3 term, at most those there are; 0 for none. See :class:`Objective`.
    """
    wrapped, terms = unchecked_model(model, kind), {}
    if term_classes:
        classes = range(min(term_classes, wrapped.vocab_size))
        place = (wrapped.vocab_size, wrapped.hidden_size, classes)
        terms["nc3"] = DualityRegularizer(*place, warn_after=None).train()
    objective = Objective(wrapped, terms, micro_batches, precision)
    task: Task = "clm" if kind == "causal" else "mlm"
    return objective, example_batch(blocks, block_size, wrapped.vocab_size, task)

"""What fine-tuning does to a model besides training it: new heads, LoRA adapters, saving."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from ..language import LanguageError, LanguageModel
from ..language.loading import quieted


def with_new_head(model: LanguageModel, seed: int, asked: bool) -> LanguageModel:
    """Give an encoder an untrained masked-LM head, tied to its word embeddings.

    Not ``asked``, or no masked-LM class for this encoder, is a LanguageError.
    """
    if not asked:
        raise LanguageError(
            f"{model.name} is an encoder without a language-model head; expected a model with one, "
            "or --new-head to train a new masked-LM head on top of it"
        )
    import transformers

    torch.manual_seed(seed)
    encoder = model.model
    try:
        masked = transformers.AutoModelForMaskedLM.from_config(encoder.config)
    except ValueError as error:
        raise LanguageError(f"{model.name}: no masked-LM class for this encoder") from error
    missing, _ = masked.base_model.load_state_dict(encoder.state_dict(), strict=False)
    if missing:
        raise LanguageError(f"{model.name}: the encoder lacks {missing[0]}")
    masked.tie_weights()
    masked = masked.to(model.device, model.head_weight.dtype).eval()
    return LanguageModel.from_pretrained_model(masked, model.tokenizer, model.name)


def with_lora(model: LanguageModel, rank: int, seed: int) -> LanguageModel:
    """Add LoRA adapters to all linear layers but the head, and freeze the rest; rank 0 does
    nothing.
    """
    if not rank:
        return model
    try:
        import peft
    except ImportError as error:
        raise LanguageError("LoRA needs peft: pip install peft") from error
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    adapted = peft.get_peft_model(model.model, config)
    return LanguageModel.from_pretrained_model(
        adapted, model.tokenizer, model.name, model.feature_point
    )


def merged(model: LanguageModel) -> LanguageModel:
    """Return the model with LoRA adapters, if it has any, added into its weights."""
    if not hasattr(model.model, "merge_and_unload"):
        return model
    return LanguageModel.from_pretrained_model(
        model.model.merge_and_unload(), model.tokenizer, model.name, model.feature_point
    )


def save_model(model: LanguageModel, folder: Path) -> None:
    """Save model and tokenizer, whole or not at all, in place of what the folder held."""
    import transformers

    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with quieted(transformers, progress=False):
        model.model.save_pretrained(partial)
        model.tokenizer.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)

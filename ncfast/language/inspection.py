"""What a transformers model or tokenizer in memory says of itself."""

from __future__ import annotations

from typing import Any

from torch import nn

from .errors import LanguageError
from .loading import Kind, kind_of_architecture


def unknown_id_of(tokenizer: Any) -> int | None:
    """Return the id that stands for unknown words only, or None.

    Many byte-level tokenizers name their end-of-text token as unknown token too; since they know
    every byte, that token is then no sign of an unknown word.

    Args:
        tokenizer: a transformers tokenizer.

    Returns:
        The id, or None.
    """
    unknown = tokenizer.unk_token_id
    others = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return None if unknown is None or unknown in others else int(unknown)


def kind_of(model: Any) -> Kind:
    """Tell what kind of language model an object in memory is.

    Args:
        model: a transformers model, possibly inside a peft wrapper.

    Returns:
        ``"masked"``, ``"causal"`` or ``"encoder"``.

    Raises:
        LanguageError: it is an encoder-decoder or has a head for another task.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    name = type(inner).__name__
    kind = kind_of_architecture(name, getattr(inner, "config", None))
    if kind is None:
        raise LanguageError(
            f"{name} is not a masked or causal language model, nor a bare encoder; "
            "wanted a class such as BertForMaskedLM, GPT2LMHeadModel or BertModel"
        )
    return kind


def read_max_positions(model: Any) -> int | None:
    """Read how many positions a model accepts.

    Args:
        model: a transformers model.

    Returns:
        The number, or None when its configuration states none.
    """
    config = model.config
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    for name, module in model.named_modules():
        is_table = name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
        # RoBERTa counts positions from padding_idx + 1, so it has that many fewer.
        if is_table and module.padding_idx is not None:
            return module.num_embeddings - module.padding_idx - 1
    return int(limit) if isinstance(limit, int) and limit > 0 else None

"""What a transformers model or tokenizer in memory says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import nn

from .errors import ROAD, LanguageError
from .loading import Kind, kind_of_architecture, task_of


class Wrapped(Protocol):
    """Name what of a ``models.LanguageModel`` is asked here."""

    model: Any
    name: str
    kind: Kind
    feature_point: Any
    special_ids: frozenset[int]
    softcap: float
    logit_scale: float
    vocab_size: int
    hidden_size: int
    tokenizer_rows: int
    input_rows: int
    out_of_vocabulary_from: int
    max_positions: int | None

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        ...

    def features(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return [B, T, D] features."""
        ...


_FLAT = (
    "which flattens its weights into pieces; expected the model before it is wrapped, torch's "
    "fully_shard around one that ncfast has wrapped, or FullyShardedDataParallel around layers only"
)


def unwrapped(model: Any) -> Any:
    """Return the model inside torch.compile, DataParallel, DDP or a DeepSpeed engine; peft stays.

    Raises LanguageError for FullyShardedDataParallel around it, its head or its embedding, and
    where DeepSpeed has divided its weights among ranks (ZeRO stage 3).

    >>> layer = nn.Linear(2, 2)
    >>> unwrapped(torch.compile(layer)) is layer
    True
    """
    while True:
        name = type(model).__name__
        if name == "OptimizedModule" and hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif name in ("DistributedDataParallel", "DataParallel", "DeepSpeedEngine"):
            model = model.module
        elif name == "FullyShardedDataParallel":
            raise LanguageError(f"the model is wrapped by {name}, {_FLAT}")
        else:
            break
    _check_whole(model)
    sharded = [m for m in _modules(model) if type(m).__name__ == "FullyShardedDataParallel"]
    if sharded:
        ends = (model.get_input_embeddings(), model.get_output_embeddings())
        inside = {id(module) for whole in sharded for module in whole.modules()}
        if any(id(end) in inside for end in ends):
            raise LanguageError(
                f"head or embedding of the model are inside FullyShardedDataParallel, {_FLAT}"
            )
    return model


def _check_whole(model: Any) -> None:
    """Raise where DeepSpeed's ZeRO stage 3 keeps pieces of the weights on other ranks."""
    if not isinstance(model, nn.Module):
        return
    pieces = [n for n, p in model.named_parameters() if hasattr(p, "ds_tensor")]
    if pieces:
        raise LanguageError(
            f"the weights of {type(model).__name__} are divided among ranks by DeepSpeed's ZeRO "
            f"stage 3 ({pieces[0]} first of {len(pieces)}); expected stage 2 or below, or the "
            "model before deepspeed.initialize"
        )


def _modules(model: Any) -> Iterator[nn.Module]:
    return model.modules() if isinstance(model, nn.Module) else iter(())


def unknown_id_of(tokenizer: Any) -> int | None:
    """Return the id that stands for unknown words only, or None.

    Many byte-level tokenizers name their end-of-text token as unknown token too; since they know
    every byte, that token is then no sign of an unknown word.
    """
    unknown = tokenizer.unk_token_id
    others = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return None if unknown is None or unknown in others else int(unknown)


def kind_of(model: Any) -> Kind:
    """Return ``"masked"``, ``"causal"`` or ``"encoder"`` of a transformers model, inside peft or
    not.

    An encoder-decoder or a head for another task is a LanguageError.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    name, config = type(inner).__name__, getattr(inner, "config", None)
    kind = kind_of_architecture(name, config)
    task = task_of(name, config)
    if kind is None and not task:  # a user's own class, derived from one with a head
        parents = (kind_of_architecture(cls.__name__, config) for cls in type(inner).__mro__)
        kind = next((found for found in parents if found in ("masked", "causal")), None)
    if kind is None:
        what = task or "of another task"
        raise LanguageError(
            f"{name} is {what}, not a masked or causal language model, nor a bare "
            "encoder; expected a class such as BertForMaskedLM, GPT2LMHeadModel or BertModel: for "
            f"another, {ROAD}"
        )
    return kind


def read_max_positions(model: Any) -> int | None:
    """Read how many positions a model accepts; None when its configuration states none."""
    config = model.config
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    for name, module in model.named_modules():
        is_table = name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
        # RoBERTa counts positions from padding_idx + 1, so it has that many fewer.
        if is_table and module.padding_idx is not None:
            return module.num_embeddings - module.padding_idx - 1
    return int(limit) if isinstance(limit, int) and limit > 0 else None


def check_inputs(
    model: Wrapped,
    input_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    others: dict[str, Any],
) -> None:
    """Raise for inputs of shapes that the model would misread: ids [B, T] int64, a mask of the same
    shape or of another form, ``others`` as the forward pass gets them, and more positions than it
    has.
    """
    embeddings = others.get("inputs_embeds")
    if (input_ids is None) == (embeddings is None):
        given = "neither" if input_ids is None else "both"
        raise LanguageError(f"{given} of input_ids and inputs_embeds given; expected one of them")
    tokens = input_ids if embeddings is None else embeddings[..., 0]
    assert tokens is not None
    # Rare, so that most models pay for no look at the values.
    some_beyond = model.tokenizer_rows > model.input_rows
    if some_beyond and input_ids is not None and bool((input_ids >= model.input_rows).any()):
        raise LanguageError(
            f"input_ids hold {int(input_ids.max())}; the input embedding of {model.name} has "
            f"{model.input_rows} rows"
        )
    plain = attention_mask is None or attention_mask.dim() != 2
    if tokens.dim() != 2 or not (plain or attention_mask.shape == tokens.shape):  # type: ignore[union-attr]
        mask = None if attention_mask is None else tuple(attention_mask.shape)
        raise LanguageError(
            f"input_ids {tuple(tokens.shape)} and attention_mask {mask}; "
            "expected two tensors of one shape [B, T]"
        )
    # Positions given by the caller (packed texts) start anew with each text.
    length = tokens.shape[1] if others.get("position_ids") is None else 0
    if model.max_positions is not None and length > model.max_positions:
        raise LanguageError(
            f"{length} positions given; {model.name} takes at most "
            f"{model.max_positions}: use a smaller block size"
        )


def describe(model: Wrapped) -> tuple[str, ...]:
    """Return the sentences that a report should say first about a model."""
    notes = []
    if model.kind == "encoder":
        notes.append(
            f"{model.name} is an encoder without a language-model head: its INPUT word "
            "embeddings stand in for head rows, so this is no claim about word prediction."
        )
    if model.feature_point == "encoder_out" and model.kind != "encoder":
        notes.append(
            "features are the encoder's output, before what the head multiplies "
            "(feature_point='encoder_out')"
        )
    spare = model.vocab_size - model.out_of_vocabulary_from
    if spare:
        notes.append(
            f"padded vocabulary: the last {spare} of {model.vocab_size} head rows belong to "
            "no token of the tokenizer; they are out of vocabulary"
        )
    if model.tokenizer_rows > model.vocab_size:
        notes.append(
            f"the tokenizer knows {model.tokenizer_rows} ids but the head has "
            f"{model.vocab_size} rows; the ids beyond are out of vocabulary"
        )
    if model.logit_scale != 1.0:
        notes.append(
            f"logits are scaled by {model.logit_scale:g} after the head; features and head rows "
            "are measured as the head multiplies them"
        )
    if model.softcap:
        notes.append(f"logits are soft-capped at {model.softcap:g}")
    return tuple(notes)

"""Whether weights and tokenizer of a folder belong to the model that its configuration makes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .errors import LanguageError

_FLOATS = ("F64", "F32", "F16", "BF16", torch.float64, torch.float32, torch.float16, torch.bfloat16)

# Special tokens that blocks of text are built with.
ROLES = ("pad", "mask", "cls", "sep")


def check_weights(model: nn.Module, info: Mapping[str, Any], name: str) -> None:
    """Raise where a checkpoint holds other weights than its configuration asks for.

    Missing weights would be random numbers, and weights without a place are a computation that is
    left out: a layer more, a bias, a norm. Heads for other tasks and poolers may stay unused.
    ``info`` is transformers' ``output_loading_info``, of a model loaded with mismatches ignored.
    """
    kind = type(model).__name__
    if missing := sorted(info["missing_keys"]):
        raise LanguageError(
            f"the checkpoint {name} lacks {len(missing)} weights that {kind} needs, "
            f"for example {', '.join(missing[:3])}; they would have been filled with random "
            "numbers. Expected a complete checkpoint"
        )
    if mismatched := sorted(info.get("mismatched_keys") or ()):
        key, stored, needed = mismatched[0]
        raise LanguageError(
            f"the checkpoint {name} holds {len(mismatched)} weights of other shapes than its "
            f"config.json makes {kind} of, for example {key}: {_shape(stored)} in the file; "
            f"expected {_shape(needed)}"
        )
    if unused := _unused(model, info.get("unexpected_keys") or ()):
        raise LanguageError(
            f"the checkpoint {name} holds {len(unused)} weights for which its config.json gives "
            f"{kind} no place, for example {', '.join(unused[:3])}; the model would compute "
            "without them. Expected the config.json that was saved with the weights"
        )


def _unused(model: nn.Module, keys: Iterable[str]) -> list[str]:
    """Return the weights that belong to modules or to lists of layers of the model."""
    modules = {name for name, _ in model.named_modules()}
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    # Buffers that once were saved and now are computed (position_ids, inv_freq) carry nothing.
    buffers = {name.rpartition(".")[2] for name, _ in model.named_buffers()}
    inside = [re.compile(rf"(?:.*\.)?{re.escape(name)}\.\d+\.") for name in lists]
    # The base model's keys may come without its prefix, or with one more.
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    found = []
    for key in keys:
        owner, _, last = key.rpartition(".")
        places = {key, key.removeprefix(prefix), prefix + key}
        owners = {owner, owner.removeprefix(prefix), prefix + owner} - {"", prefix}
        of_layer = any(pattern.match(place) for pattern in inside for place in places)
        if last not in buffers and (of_layer or owners & modules):
            found.append(key)
    return sorted(found)


def check_stored_dtypes(model: nn.Module, folder: str, name: str) -> None:
    """Raise where a file stores a weight as integers or 8-bit floats and config.json has no
    ``quantization_config``: transformers casts them to the model's dtype, without the scales that
    make them weights. ``folder``: local, or a hub name whose files are in the cache.
    """
    if getattr(model.config, "quantization_config", None) is not None:
        return
    floating = {key for key, p in model.named_parameters() if p.is_floating_point()}
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    for path in _weight_files(folder):
        for key, dtype in _stored_dtypes(path):
            known = {key, key.removeprefix(prefix), prefix + key} & floating
            if known and dtype not in _FLOATS:
                raise LanguageError(
                    f"{path.name} of the checkpoint {name} stores {key} as {dtype}, and its "
                    "config.json has no quantization_config that says what the numbers stand for; "
                    "expected weights in float64, float32, float16 or bfloat16"
                )


def _weight_files(folder: str) -> list[Path]:
    from transformers.utils import cached_file

    config = cached_file(folder, "config.json", local_files_only=True)
    place = Path(str(config)).parent
    return sorted(place.glob("model*.safetensors")) or sorted(place.glob("pytorch_model*.bin"))


def _stored_dtypes(path: Path) -> list[tuple[str, Any]]:
    """Return names and dtypes of a file's tensors, of which none is read."""
    if path.suffix == ".bin":
        tensors = torch.load(path, map_location="meta", weights_only=True)
        return [(key, t.dtype) for key, t in tensors.items() if isinstance(t, torch.Tensor)]
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return [(key, file.get_slice(key).get_dtype()) for key in file.keys()]  # noqa: SIM118


def check_tokenizer(model: nn.Module, tokenizer: Any, name: str, causal: bool) -> tuple[str, ...]:
    """Raise where a tokenizer cannot be the one that a model was trained with.

    That is: no ordinary token, ids beyond the input embedding that texts can hold, fewer than half
    of its rows, or another padding token than the one the embedding is made for (models that are
    not causal may count positions from it). Returns what a report should say first: special tokens
    that the configuration has elsewhere.
    """
    vocabulary = tokenizer.get_vocab()
    words: Any = model.get_input_embeddings()  # type: ignore[operator]
    rows, known = words.weight.shape[0], max(vocabulary.values(), default=-1) + 1
    if set(vocabulary.values()) <= _all_special(tokenizer):
        raise LanguageError(
            f"the tokenizer of {name} knows {len(vocabulary)} special tokens and no word; expected "
            "the tokenizer's files (tokenizer.json, or the vocabulary) in the folder of the model"
        )
    # Libraries give a tokenizer an end token that it lacks: it stays unused, and is noted.
    inserted = {getattr(tokenizer, f"{role}_token_id", None) for role in ROLES}
    unused = _all_special(tokenizer) - inserted
    beyond = sorted((i, token) for token, i in vocabulary.items() if i >= rows and i not in unused)
    if beyond:
        listed = ", ".join(f"{token!r} ({index})" for index, token in beyond[:3])
        raise LanguageError(
            f"the tokenizer of {name} knows {known} ids but the input embedding has {rows} rows: "
            f"{len(beyond)} tokens have none, for example {listed}; expected the tokenizer that "
            "the model was trained with, or model.resize_token_embeddings(len(tokenizer))"
        )
    if 2 * known < rows:
        raise LanguageError(
            f"the tokenizer of {name} knows {known} ids but the input embedding has {rows} rows, "
            "more than twice as many; expected the tokenizer that the model was trained with"
        )
    padding, own = getattr(words, "padding_idx", None), tokenizer.pad_token_id
    if not causal and None not in (padding, own) and padding != own:
        raise LanguageError(
            f"the padding token of the tokenizer of {name} is {tokenizer.pad_token!r} ({own}), but "
            f"the input embedding is padded with row {padding} (pad_token_id); expected the "
            "tokenizer that the model was trained with"
        )
    return _special_elsewhere(model, tokenizer, {index: t for t, index in vocabulary.items()})


def padding_within(model: nn.Module, tokenizer: Any) -> None:
    """Let a causal model's tokenizer pad with its end token where its own padding has no row.

    A padding token that was added and never trained is common; padding is masked either way.
    """
    rows = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    padding, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    if padding is not None and padding >= rows and end is not None and end < rows:
        tokenizer.pad_token = tokenizer.eos_token


def _all_special(tokenizer: Any) -> set[int]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return set(tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}


def _special_elsewhere(model: Any, tokenizer: Any, tokens: Mapping[int, str]) -> tuple[str, ...]:
    """Say which special tokens of the configuration are ordinary words of the tokenizer."""
    special = set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", {}))
    found = []
    for role in ("bos_token_id", "eos_token_id", "pad_token_id"):
        given = getattr(model.config, role, None)
        for index in given if isinstance(given, list | tuple) else [given]:
            if isinstance(index, int) and index in tokens and index not in special:
                found.append(f"{role} {index} is {tokens[index]!r}")
    if not found:
        return ()
    return (
        "special tokens of the model's configuration are ordinary words of the tokenizer "
        f"({'; '.join(found)}): is it the tokenizer that the model was trained with?",
    )


def _shape(shape: Iterable[int]) -> str:
    return "[" + ", ".join(str(size) for size in shape) + "]"

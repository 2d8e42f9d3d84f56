"""Tiny random models of every class that transformers' auto mappings name, built from nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

VOCABULARY = 99
LARGEST = 4_000_000  # parameters; what stays larger is not tiny

# What makes a model small, by the names that configurations use.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "model_dim"), 32),
    **dict.fromkeys(("embedding_size", "d_embed", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "multi_query_group_num"), 2),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "n_inner", "d_inner"), 64),
    **dict.fromkeys(("hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_hidden_size"), 64),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 64),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "experts_per_token", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "attention_head_dim", "d_head"), 16),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "entity_vocab_size"), VOCABULARY),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0),
    "type_vocab_size": 2,
    "max_2d_position_embeddings": 64,
    "cls_token_id": 0,
    "sep_token_id": 0,
    "mask_token_id": 4,
    "rnn_hidden_size": 32,
    "attention_hidden_size": 32,
    "lru_width": 32,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "qk_head_dim": 16,
    "v_head_dim": 16,
    "state_size": 4,
    "ssm_state_size": 4,
    "time_step_rank": 4,
    "hidden_size_per_layer_input": 8,
    "bottleneck_size": 16,
}
# Names above that mean something else in one family, or have to fit each other there.
OTHERWISE: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"head_dim": 8, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "deepseek_v3": {"head_dim": 8},
    "axk1": {"head_dim": 8},
    "codegen": {"rotary_dim": 8},
    "xmod": {"default_language": "en_XX"},
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "bamba": {"mamba_n_heads": 4, "mamba_d_head": 16},
    "granitemoehybrid": {"mamba_n_heads": 4, "mamba_d_head": 16},
    "esm": {"vocab_size": VOCABULARY, "pad_token_id": 0, "mask_token_id": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "ministral": {"head_dim": 16},
    "nemotron": {"head_dim": 16, "num_key_value_heads": 2},
    "zaya": {"num_experts_per_tok": 1},
    "roc_bert": {
        "pronunciation_vocab_size": 20,
        "shape_vocab_size": 20,
        "pronunciation_embed_dim": 8,
        "shape_embed_dim": 8,
    },
    "reformer": {
        "axial_pos_embds": False,
        "attn_layers": ["local", "lsh"],
        "num_buckets": 2,
        "lsh_attn_chunk_length": 8,
        "local_attn_chunk_length": 8,
        "is_decoder": False,
    },
    "perceiver": {"num_latents": 8, "d_latents": 32, "num_self_attends_per_block": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "cpmant": {"prompt_types": 3},
}
PADDED_WITH = {"mpnet": 1}  # whatever its configuration says


@dataclass(frozen=True)
class Case:
    """Name one class of one family."""

    mapping: str
    model_type: str
    class_name: str

    def __str__(self) -> str:
        return f"{self.mapping}:{self.model_type}:{self.class_name}"


def cases() -> list[Case]:
    """List every class of the masked and causal mappings, and the encoders of both."""
    from transformers.models.auto import modeling_auto as auto

    masked = auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    mappings = {
        "masked": masked,
        "causal": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "encoder": {
            t: auto.MODEL_MAPPING_NAMES[t] for t in masked if t in auto.MODEL_MAPPING_NAMES
        },
    }
    found: dict[tuple[str, str], Case] = {}
    for mapping, names in mappings.items():
        for model_type, name in names.items():
            first = name if isinstance(name, str) else name[0]
            found.setdefault((model_type, first), Case(mapping, model_type, first))
    return list(found.values())


def _smaller(config: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that make a configuration small, those of its parts too."""
    chosen: dict[str, Any] = {}
    for name, value in config.to_dict().items():
        if name in given:
            chosen[name] = given[name]
        elif name in SIZES and value is not None and not isinstance(value, (list, dict)):
            chosen[name] = SIZES[name]
    for part in getattr(config, "sub_configs", {}) or {}:
        inner = getattr(config, part, None)
        if inner is not None and hasattr(inner, "to_dict"):
            chosen[part] = _smaller(inner, given)
    return chosen


def config_of(case: Case) -> Any:
    """Return a small configuration of a family."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config_class = CONFIG_MAPPING[case.model_type]
    own = getattr(getattr(transformers, case.class_name), "config_class", None)
    if own is not None and case.mapping != "encoder":
        config_class = own  # a text model of a family of many parts
    given = OTHERWISE.get(case.model_type, {})
    extra = {k: v for k, v in given.items() if not hasattr(config_class(), k)}
    return config_class(**(_smaller(config_class(), given) | extra))


def build(case: Case) -> torch.nn.Module:
    """Build one model with random weights of which none is zero or one.

    Raises:
        ValueError: it does not become tiny, or its class does not exist here.
    """
    import transformers

    model_class = getattr(transformers, case.class_name, None)
    if model_class is None:
        raise ValueError("transformers exports no such class")
    config = config_of(case)
    if case.class_name == "ReformerModelWithLMHead":
        config.is_decoder = True
    with torch.device("meta"):
        size = sum(p.numel() for p in model_class(config).parameters())
    if size > LARGEST:
        raise ValueError(f"it stays at {size:,} parameters")
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():  # zero biases and unit layer norms would hide mistakes
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def tokenizer(case: Case) -> Any:
    """Return the part of a tokenizer that a language model reads."""
    padding = PADDED_WITH.get(case.model_type, 0)
    return SimpleNamespace(
        all_special_ids=[0, 1, 2, 3, 4],
        unk_token_id=1,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=padding,
        pad_token=f"t{padding}",
        mask_token_id=4,
        get_vocab=lambda: {f"t{i}": i for i in range(VOCABULARY)},
    )


def batches(count: int, length: int = 16) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Give token ids [2, T] and random labels [2, T] of some of them."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        ids = torch.randint(5, VOCABULARY, (2, length), generator=generator)
        yield ids, torch.rand(ids.shape, generator=generator)

"""Tiny random models of many families, without dropout, for tests of what every family shares."""

from __future__ import annotations

import torch

VOCABULARY = 64
_SMALL = dict(
    vocab_size=VOCABULARY,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=32,
)
_LLAMA = dict(_SMALL, num_key_value_heads=1, pad_token_id=0, bos_token_id=1, eos_token_id=2)
_GPT2 = dict(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2)
_STILL = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
_DISTILBERT = dict(vocab_size=VOCABULARY, dim=16, n_layers=1, n_heads=2, hidden_dim=24)
_OPT = dict(ffn_dim=24, word_embed_proj_dim=16, dropout=0.0, pad_token_id=0)
_XLM = dict(vocab_size=VOCABULARY, emb_dim=16, n_layers=1, n_heads=2)

# Class: configuration. What makes each one different stands beside it.
FAMILIES = {
    "LlamaForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": _LLAMA,
    "Qwen3ForCausalLM": dict(_LLAMA, head_dim=8, tie_word_embeddings=True),
    "Gemma2ForCausalLM": dict(_LLAMA, head_dim=8, final_logit_softcapping=0.7),  # soft-cap
    "CohereForCausalLM": dict(_LLAMA, logit_scale=0.3),  # scale
    "GraniteForCausalLM": dict(_LLAMA, logits_scaling=3.0),  # scale
    "MixtralForCausalLM": dict(  # a router's loss
        _LLAMA, num_local_experts=4, output_router_logits=True, router_aux_loss_coef=0.5
    ),
    "PhiForCausalLM": dict(_SMALL, attn_pdrop=0.0, resid_pdrop=0.0),  # bias
    "GPTNeoXForCausalLM": _SMALL,
    "GPT2LMHeadModel": dict(_GPT2, n_positions=32, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0),
    "OPTForCausalLM": dict(_SMALL, **_OPT),
    "BloomForCausalLM": dict(_GPT2, hidden_size=16),
    "MambaForCausalLM": dict(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1),
    "BertForMaskedLM": dict(_SMALL, **_STILL),
    "RobertaForMaskedLM": dict(_SMALL, **_STILL),
    "DistilBertForMaskedLM": dict(_DISTILBERT, dropout=0.0, attention_dropout=0.0),
    "AlbertForMaskedLM": dict(_SMALL, embedding_size=8),  # a head narrower than its encoder
    "ModernBertForMaskedLM": dict(
        _SMALL, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2
    ),
    "DebertaV2ForMaskedLM": dict(_SMALL, **_STILL, legacy=False),  # a head that is no module
    "XLMWithLMHeadModel": dict(_XLM, dropout=0.0, attention_dropout=0.0),  # loss in the head
}


def build(name: str, **changes):
    """Return a family's model, in training mode, with the same weights every time."""
    import transformers

    cls = getattr(transformers, name)
    torch.manual_seed(0)
    model = cls(cls.config_class(**FAMILIES[name] | changes))
    with torch.no_grad():
        for parameter in model.parameters():  # no part starts as the identity
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.train()


def batch(rows: int = 3, length: int = 10) -> dict[str, torch.Tensor]:
    """Return ids, mask and labels, some of which are ignored."""
    ids = torch.randint(5, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, 4:6] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}

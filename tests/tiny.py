"""A tiny random language model and a text, as files: what the jobs and the command line take."""

from __future__ import annotations

from pathlib import Path

import numpy as np

GENDER = ["she", "he", "her", "his", "woman", "man", "mother", "father", "queen", "king"]
OTHER = [
    start + end
    for start in ("ba", "ce", "di", "fo", "gu", "ka", "le", "mi", "no", "pu")
    for end in ("nt", "rd", "lk", "sp", "mb")
]


def _tokenizer():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*special, *GENDER, *OTHER, "##s", "##ing"])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def byte_tokenizer(lines, vocab_size: int, special: str = ""):
    """Train a byte-level BPE tokenizer like GPT-2's, in which " the" is not "The".

    ``special``, if any, is what begins a text, ends it, and stands for the unknown.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[special] if special else [],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(lines, trainer)
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), special) if special else {}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def _model(kind: str, vocab_size: int):
    import torch
    import transformers as t

    torch.manual_seed(1)
    small = dict(
        vocab_size=vocab_size,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=64,
    )
    if kind == "causal":
        return t.GPT2LMHeadModel(
            t.GPT2Config(vocab_size=vocab_size, n_embd=16, n_layer=2, n_head=2, n_positions=64)
        )
    return {"masked": t.BertForMaskedLM, "encoder": t.BertModel}[kind](t.BertConfig(**small))


def write_model(folder: Path, kind: str) -> Path:
    """Write a random "masked", "causal" or "encoder" model with its tokenizer."""
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(folder)
    _model(kind, len(tokenizer)).save_pretrained(folder)
    return folder


def write_text(path: Path) -> Path:
    """Write 600 lines whose words are as unequally frequent as in real text."""
    generator = np.random.default_rng(0)
    words = np.asarray([*GENDER, *OTHER, "unknownword", "banting"])
    generator.shuffle(words)
    share = 1.0 / np.arange(1, len(words) + 1)
    lines = [
        " ".join(generator.choice(words, size=generator.integers(3, 20), p=share / share.sum()))
        for _ in range(600)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path

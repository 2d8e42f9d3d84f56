"""Small real tokenizers, trained in the test on a few sentences: nothing is downloaded."""

from __future__ import annotations

import pytest

from tests import tiny

SENTENCES = [
    "The nurse said that she would help the old man and his wife.",
    "He is the king and she is the queen of a small country by the sea.",
    "A father and a mother told their son and their daughter a story.",
    "The doctor said he was late; the actress said she was not.",
    "His sister and her brother walked with the boy and the girl.",
    "Unbelievable stories were told by the waiter and the waitress.",
    "Men and women, boys and girls, kings and queens live here.",
]


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    return list(SENTENCES)


@pytest.fixture(scope="session")
def wordpiece_tokenizer():
    """A lower-casing WordPiece tokenizer with BERT's special tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=99, special_tokens=special, show_progress=False, min_frequency=2
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


@pytest.fixture(scope="session")
def byte_tokenizer():
    """A byte-level BPE tokenizer like GPT-2's: no mask token, end of text as everything else."""
    lines = [text for text in SENTENCES for _ in range(3)]
    return tiny.byte_tokenizer(lines, 420, "<|endoftext|>")

"""A tiny random language model and a text, as files: what the jobs and the command line take."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent

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


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the folder of a random "masked", "causal" or "encoder" model."""
    pytest.importorskip("transformers")
    root, made = tmp_path_factory.mktemp("models"), {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = root / f"tiny-{kind}"
            tokenizer = _tokenizer()
            tokenizer.save_pretrained(made[kind])
            _model(kind, len(tokenizer)).save_pretrained(made[kind])
        return made[kind]

    return folder


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a text of 600 lines whose words are as unequally frequent as in real text."""
    generator = np.random.default_rng(0)
    words = np.asarray([*GENDER, *OTHER, "unknownword", "banting"])
    generator.shuffle(words)
    share = 1.0 / np.arange(1, len(words) + 1)
    lines = [
        " ".join(generator.choice(words, size=generator.integers(3, 20), p=share / share.sum()))
        for _ in range(600)
    ]
    path = tmp_path_factory.mktemp("text") / "tiny.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def cuda_host() -> Path:
    """Build the CUDA kernels on the host emulator, or find them built, and load them.

    ``NCFAST_TEST_EMULATOR=small`` or ``races`` takes that build of csrc/build_cuda.py instead.
    """
    from ncfast import native_cuda

    kind = os.environ.get("NCFAST_TEST_EMULATOR", "")
    path = _built_by("host", f"libncfast_cuda_host{kind}", *([f"--{kind}"] if kind else []))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NCFAST_CUDA_HOST_LIBRARY", str(path))
        native_cuda._load.cache_clear()
        assert native_cuda._load("cuda-host") == ""
        yield path
    native_cuda._load.cache_clear()


def _build_cuda() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_cuda", ROOT / "csrc/build_cuda.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _built_by(kind: str, name: str, *options: str) -> Path:
    """Return a library that csrc/build_cuda.py builds, from build/ if its sources are the same."""
    building = _build_cuda()
    path = ROOT / "build" / f"{name}-{building.sources_hash()}.so"
    with building.object_cache.locked(path.with_suffix(".lock")):  # of two workers one builds
        if not path.exists():
            command = [sys.executable, str(ROOT / "csrc/build_cuda.py"), kind, str(path), *options]
            result = subprocess.run(command, capture_output=True, text=True)
            assert result.returncode == 0, result.stderr[-4000:]
    return path


@pytest.fixture(scope="session")
def cuda_library() -> Path:
    """Build the library for GPUs, or find it built; skip where there is no nvcc."""
    if _build_cuda().find_nvcc() is None:
        pytest.skip("no nvcc: pip install 'ncfast[cuda-build]' or set CUDA_HOME")
    return _built_by("device", "libncfast_cuda")


@pytest.fixture(scope="session")
def cuda_host_sanitized() -> Path:
    """Build the host emulator's library under AddressSanitizer and UBSan, or find it built."""
    return _built_by("host", "libncfast_cuda_host_sanitized", "--sanitize")

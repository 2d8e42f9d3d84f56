"""A checkpoint in one GGUF file: a model like any other, that can be trained and saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ncfast.language.models import LanguageModel

transformers = pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf")

WIDTH, INNER = 16, 32


def write_llama(path: Path) -> None:
    """Write a random Llama of one layer, with a byte-level tokenizer of one merge."""
    words = ["<unk>", "<s>", "</s>", *map(chr, range(33, 60)), '!"']
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(words))
    writer.add_token_merges(['! "'])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    square = {f"attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
    shapes = {
        "token_embd": (len(words), WIDTH),
        "output_norm": (WIDTH,),
        "blk.0.attn_norm": (WIDTH,),
        "blk.0.ffn_norm": (WIDTH,),
        "blk.0.ffn_gate": (INNER, WIDTH),
        "blk.0.ffn_up": (INNER, WIDTH),
        "blk.0.ffn_down": (WIDTH, INNER),
        **{f"blk.0.{name}": shape for name, shape in square.items()},
    }
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_model_from_gguf_can_be_trained_and_saved(tmp_path):
    write_llama(tmp_path / "tiny.gguf")
    language = LanguageModel.load(str(tmp_path / "tiny.gguf"), progress=False)
    ids = torch.arange(8)[None]
    language.features(ids).square().sum().backward()
    weight = next(iter(language.model.model.layers)).mlp.up_proj.weight
    assert weight.grad.abs().sum() > 0
    # transformers marks what it reads from GGUF as quantised, and refuses to save that.
    language.model.save_pretrained(tmp_path / "saved")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        assert torch.equal(again(ids).logits, language.model(ids).logits)


def test_a_gguf_file_is_read_with_a_bar_only_where_one_is_asked_for(tmp_path, capfd):
    write_llama(tmp_path / "tiny.gguf")
    for progress in (True, False, True):  # what held the bar back gives it back
        LanguageModel.load(str(tmp_path / "tiny.gguf"), progress=progress)
        said = capfd.readouterr()
        assert said.out == ""
        assert ("de-quantizing" in said.err) == progress
        assert progress or not said.err

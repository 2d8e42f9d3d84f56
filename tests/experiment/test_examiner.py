"""What a model is asked, trained or not: the same text to the same end, in the same precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ncfast.experiment import load_protocol
from ncfast.experiment.cells import Cell
from ncfast.experiment.examiner import held_out_perplexity
from ncfast.experiment.grid import parse_cell
from ncfast.experiment.laboratory import Laboratory
from ncfast.finetune import evaluate
from ncfast.finetune.texts import batches_kept_back, read_as_given
from ncfast.language import LanguageModel


def laboratory(tiny_protocol, tmp_path, **training) -> Laboratory:
    loaded = load_protocol(tiny_protocol(tmp_path))
    protocol = replace(loaded, training={**loaded.training, **training})
    return Laboratory(protocol, tmp_path / "run", "cpu", print)


@pytest.mark.parametrize("asked", ["held_out", "validation", "bf16"])
def test_a_model_without_training_is_asked_what_trained_ones_are(
    tiny_protocol, tiny_text, tmp_path, monkeypatch, asked
):
    """`rotate` less `none` had 50,000 tokens in fp32 against all of them in bf16."""
    monkeypatch.setattr(evaluate, "HELD_OUT_TOKENS", 16)
    other = tmp_path / "other.txt"
    lines = Path(tiny_text).read_text(encoding="utf-8").splitlines()
    other.write_text("\n".join(" ".join(reversed(line.split())) for line in lines), "utf-8")
    training = {"validation": {"validation": [str(other)]}, "bf16": {"precision": "bf16"}}
    of = laboratory(tiny_protocol, tmp_path, **training.get(asked, {}))
    protocol = of.protocol
    settings = of.settings(
        parse_cell(protocol, "tiny/none/0"), protocol.arm("none"), protocol.models[0], {}
    )
    model = LanguageModel.load(protocol.models[0].spec, progress=False)
    found, _ = held_out_perplexity(model, settings, protocol.texts)
    _, batches = batches_kept_back(read_as_given(protocol.texts, model, settings), model, settings)
    every = {
        (precision, most): evaluate.perplexity(model, batches, precision, most)
        for precision in ("fp32", "bf16")
        for most in (16, None)
    }
    assert len(set(every.values())) == 4
    expected = ("bf16" if asked == "bf16" else "fp32", None if asked == "validation" else 16)
    assert found == every[expected]


@pytest.mark.parametrize("cell", ["base", "none", "turned"])
def test_models_are_evaluated_in_the_dtype_of_their_training(tiny_protocol, tmp_path, cell):
    of = laboratory(tiny_protocol, tmp_path, dtype="bfloat16")
    spec = of.protocol.models[0].spec
    assert of._load(spec, Cell("tiny", cell, 0)).head_weight.dtype == torch.bfloat16
    of = laboratory(tiny_protocol, tmp_path)
    assert of._load(spec, Cell("tiny", cell, 0)).head_weight.dtype == torch.float32

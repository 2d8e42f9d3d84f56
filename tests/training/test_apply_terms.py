"""What terms see of a model that computes its own loss."""

from __future__ import annotations

import torch

import ncfast
from ncfast.losses import DualityRegularizer
from tests.training.families import batch, build
from tests.training.test_apply import assert_same_step, step


def test_terms_leave_out_ignored_labels_of_bytes():
    """-100 in uint8 is class 156, and what is ignored was counted as it."""
    model, inputs = build("LlamaForCausalLM", vocab_size=200), batch()
    labels = inputs["labels"].masked_fill(inputs["labels"] < 0, 7)
    labels[:, ::3] = 7
    term = DualityRegularizer(200, 16, range(5, 180)).eval()
    with ncfast.apply_to(model, terms={"nc3": term}):
        whole = step(model, inputs | {"labels": labels, "ignore_index": 7})
        found = step(model, inputs | {"labels": labels.to(torch.uint8), "ignore_index": 7})
    assert_same_step(whole, found)

"""Perplexity in the precision a run trains in."""

from __future__ import annotations

import math

import pytest
import torch

from ncfast.finetune.evaluate import perplexity


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_perplexity_is_that_of_the_transformers_model(setup_run, precision):
    run = setup_run("causal", weight=0.0)
    model = run.model.model.eval()
    total, count = 0.0, 0
    for batch in run.batches:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            hidden = model.base_model(batch.input_ids, attention_mask=batch.attention_mask)[0]
        logits = hidden.double() @ run.model.head_weight.detach().double().T
        sums = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.labels.flatten(), reduction="sum"
        )
        total, count = total + sums.item(), count + batch.predicted
    found = perplexity(run.model, run.batches, precision)
    assert found == pytest.approx(math.exp(total / count), rel=1e-6)
    if precision == "bf16":
        assert found != perplexity(run.model, run.batches)

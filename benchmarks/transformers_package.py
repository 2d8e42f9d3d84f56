"""Hugging Face's masked LMs, where transformers can be imported: the head's loss, and a step.

A step of a MiniLM-size model with random weights is what the paper's term is added to: its time is
what the term's is a share of.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ncfast.bench.contract import Absent, Inputs, Prepare, Prepared
from ncfast.bench.head_losses import HeadLoss, of_every_kind

from .cases import MASKED, TERM

__all__ = ["HEAD", "STEP", "step_loss"]

_BLOCK, _LAYERS, _HEAD_WIDTH = 128, 6, 32


def _bert() -> Any:
    try:
        from transformers.models.bert import modeling_bert
    except ImportError as error:
        raise Absent(f"cannot be imported: {error}") from None
    return modeling_bert


def _config(module: Any, width: int, classes: int, tokens: int = 1) -> Any:
    return module.BertConfig(
        vocab_size=classes,
        hidden_size=width,
        num_hidden_layers=_LAYERS,
        num_attention_heads=max(1, width // _HEAD_WIDTH),
        intermediate_size=4 * width,
        max_position_embeddings=max(512, tokens),
        hidden_dropout_prob=0.0,  # the same loss each time, for the gate
        attention_probs_dropout_prob=0.0,
    )


def _head(loss: HeadLoss) -> Prepared:
    module = _bert()
    classes, width = loss.leaves["head_weight"].shape
    head = module.BertLMPredictionHead(_config(module, width, classes))
    head.transform = torch.nn.Identity()  # x is what the head's matrix multiplies
    criterion = torch.nn.CrossEntropyLoss()

    def compute(x: Tensor, head_weight: Tensor, y: Tensor, head_bias: Tensor | None) -> Tensor:
        assert head_bias is not None  # of_every_kind names the loss that has one
        given = {"decoder.weight": head_weight, "decoder.bias": head_bias}
        logits = torch.func.functional_call(head, given, (x,))
        value: Tensor = criterion(logits.view(-1, classes), y.view(-1))
        return value

    return loss.prepared(compute, "logits of every position, CrossEntropyLoss of those that count")


def _model(inputs: Inputs) -> tuple[Any, Tensor, Tensor]:
    """Return a model in the inputs' precision, ids and labels [blocks, tokens in one]."""
    module = _bert()
    block = _BLOCK if inputs.tokens % _BLOCK == 0 else inputs.tokens
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(inputs.seed)
        config = _config(module, inputs.width, inputs.classes, block)
        model = module.BertForMaskedLM(config).to(inputs.x.dtype)
    return model, inputs.y.view(-1, block), inputs.masked_y.view(-1, block)


def step_loss(inputs: Inputs) -> Tensor:
    """Return the first step's loss by hand: encoder, transform, logits, cross-entropy."""
    model, ids, labels = _model(inputs)
    with torch.no_grad():
        hidden = model.cls.predictions.transform(model.bert(ids)[0])
        embeddings = model.get_input_embeddings().weight
        logits = hidden @ embeddings.T + model.cls.predictions.bias
        kept = labels != -100
        return torch.nn.functional.cross_entropy(logits[kept], labels[kept])


def _step(inputs: Inputs) -> Prepared:
    model, ids, labels = _model(inputs)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def call() -> Tensor:
        loss: Tensor = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    note = f"a step of {parameters:.1f} M parameters, AdamW, {_LAYERS} layers; not the term"
    return Prepared(call, lambda loss: {"step loss": loss}, note=note)


HEAD: dict[str, Prepare] = of_every_kind(_head, MASKED)
STEP: dict[str, Prepare] = {TERM: _step}

"""Fine-tune a copy of a language model, with a linear layer on it, on a task of GLUE."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...language.packing import padded
from .glue_items import Example

__all__ = ["EPOCHS", "fine_tune", "is_cut"]

EPOCHS, BATCH, WARMUP, LENGTH = 3, 32, 0.1, 128


def fine_tune(
    language: Any,
    train: list[Example],
    dev: list[Example],
    classes: int,
    seed: int,
    epochs: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Fine-tune a copy of a model with a linear layer; return its predictions of dev.

    One class means a score. ``progress`` is called with the number of examples trained on and their
    total.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = copy.deepcopy(language.body)
        width = body.config.hidden_size
        layer = nn.Linear(width, classes).to(language.device)
        nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
        rate = 2e-5 if width >= 256 else 1e-3
        parameters = [*body.parameters(), *layer.parameters()]
        # Fused: the other ways take a quarter of BERT-tiny's time, most of it for its embeddings.
        optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01, fused=True)
        steps = epochs * -(-len(train) // BATCH)
        body.train()
        step = 0
        for _ in range(epochs):
            order = torch.randperm(len(train)).tolist()
            for start in range(0, len(order), BATCH):
                chosen = [train[n] for n in order[start : start + BATCH]]
                scale = min((step + 1) / max(1, WARMUP * steps), (steps - step) / steps)
                for group in optimiser.param_groups:
                    group["lr"] = rate * scale
                out = _outputs(language, body, layer, chosen)
                y = torch.tensor([e.label for e in chosen], device=out.device)
                loss = (
                    nn.functional.mse_loss(out[:, 0], y)
                    if classes == 1
                    else nn.functional.cross_entropy(out, y.long())
                )
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimiser.step()
                step += 1
                if progress is not None:
                    progress(step * BATCH, steps * BATCH)
        body.eval()
        found: list[float] = []
        with torch.no_grad():
            for start in range(0, len(dev), BATCH):
                out = _outputs(language, body, layer, dev[start : start + BATCH])
                found += (out[:, 0] if classes == 1 else out.argmax(1)).float().tolist()
    return found


def cut_to(language: Any) -> int:
    """Return the tokens that an example is cut to: 128, or what the model takes."""
    return min(LENGTH, language.max_positions or LENGTH)


def is_cut(language: Any, example: Example) -> bool:
    """Tell whether an example is longer than it is cut to."""
    return len(language.tokenizer(*example.texts)["input_ids"]) > cut_to(language)


def _outputs(language: Any, body: Any, layer: nn.Linear, examples: list[Example]) -> Tensor:
    texts = list(zip(*(e.texts for e in examples), strict=True))
    batch = language.tokenizer(
        *(list(t) for t in texts), truncation=True, max_length=cut_to(language), padding=False
    )
    ids, mask = padded(batch["input_ids"], language.tokenizer.pad_token_id or 0)
    extra = {}
    if "token_type_ids" in batch:
        extra["token_type_ids"] = padded(batch["token_type_ids"], 0)[0].to(language.device)
    ids, mask = ids.to(language.device), mask.to(language.device)
    states = body(input_ids=ids, attention_mask=mask, **extra).last_hidden_state
    at = mask.sum(1) - 1 if language.kind == "causal" else torch.zeros_like(mask[:, 0])
    return layer(states[torch.arange(len(ids), device=ids.device), at])

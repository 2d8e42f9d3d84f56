"""Fine-tune a copy of a language model, with a linear layer on it, on a task of GLUE."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...language.packing import padded
from ..errors import EvaluationError
from .glue_items import Example

__all__ = ["EPOCHS", "are_cut", "fine_tune"]

EPOCHS, BATCH, WARMUP, LENGTH = 3, 32, 0.1, 128
WIDE = 256


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

    One class means a score. In float32 whatever the model's dtype: steps of 1e-3 are lost in 16
    bits, and AdamW's 1e-8 is 0 there. ``progress`` is called with the number of examples trained on
    and their total. A copy that ends in numbers that are not finite has no predictions: an error.
    """
    with torch.random.fork_rng(), _threads_worth(language):
        torch.manual_seed(seed)
        # What somebody has frozen for a training of their own is fine-tuned as a loaded one is.
        body = copy.deepcopy(language.body).float().requires_grad_(True)
        layer = nn.Linear(body.config.hidden_size, classes, dtype=torch.float32)
        layer = layer.to(language.device)
        nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
        rate = 1e-3 if is_narrow(language) else 2e-5
        parameters = [*body.parameters(), *layer.parameters()]
        # Fused: the other ways take a quarter of BERT-tiny's time, most of it for its embeddings.
        optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01, fused=True)
        steps = epochs * -(-len(train) // BATCH)
        body.train()
        # Once, not in every epoch; as examples of a batch are tokenised.
        tokens = _encoded(language, [*train, *dev])
        step = 0
        for _ in range(epochs):
            order = torch.randperm(len(train)).tolist()
            for start in range(0, len(order), BATCH):
                chosen = order[start : start + BATCH]
                scale = min((step + 1) / max(1, WARMUP * steps), (steps - step) / steps)
                for group in optimiser.param_groups:
                    group["lr"] = rate * scale
                out = _outputs(language, body, layer, [tokens[n] for n in chosen])
                y = torch.tensor([train[n].label for n in chosen], dtype=torch.float32).to(
                    out.device
                )
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
            for start in range(len(train), len(tokens), BATCH):
                out = _outputs(language, body, layer, tokens[start : start + BATCH])
                if not bool(out.isfinite().all()):  # argmax would call each of them the first class
                    raise EvaluationError(
                        f"{language.name}: fine-tuned, its outputs are not finite; expected a "
                        "model whose weights are, or fewer epochs"
                    )
                found += (out[:, 0] if classes == 1 else out.argmax(1)).float().tolist()
    return found


def is_narrow(language: Any) -> bool:
    """Tell whether a model's body is so narrow that run_glue's learning rate does not train it."""
    return bool(language.body.config.hidden_size < WIDE)


@contextlib.contextmanager
def _threads_worth(language: Any) -> Iterator[None]:
    """Let a narrow model's steps take one CPU thread, and have the same bits whatever is asked for.

    They are hundreds of short products, after each of which threads wait for one another. On two
    cores that did other work too, a step of BERT-tiny took 0.27 s in one thread and 1.7 s in two,
    and 0.09 and 0.65 CPU seconds (the least of eight); all of ``--on all`` took two quiet cores 238
    CPU seconds.
    """
    before = torch.get_num_threads()
    try:
        if is_narrow(language) and language.device.type == "cpu":
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)


def cut_to(language: Any) -> int:
    """Return the tokens that an example is cut to: 128, or what the model takes."""
    return min(LENGTH, language.max_positions or LENGTH)


def are_cut(language: Any, examples: list[Example]) -> list[bool]:
    """Tell which examples are longer than they are cut to."""
    if not examples:
        return []
    ids = language.tokenizer(*_columns(examples))["input_ids"]
    return [len(one) > cut_to(language) for one in ids]


def _columns(examples: list[Example]) -> list[list[str]]:
    return [list(texts) for texts in zip(*(e.texts for e in examples), strict=True)]


def _encoded(language: Any, examples: list[Example]) -> list[tuple[list[int], list[int] | None]]:
    """Return each example's token ids and, where the model has them, the kinds of its tokens."""
    out = language.tokenizer(
        *_columns(examples), truncation=True, max_length=cut_to(language), padding=False
    )
    kinds = out["token_type_ids"] if "token_type_ids" in out else [None] * len(examples)
    return list(zip(out["input_ids"], kinds, strict=True))


def _outputs(
    language: Any, body: Any, layer: nn.Linear, batch: list[tuple[list[int], list[int] | None]]
) -> Tensor:
    ids, mask = padded([one for one, _ in batch], language.tokenizer.pad_token_id or 0)
    extra = {}
    if batch[0][1] is not None:
        kinds = [[*some] for _, some in batch if some is not None]
        extra["token_type_ids"] = padded(kinds, 0)[0].to(language.device)
    ids, mask = ids.to(language.device), mask.to(language.device)
    states = body(input_ids=ids, attention_mask=mask, **extra).last_hidden_state
    at = mask.sum(1) - 1 if language.kind == "causal" else torch.zeros_like(mask[:, 0])
    return layer(states[torch.arange(len(ids), device=ids.device), at])

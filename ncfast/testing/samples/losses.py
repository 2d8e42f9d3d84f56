"""Samples of the classifier's loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .tensors import Sample, matrix, tiny_tokens
from .tokens import TOKENS, tokens_of

__all__ = ["linear_cross_entropy"]

_SHARD: dict[str, Any] = {"vocab_start": 300, "vocab_size": 1103}
# name: tokens, width, classes, then what differs from the defaults of linear_cross_entropy
_HEADS: dict[str, tuple[int, int, int, dict[str, Any]]] = {
    "many-classes": (61, 13, 1103, {}),
    "softcap": (61, 13, 1103, {"softcap": 3.0}),
    "smoothed": (61, 13, 601, {"label_smoothing": 0.1}),
    "shard": (61, 13, 601, _SHARD),
    "shard-smoothed": (31, 13, 301, _SHARD | {"label_smoothing": 0.1}),
    "padded": (61, 13, 601, {"vocab_size": 523, "label_smoothing": 0.2}),
    "stored-some": (61, 13, 1103, {"memory_budget": 250_000}),
    "stored-all": (61, 13, 601, {"memory_budget": 1 << 30}),
    "stored-softcap": (61, 13, 601, {"memory_budget": 1 << 18, "softcap": 5.0}),
    "extreme": (61, 13, 601, {}),
    "row-tiles": (523, 7, 37, {}),
    "packed": (61, 136, 23, {}),  # asynchronous copies, five steps of them
    "packed-tiles": (61, 40, 401, {}),
}


def linear_cross_entropy(dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name: str, x: Tensor, y: Tensor, rows: int, layout: str, **other: Any) -> Sample:
        head = matrix(rows, x.shape[1], dtype, layout, seed=12)
        bias = None if name in ("one-class", "width-8") else matrix(rows, 1, dtype, seed=13)[:, 0]
        names = ("softcap", "vocab_start", "label_smoothing", "memory_budget", "vocab_size")
        defaults = {"softcap": 0.0, "label_smoothing": 0.0, "vocab_size": None}
        settings = {name: 0 for name in names} | defaults | other
        return Sample(name, (x, head, y, bias, *(settings[name] for name in names)))

    for name in TOKENS:
        if name != "many-units":
            x, y, classes = tokens_of(name, dtype)
            yield sample(name, x, y, classes, TOKENS[name][3])
    for name, (tokens, width, classes, other) in _HEADS.items():
        x = matrix(tokens, width, dtype, seed=14)
        y = tiny_tokens(tokens, 1, other.get("vocab_size") or classes, seed=15)[1]
        # Logits of some 1e4, whose exponentials overflow in every dtype.
        yield sample(name, x * 1000 if name == "extreme" else x, y, classes, "contiguous", **other)

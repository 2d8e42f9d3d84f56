"""How many inputs go through a model at a time: as many as a number of bytes allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from torch import nn

from ..language import LanguageModel
from .prefixes import Tree

__all__ = ["in_batches", "tokens_at_a_time"]

# Activations of one forward pass, as token_bytes counts them. They are BERT-tiny's of 2,048 tokens,
# which takes as much CPU time as with 8,192 (with 1,024 it is 1.15 times as much). SmolLM2 has 585
# tokens in as many, and takes no longer with 512 than with 2,048.
BATCH_BYTES = 18 << 20
# With fewer, a wide model's weights are read again for too little; with more, memory is all it is.
MIN_TOKENS, MAX_TOKENS = 512, 2048

T = TypeVar("T", tuple[int, ...], Tree)


def token_bytes(model: LanguageModel) -> int:
    """Return about how much a forward pass holds at once for a token, in bytes.

    Three vectors of the widest layer's inner size and six of the hidden size: a gated layer's
    halves and their product, and queries, keys, values, residual, norm and output.
    """
    widths = [model.hidden_size]
    for module in model.body.modules():
        if not isinstance(module, nn.Embedding):
            for parameter in module.parameters(recurse=False):
                widths += parameter.shape[-2:] if parameter.dim() > 1 else ()
    return (3 * max(widths) + 6 * model.hidden_size) * model.head_weight.element_size()


def tokens_at_a_time(model: LanguageModel) -> int:
    """Return how many tokens a forward pass takes, padding included: fewer of a wider model."""
    return min(MAX_TOKENS, max(MIN_TOKENS, BATCH_BYTES // token_bytes(model)))


def in_batches(
    inputs: Iterable[T], tokens: int, progress: Callable[[int, int], None] | None = None
) -> Iterator[list[T]]:
    """Split inputs into batches of near length, the longest first (memory peaks at once).

    A batch has at most ``tokens``, padding included; a longer input is a batch of its own.
    ``progress`` is called with the number of inputs done and their total. Rows and trees never
    share a batch: a mask of trees stands in for the model's own, and where that is a sliding
    window, a text longer than it would see too much.

    >>> list(in_batches([(1,), (1, 2, 3), (4, 5)], 4))
    [[(1, 2, 3)], [(4, 5), (1,)]]
    """
    order = sorted(inputs, key=lambda one: (_branches(one), -len(one), one))
    start = 0
    while start < len(order):
        count = max(1, tokens // max(1, len(order[start])))
        alike = _branches(order[start])
        batch = [one for one in order[start : start + count] if _branches(one) == alike]
        yield batch
        start += len(batch)
        if progress is not None:
            progress(min(start, len(order)), len(order))


def _branches(one: tuple[int, ...] | Tree) -> bool:
    return isinstance(one, Tree) and one.branches

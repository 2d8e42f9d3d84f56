"""Labels of a causal model: the next token."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional as F
from ..functional.checks import class_labels


def next_token_labels(input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Return each position's next token as its label, -100 where there is none or it is padding.

    Args:
        input_ids: [..., T] integers.
        attention_mask: [..., T], 0 at padding; None: all count.

    Returns:
        [..., T] int64.

    >>> next_token_labels(torch.tensor([[5, 6, 7, 0]]), torch.tensor([[1, 1, 1, 0]])).tolist()
    [[6, 7, -100, -100]]
    """
    input_ids = class_labels("next_token_labels", "input_ids", input_ids)  # uint8 holds no -100
    labels = torch.full_like(input_ids, F.IGNORE_INDEX)
    labels[..., :-1] = input_ids[..., 1:]
    if attention_mask is not None:
        labels[..., :-1].masked_fill_(attention_mask[..., 1:] == 0, F.IGNORE_INDEX)
    return labels

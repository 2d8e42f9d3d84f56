"""Features at the positions where some words are to be predicted: what closed forms are made of."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...language import Corpus, Labeller, LanguageModel


@torch.no_grad()
def word_features(
    model: LanguageModel, corpus: Corpus, ids: Tensor, seed: int, rows: int = 32
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the head's inputs where given classes are predicted, as ``ncfast measure`` takes them.

    Features [n, D] float64 and classes [n] int64, on the CPU. A masked model sees a mask at each of
    these words, a causal one the tokens before it. ``rows``: blocks in a forward pass.
    """
    label = Labeller(model, always_mask=ids.tolist(), seed=seed)
    for batch in corpus.batches(rows):
        found = label(batch)
        kept = torch.isin(found.labels, ids)
        if not kept.any():
            continue
        device = model.device
        x = model.features(found.input_ids.to(device), found.attention_mask.to(device))
        yield x[kept.to(device)].double().cpu(), found.labels[kept]


def class_means(
    model: LanguageModel, corpus: Corpus, ids: Tensor, seed: int
) -> tuple[Tensor, Tensor]:
    """Return the mean feature of each class [K, D] float64 and how many positions it is of [K].

    The ids are sorted; a mean is zero where the class does not occur.
    """
    sums = torch.zeros(len(ids), model.hidden_size, dtype=torch.float64)
    counts = torch.zeros(len(ids), dtype=torch.int64)
    for x, y in word_features(model, corpus, ids, seed):
        place = torch.searchsorted(ids, y)
        sums.index_add_(0, place, x)
        counts += torch.bincount(place, minlength=len(ids))
    return sums / counts.clamp(min=1)[:, None], counts


def without_shared(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ids of two groups that the other group does not have.

    >>> without_shared(torch.tensor([1, 2]), torch.tensor([2, 3]))
    (tensor([1]), tensor([3]))
    """
    return one[~torch.isin(one, other)], other[~torch.isin(other, one)]

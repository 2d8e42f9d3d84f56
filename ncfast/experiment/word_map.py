"""Where the fairness words of a model stand: by gender, and by how its rows face their means."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..language import LanguageModel, WordSet

__all__ = ["places", "word_map"]


def word_map(model: LanguageModel, counts: Tensor, means: Tensor, words: WordSet) -> dict[str, Any]:
    """Place every class of a word set of two groups that occurs in the text; else empty.

    ``counts`` [V] and ``means`` [V, D] are as ``ncfast measure`` has them. Returns ``words``,
    ``groups``, and of each word ``gender`` and ``cosine``: see :func:`places`.
    """
    classes = words.to_classes(model.tokenizer, "single")
    if len(classes.groups) != 2:
        return {}
    ids = classes.ids[classes.ids < model.vocab_size]
    ids = ids[counts[ids].cpu() > 0]
    names = list(classes.groups)
    members = [torch.isin(ids, classes.groups[name]) for name in names]
    if len(ids) < 2 or not all(bool(m.any()) for m in members):
        return {}
    rows = model.head_weight.detach()[ids.to(model.device)].double().cpu()
    gender, cosine = places(rows, means[ids].double().cpu(), *members)
    return {
        "words": [classes.words[int(i)][0] for i in ids],
        "groups": [
            names[0] if one and not other else names[1] if other and not one else "both"
            for one, other in zip(*(m.tolist() for m in members), strict=True)
        ],
        "gender": [float(x) for x in gender],
        "cosine": [float(x) for x in cosine],
    }


def places(rows: Tensor, means: Tensor, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return where words stand on two axes, by head rows and class means [K, D] and two groups.

    .. math:: x_c = \langle \hat w_c, g \rangle, \quad
        g \propto \overline{\hat w}_{one} - \overline{\hat w}_{other}, \qquad
        y_c = \langle \hat w_c, \widehat{\mu_c - \bar\mu} \rangle

    (U)NC3 is the standard deviation of y, the second axis; bias between the two groups is in x.

    >>> rows = torch.tensor([[1.0, 0.0], [-2.0, 0.0]])
    >>> places(rows, rows, torch.tensor([True, False]), torch.tensor([False, True]))
    (tensor([ 1., -1.]), tensor([1., 1.]))
    """
    unit = normalize(rows, dim=1)
    direction = normalize(unit[one].mean(0) - unit[other].mean(0), dim=0)
    return unit @ direction, (unit * normalize(means - means.mean(0), dim=1)).sum(1)

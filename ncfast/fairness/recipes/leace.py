"""Gender erased in closed form from the head's input, folded into the head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...language import Corpus, LanguageModel, WordSet
from .recipe import Recipe, RecipeError
from .word_features import without_shared, word_features


@dataclass(frozen=True)
class Leace(Recipe):
    r"""Erase the gender of the word to be predicted from the head's input; nothing trains.

    LEACE (Belrose et al. 2023, arXiv 2306.03819, theorem 4.3): of all affine maps after which no
    linear classifier tells the label z from x, the one that moves x least. For a label of two
    values, with :math:`d = \Sigma_{xz}`, :math:`g = \Sigma_{xx}^{+} d / (d^T \Sigma_{xx}^{+} d)`
    and the mean :math:`\mu` of x,

    .. math:: r(x) = x - d \, g^T (x - \mu)

    Here x is the head's input where a word of the set's two groups is predicted, and z its group. A
    linear map before the head is a change of the head:

    .. math:: W' = W - (W d) g^T, \qquad b' = b + (W d) (g^T \mu)

    Every row changes, so a tied head is untied first, and the model grows by V x D weights. A head
    without a bias has no place for b'; there r leaves out the mean (:math:`r(x) = x - d g^T x`, the
    option ``affine=False`` of the package concept-erasure), which erases as much and moves x more.

    Args:
        words: a word set of two groups.

    >>> x = torch.tensor([[0.0, 0.0], [2.0, 1.0], [0.0, 1.0], [2.0, 2.0]]).double()
    >>> d, g, mean = fit(x, torch.tensor([0, 1, 0, 1]))
    >>> erased = x - ((x - mean) @ g)[:, None] * d
    >>> torch.allclose(erased[[0, 2]].mean(0), erased[[1, 3]].mean(0))
    True
    """

    name: ClassVar[str] = "leace"
    trained: ClassVar[bool] = False
    words: str = "gender"

    def edit(
        self, model: LanguageModel, corpus: Corpus, seed: int
    ) -> tuple[LanguageModel, dict[str, Any]]:
        """Change the head; see :meth:`Recipe.edit`."""
        x, z = self.examples(model, corpus, seed)
        d, g, mean = fit(x, z)
        owner = model._head.weight_owner
        bias = model.head_bias
        head = self.own_head(model)
        if model._head.captures != "input" or model._head.outside_bias is not None:
            raise RecipeError(
                f"recipe 'leace': the head of {type(model.model).__name__} is no linear module of "
                "its own; expected one"
            )
        weight = head.detach()
        moved = weight.double().cpu() @ d
        changed = weight.double().cpu() - moved[:, None] * g
        new = torch.nn.Parameter(changed.to(weight.device, weight.dtype))
        new.requires_grad_(head.requires_grad)
        was_tied = model.tied
        owner.weight = new
        if was_tied:
            model.model.config.tie_word_embeddings = False
        if bias is not None:
            shifted = bias.detach() + (moved * (g @ mean)).to(bias.device, bias.dtype)
            # Of its own: a bias that another module shares is saved under one name, and with
            # embeddings that are not tied the other is not found again.
            model._head.bias_owner.bias = torch.nn.Parameter(shifted, bias.requires_grad)
        edited = LanguageModel.from_pretrained_model(
            model.model, model.tokenizer, model.name, model.feature_point
        )
        return edited, {
            "positions of the two groups": f"{int((z == 0).sum())} and {int((z == 1).sum())}",
            "share of the features' variance erased": round(_share(x, d, g, mean), 6),
            "the head was untied": was_tied,
            "the mean is kept": bias is not None,
        }

    def examples(self, model: LanguageModel, corpus: Corpus, seed: int) -> tuple[Tensor, Tensor]:
        """Return features [n, D] float64 and the group of the word predicted there [n]."""
        classes = WordSet.load(self.words).to_classes(model.tokenizer)
        if len(classes.groups) != 2:
            raise RecipeError(
                f"recipe 'leace': the word set {self.words!r} has {len(classes.groups)} groups; "
                "expected 2"
            )
        one, other = (ids[ids < model.vocab_size] for ids in classes.groups.values())
        ids = torch.unique(torch.cat(without_shared(one, other)))
        found = list(word_features(model, corpus, ids, seed))
        groups = torch.cat([torch.isin(y, other).long() for _, y in found] or [torch.zeros(0)])
        if len(groups.unique()) != 2:
            raise RecipeError(
                f"recipe 'leace': words of {len(groups.unique())} groups of {self.words} occur in "
                "the text; expected both"
            )
        return torch.cat([x for x, _ in found]), groups


def fit(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return d [D], g [D] and the mean [D] of :class:`Leace`, of x [n, D] and labels 0, 1 [n].

    d and g are zero where the label tells nothing of x already.
    """
    mean = x.mean(0)
    centered, label = x - mean, z.double() - z.double().mean()
    d = centered.T @ label / len(x)
    covariance = centered.T @ centered / len(x)
    values, vectors = torch.linalg.eigh(covariance)
    # The rank is decided as numpy.linalg.matrix_rank does.
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    inner = vectors[:, kept]
    solved = inner @ ((inner.T @ d) / values[kept])
    scale = d @ solved
    if not scale > 0:
        return torch.zeros_like(d), torch.zeros_like(d), mean
    return d, solved / scale, mean


def _share(x: Tensor, d: Tensor, g: Tensor, mean: Tensor) -> float:
    centered = x - mean
    return float((centered @ g).square().sum() * (d @ d) / centered.square().sum())

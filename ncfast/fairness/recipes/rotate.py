"""Head rows turned in closed form to where the (U)NC3 regulariser would take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...language import Corpus, LanguageModel, WordSet
from .recipe import Recipe, RecipeError
from .word_features import class_means


@dataclass(frozen=True)
class Rotate(Recipe):
    r"""Turn each head row within the plane of itself and its centred class mean; nothing trains.

    With the cosine :math:`s_c = \langle \hat w_c, \hat\mu_c \rangle`, where
    :math:`\hat\mu_c` is the unit vector of the class mean less the mean of all class means of the
    words, row c becomes

    .. math:: w_c' = \|w_c\| (\cos\theta_c' \, \hat\mu_c + \sin\theta_c' \, \hat v_c), \qquad
        \theta_c' = \theta_c + share \, (\theta^* - \theta_c), \quad \theta_c = \arccos s_c

    where :math:`\hat v_c` is the unit vector of :math:`\hat w_c - s_c \hat\mu_c`. The target
    :math:`\theta^*` is the angle of the mean cosine (``to=spread``: with share 1 every cosine is
    that mean, and (U)NC3 is 0) or 0 (``to=means``: every row lies on its class mean, and NC3 is 1).

    The regulariser of arXiv 2410.04472 as its code computes it has a gradient on the rows alone,
    tangent to each: it can only turn them. This is where such turning ends. In a tied model the
    rows are the input embeddings too, as they are in training.

    Args:
        to: ``"spread"`` or ``"means"``.
        share: of the angle.
        words: the word set.
        min_count: positions that a class needs; others stay as they are.

    Raises:
        RecipeError: an option that cannot be.

    >>> w, mu = torch.tensor([[2.0, 0.0], [0.0, 1.0]]).double(), torch.eye(2).double()
    >>> turned = turn_towards(w, mu - mu.mean(0), "means", 1.0)
    >>> [round(x, 4) for x in turned[0].tolist()]
    [1.4142, -1.4142]
    """

    name: ClassVar[str] = "rotate"
    trained: ClassVar[bool] = False
    to: str = "spread"
    share: float = 1.0
    words: str = "gender"
    min_count: int = 5

    def __post_init__(self) -> None:
        """Reject what cannot be."""
        if self.to not in ("spread", "means"):
            raise RecipeError(
                f"recipe 'rotate', option to={self.to!r}; expected 'spread' or 'means'"
            )
        if not 0 <= self.share <= 1 or self.min_count < 1:
            raise RecipeError(
                f"recipe 'rotate', options share={self.share}, min_count={self.min_count}; "
                "expected a share from 0 to 1 and a count of 1 or more"
            )

    def edit(
        self, model: LanguageModel, corpus: Corpus, seed: int
    ) -> tuple[LanguageModel, dict[str, Any]]:
        """Turn the rows in place; see :meth:`Recipe.edit`."""
        head = self.own_head(model)
        ids = WordSet.load(self.words).to_classes(model.tokenizer).ids
        ids = ids[ids < model.vocab_size]
        means, counts = class_means(model, corpus, ids, seed)
        enough = counts >= self.min_count
        ids, means = ids[enough], means[enough]
        if len(ids) < 2:
            raise RecipeError(
                f"recipe 'rotate': {len(ids)} classes of {self.words} occur {self.min_count} times "
                "or more in the text; expected 2"
            )
        rows = head.detach()[ids].double().cpu()
        centered = means - means.mean(0)
        turned = turn_towards(rows, centered, self.to, self.share)
        with torch.no_grad():
            head[ids.to(head.device)] = turned.to(head.device, head.dtype)
        before, after = cosine_of(rows, centered), cosine_of(turned, centered)
        angle = cosine_of(rows, turned).clamp(-1, 1).acos().rad2deg()
        return model, {
            "rows turned": len(ids),
            "classes of too few positions": int((~enough).sum()),
            "median angle in degrees": round(float(angle.median()), 4),
            "spread of cosines before": round(float(before.std()), 6),
            "spread of cosines after": round(float(after.std()), 6),
            "mean cosine before": round(float(before.mean()), 6),
            "mean cosine after": round(float(after.mean()), 6),
            "input embeddings turned too": model.tied,
        }


def turn_towards(rows: Tensor, centered: Tensor, to: str, share: float) -> Tensor:
    """Turn rows [K, D] as :class:`Rotate` says; ``centered`` are class means less their mean.

    A row that is zero, lies on its class mean's line, or whose class mean is the mean of all, has
    no such plane and stays.
    """
    length, size = rows.norm(dim=1, keepdim=True), centered.norm(dim=1, keepdim=True)
    unit = centered / size.clamp(min=1e-300)
    cosine = cosine_of(rows, centered)[:, None]
    side = rows / length.clamp(min=1e-300) - cosine * unit
    sine = side.norm(dim=1, keepdim=True)
    usable = (sine > 1e-9) & (length > 0) & (size > 0)
    angle = torch.atan2(sine, cosine)
    goal = cosine[usable[:, 0]].mean().acos() if to == "spread" else torch.zeros(())
    angle = angle + share * (goal - angle)
    turned = length * (angle.cos() * unit + angle.sin() * side / sine.clamp(min=1e-300))
    return torch.where(usable, turned, rows)


def cosine_of(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of rows, 0 where one is zero."""
    size = a.norm(dim=1) * b.norm(dim=1)
    return (a * b).sum(1) / size.clamp(min=1e-300)

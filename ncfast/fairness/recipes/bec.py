"""Counterfactual data substitution: a share of the documents has its genders swapped."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from .recipe import Piece, Recipe, RecipeError, Transform, whole_documents
from .swap import Swapper


@dataclass(frozen=True)
class Bec(Recipe):
    r"""Fine-tune on a text in which a share of the documents has its genders swapped.

    .. math:: L = L_{LM}(\tilde x), \qquad
        \tilde x_i = \operatorname{swap}(x_i) \text{ with probability } share, \text{ else } x_i

    Substitution leaves the text as long as it is, and shows no sentence beside its own swapped copy
    (Maudslay et al. 2019). Bartl et al. 2020 (arXiv 2010.14534) fine-tune BERT so, on GAP.
    A document that :class:`Swapper` cannot swap with certainty stays as it is, and is counted.
    ``copies=true`` is counterfactual data augmentation (Lu et al. 2018): every document, and its
    swapped copy after it.

    Args:
        share: probability that a document is swapped.
        copies: add swapped documents instead of replacing documents by them.
        names: swap first names too.

    Raises:
        RecipeError: a share outside 0..1.

    >>> counts = {}
    >>> change = Bec(share=1.0).documents(0, counts)
    >>> list(change([("She thanked his wife.", True), ("Heather is a manager.", True)]))
    [('He thanked her husband.', True), ('Heather is a manager.', True)]
    >>> counts
    {'documents swapped': 1, 'documents without a gendered word': 1}
    """

    name: ClassVar[str] = "bec"
    changes_text: ClassVar[bool] = True
    share: float = 0.5
    copies: bool = False
    names: bool = True

    def __post_init__(self) -> None:
        """Reject what is no share."""
        if not 0 <= self.share <= 1:
            raise RecipeError(f"recipe 'bec', option share={self.share}; expected 0 to 1")

    def documents(self, seed: int, counts: dict[str, int]) -> Transform:
        """Return what swaps documents; see :meth:`Recipe.documents`."""
        swapper = Swapper(names=self.names)

        def change(pieces: Iterable[Piece]) -> Iterator[Piece]:
            draw = random.Random(seed)

            def count(what: str) -> None:
                counts[what] = counts.get(what, 0) + 1

            for text in whole_documents(pieces):
                chosen = draw.random() < self.share
                found = swapper(text)
                if not found.swapped:
                    count("documents without a gendered word")
                elif found.ambiguous:
                    count("documents left as they are: ambiguous")
                elif self.copies:
                    count("documents copied with genders swapped")
                    yield text, True
                    text = found.text
                elif chosen:
                    count("documents swapped")
                    text = found.text
                yield text, True

        return change

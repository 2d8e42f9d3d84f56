"""More dropout: the plain text and objective, under which fewer associations are remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ...language import LanguageModel
from .recipe import Recipe, RecipeError


@dataclass(frozen=True)
class Dropout(Recipe):
    r"""Fine-tune on the text as it is, with a larger share of units dropped.

    .. math:: L = L_{LM}, \qquad p_{hidden} = hidden, \quad p_{attention} = attention

    Webster et al. 2020 (arXiv 2010.06032) train BERT again with 0.20 for hidden units
    and 0.15 for attention weights, where it had 0.10 for both; these are the defaults. The model
    is saved with the shares it came with.

    Args:
        hidden: probability that a hidden unit is dropped.
        attention: probability that an attention weight is dropped.

    Raises:
        RecipeError: a probability outside 0..1.

    >>> Dropout().hidden, Dropout().attention
    (0.2, 0.15)
    """

    name: ClassVar[str] = "dropout"
    hidden: float = 0.20
    attention: float = 0.15

    def __post_init__(self) -> None:
        """Reject what is no probability below 1."""
        for name in ("hidden", "attention"):
            if not 0 <= getattr(self, name) < 1:
                raise RecipeError(
                    f"recipe 'dropout', option {name}={getattr(self, name)}; expected 0 or more, "
                    "below 1"
                )

    def prepare(self, model: LanguageModel) -> Callable[[], None]:
        """Set both shares, and return what sets them back; see :meth:`Recipe.prepare`."""
        places = list(_dropouts(model.model))
        for kind in ("hidden", "attention"):
            if not any(found == kind for _, _, found in places):
                raise RecipeError(
                    f"recipe 'dropout' with {model.name}: {type(model.model).__name__} has no "
                    f"dropout of {kind} units; expected a model with both (BERT, GPT-2)"
                )
        before = [getattr(module, name) for module, name, _ in places]
        for module, name, kind in places:
            setattr(module, name, getattr(self, kind))

        def restore() -> None:
            for (module, name, _), value in zip(places, before, strict=True):
                setattr(module, name, value)

        return restore


def _dropouts(model: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Find every dropout: its module, the name of its probability, and what it drops."""
    for owner in model.modules():
        is_attention = "Attention" in type(owner).__name__
        for name, child in owner.named_children():
            if isinstance(child, nn.Dropout):
                weights = is_attention and not name.startswith("resid")
                yield child, "p", "attention" if weights else "hidden"
        # Attention that hands its share on as a number.
        if is_attention and isinstance(getattr(owner, "attention_dropout", None), float):
            yield owner, "attention_dropout", "attention"

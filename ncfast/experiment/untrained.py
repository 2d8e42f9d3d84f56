"""Arms without training: weights of a trained arm changed in closed form, or at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..fairness.controls import turn
from ..fairness.recipes import RECIPES, find_recipe
from ..finetune import FinetuneSettings
from ..finetune.texts import read_as_given
from ..language import LanguageModel, WordSet
from .errors import ExperimentError
from .protocol import Arm

__all__ = ["WAYS", "change_weights"]

WAYS = ("random-rotation", *(name for name, recipe in RECIPES.items() if not recipe.trained))


def change_weights(
    model: LanguageModel,
    arm: Arm,
    seed: int,
    words: WordSet,
    settings: FinetuneSettings,
    texts: Sequence[str],
    head_of: Callable[[str], Tensor],
) -> tuple[LanguageModel, dict[str, Any]]:
    """Change a model's weights in place as an arm without training says; return it and what was
    done.

    ``random-rotation`` turns the head rows of the word set towards random directions and keeps
    their lengths: by ``degrees``, or each by the angle between its row here and in the arm that
    ``like`` names, so that as much changes as there.

    The arm's ``recipe`` is one of :data:`WAYS`; ``settings`` say which text the model, trained on
    ``texts``, saw and which was kept back; ``head_of`` gives the head [V, D] of another arm of this
    seed. No such way, or a head that cannot be changed, is an ExperimentError.
    """
    if arm.recipe not in WAYS:
        raise ExperimentError(
            f"the arm {arm.name!r} asks for {arm.recipe!r} without training; expected one of "
            f"{', '.join(WAYS)}"
        )
    if arm.recipe in RECIPES:
        options = {k: v for k, v in arm.options.items() if k != "like"}
        recipe = find_recipe(arm.recipe, options)
        recipe.require(model)
        text = read_as_given(texts, model, settings)
        return recipe.edit(model, text.trained_on(model.tokenizer), seed)
    head = model.head_weight
    if not isinstance(head, torch.nn.Parameter):
        raise ExperimentError("the head is made of adapters; expected one matrix: merge them first")
    ids = words.to_classes(model.tokenizer, "single").ids
    ids = ids[ids < model.vocab_size].to(head.device)
    rows = head.detach()[ids]
    if like := arm.options.get("like"):
        other = head_of(like).detach().to(head.device)[ids]
        cosine = torch.nn.functional.cosine_similarity(rows.double(), other.double(), dim=1)
        angles = cosine.clamp(-1, 1).acos().to(rows.dtype)
    else:
        degrees = float(arm.options.get("degrees", 15.0))
        angles = torch.full((len(ids),), degrees, device=head.device).deg2rad()
    with torch.no_grad():
        head[ids] = turn(rows, angles, seed)
    return model, {"rows": len(ids), "degrees": float(angles.double().mean().rad2deg())}

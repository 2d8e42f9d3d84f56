"""Arms without training: weights of a trained arm changed in closed form, or at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..fairness.controls import turn
from ..fairness.recipes import RECIPES, find_recipe
from ..finetune import FinetuneSettings
from ..finetune.kept_back import part_of
from ..finetune.texts import split_blocks
from ..language import Corpus, LanguageModel
from .controls import Words
from .errors import ExperimentError
from .protocol import Arm, Protocol

__all__ = ["WAYS", "change_weights"]

WAYS = ("random-rotation", *(name for name, recipe in RECIPES.items() if not recipe.trained))


def change_weights(
    model: LanguageModel,
    arm: Arm,
    seed: int,
    protocol: Protocol,
    words: Words,
    head_of: Callable[[str], Tensor],
) -> tuple[LanguageModel, dict[str, Any]]:
    """Change a model's weights in place as an arm without training says.

    ``random-rotation`` turns the head rows of the word set towards random directions and keeps
    their lengths: by ``degrees``, or each by the angle between its row here and in the arm that
    ``like`` names, so that as much changes as there.

    Args:
        model: a trained model, changed in place.
        arm: its ``recipe`` is one of :data:`WAYS`; ``options`` are those above, or the recipe's.
        seed: of what is random.
        protocol: names the word set.
        words: the word sets.
        head_of: gives the head [V, D] of another arm of this seed.

    Returns:
        The model, and what was done, for the report.

    Raises:
        ExperimentError: there is no such way, or the head cannot be changed.
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
        block = protocol.training.get("block_size") or min(128, model.max_positions or 128)
        tokens = protocol.training.get("max_tokens")
        corpus = Corpus.from_spec(
            list(protocol.texts), model.tokenizer, tokens, block, progress=False
        )
        share = protocol.training.get("held_out", FinetuneSettings.held_out)
        blocks, _ = split_blocks(corpus.num_blocks, share)
        return recipe.edit(model, part_of(corpus, blocks, model.tokenizer), seed)
    head = model.head_weight
    if not isinstance(head, torch.nn.Parameter):
        raise ExperimentError("the head is made of adapters; merge them first")
    ids = words[protocol.evaluation.words].to_classes(model.tokenizer, "single").ids
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

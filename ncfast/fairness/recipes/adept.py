"""Neutral words as near to one attribute's prototype as to the other's, and little else moved."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...language import Corpus, LanguageModel, WordSet
from ...language.modes import eval_mode
from .ase_words import STEREOTYPED
from .recipe import Passes, Recipe, RecipeError
from .word_features import without_shared


@dataclass(frozen=True)
class Adept(Recipe):
    r"""Make neutral words equally near to both attributes, and hold the other representations.

    ADEPT-finetuning (Yang et al. 2023, AAAI, arXiv 2211.05414), on any text:

    .. math:: L = w \, JS(P_1, P_2) + (1 - w) \, L_{repr} + mlm \, L_{LM}, \qquad
        P_i(j) = \frac{e^{-\|a_i - n_j\|^2 / (2 \rho^2)}}{\sum_k e^{-\|a_i - n_k\|^2 / (2 \rho^2)}}

    A word is represented by the outputs of all layers at its position, the embedding's too, one
    after the other. :math:`n_j` are the neutral words of a few blocks; the prototype :math:`a_i` is
    the mean over all words of group i in ``prototypes`` blocks, without a gradient, computed anew
    every ``renew`` steps (the official code does so every epoch). JS is the Jensen-Shannon
    divergence to base 2, between 0 and 1. :math:`L_{repr}` is the mean squared difference of all
    hidden states of other blocks, those with a word of a group, to those of the model before
    training. Both terms are in every step, where the official code draws one of them.
    ``dpce=true`` takes Kaneko and Bollegala's debiasing term in place of JS, the mean of
    :math:`\sum_i \langle a_i, n_j \rangle^2`; the official code then has w = 0.2.

    Args:
        weight: w.
        rho: width of the kernel; the paper means 15, and its code has 10.
        dpce: squared inner products in place of JS.
        mlm: weight of the cross-entropy of the text's tokens, which ADEPT does not have.
        rows: blocks of either kind in a step.
        prototypes: blocks that the prototypes are of.
        renew: steps between two computations of the prototypes.
        words: neutral words other than the built-in ones, separated by commas.

    Raises:
        RecipeError: an option that cannot be.

    >>> far, near = torch.tensor([[0.0, 4.0]]), torch.tensor([[0.0, 0.0]])
    >>> neutral = torch.tensor([[0.0, 1.0], [0.0, 3.0]])
    >>> round(float(js_divergence(torch.cat([near, near]), neutral, 1.0)), 4)
    0.0
    >>> round(float(js_divergence(torch.cat([near, far]), neutral, 1.0)), 4)
    0.87
    """

    name: ClassVar[str] = "adept"
    weight: float = 0.3
    rho: float = 15.0
    dpce: bool = False
    mlm: float = 0.0
    rows: int = 8
    prototypes: int = 256
    renew: int = 50
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject what cannot be."""
        counts = all(getattr(self, name) >= 1 for name in ("rows", "prototypes", "renew"))
        if not (0 <= self.weight <= 1 and 0 <= self.mlm < float("inf") and self.rho > 0 and counts):
            raise RecipeError(
                f"recipe 'adept', option weight={self.weight}, mlm={self.mlm}, rho={self.rho}, "
                f"rows={self.rows}, prototypes={self.prototypes} or renew={self.renew}; expected a "
                "weight from 0 to 1, mlm of 0 or more, rho above 0, and counts of 1 or more"
            )

    def passes(self, block: int) -> Passes:
        """Count blocks of either kind, the second also through the model as it was, and the
        prototypes'; see :meth:`Recipe.passes`.
        """
        forward = self.rows * block + self.prototypes * block / self.renew
        return Passes(2 * self.rows * block, forward, copies=1)

    def own_loss(self, model: LanguageModel, corpus: Corpus, seed: int) -> AdeptLoss:
        """Return both terms; see :meth:`Recipe.own_loss`."""
        return AdeptLoss(self, model, corpus, seed)


class AdeptLoss:
    """Compute both terms; a copy of the model as it is before training is kept."""

    def __init__(self, recipe: Adept, model: LanguageModel, corpus: Corpus, seed: int) -> None:
        """Find the words in the text, and keep the model as it is."""
        self.recipe, self.model, self.corpus, self.seed = recipe, model, corpus, seed
        self.cross_entropy_weight = recipe.mlm
        ids = corpus.take(range(corpus.num_blocks)).input_ids
        groups = WordSet.load("gender").to_classes(model.tokenizer).groups
        male, female = without_shared(groups["male"], groups["female"])
        self.groups = (male, female)
        words = recipe.words or STEREOTYPED
        self.neutral = WordSet("neutral", {"all": words}).to_classes(model.tokenizer).ids

        def blocks(of_group: Tensor, what: str) -> list[int]:
            found = torch.isin(ids, of_group).any(1).nonzero()[:, 0].tolist()
            if not found:
                raise RecipeError(f"recipe 'adept': no {what} word in the text; expected one")
            return found

        blocks(male, "male")
        blocks(female, "female")
        self.neutral_blocks = blocks(self.neutral, "neutral")
        self.group_blocks = blocks(torch.cat(self.groups), "gendered")
        draw = random.Random(f"{seed} prototypes")
        sizes = (min(recipe.prototypes, len(self.group_blocks)),)
        self.prototype_blocks = draw.sample(self.group_blocks, *sizes)
        self.frozen = copy.deepcopy(model.body).eval().requires_grad_(False)
        self.means = self.compute_prototypes()

    def losses(self, step: int) -> Mapping[str, tuple[Tensor, float]]:
        """Return both terms of a step; see ``OwnLoss``."""
        if step % self.recipe.renew == 0:
            self.means.copy_(self.compute_prototypes())
        draw = random.Random(f"{self.seed} {step}")

        def some(blocks: list[int]) -> list[int]:
            return draw.sample(blocks, min(self.recipe.rows, len(blocks)))

        words = self.word_vectors(some(self.neutral_blocks), self.neutral)
        if self.recipe.dpce:
            bias = (words @ self.means.T).square().sum(1).mean()
        else:
            bias = js_divergence(self.means, words, self.recipe.rho)
        held = self.representation(some(self.group_blocks))
        weight = self.recipe.weight
        return {"bias": (bias, weight), "representation": (held, 1 - weight)}

    def state(self) -> Mapping[str, Tensor]:
        """Return the prototypes, which are of an earlier step's weights."""
        return {"prototypes": self.means}

    def hidden(self, blocks: list[int], frozen: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return all layers' outputs [B, T, (L + 1) H], ids and mask of some blocks."""
        batch, device = self.corpus.take(blocks), self.model.device
        ids, mask = batch.input_ids.to(device), batch.attention_mask.to(device)
        body = self.frozen if frozen else self.model.body
        found = body(
            input_ids=ids,
            attention_mask=mask,
            output_hidden_states=True,
            **self.model._extra_inputs,
        )
        return torch.cat(found.hidden_states, -1), ids, mask

    def word_vectors(self, blocks: list[int], words: Tensor) -> Tensor:
        """Return the representation of every one of these words in some blocks [n, (L + 1) H]."""
        hidden, ids, _ = self.hidden(blocks)
        return hidden[torch.isin(ids, words.to(ids.device))]

    @torch.no_grad()
    def compute_prototypes(self) -> Tensor:
        """Return the mean representation of each group [2, (L + 1) H], without dropout."""
        sums: list[Tensor] = [torch.zeros(()), torch.zeros(())]
        counts = [0, 0]
        with eval_mode(self.model.model):
            for start in range(0, len(self.prototype_blocks), self.recipe.rows):
                part = self.prototype_blocks[start : start + self.recipe.rows]
                hidden, ids, _ = self.hidden(part)
                for number, group in enumerate(self.groups):
                    found = hidden[torch.isin(ids, group.to(ids.device))].double()
                    sums[number] = sums[number] + found.sum(0)
                    counts[number] += len(found)
        if not all(counts):
            raise RecipeError(
                f"recipe 'adept': {counts[0]} male and {counts[1]} female words in "
                f"{len(self.prototype_blocks)} blocks; expected both: more prototypes"
            )
        means = [s / n for s, n in zip(sums, counts, strict=True)]
        return torch.stack(means).to(hidden.dtype)

    def representation(self, blocks: list[int]) -> Tensor:
        """Return the mean squared difference of all hidden states to those before training."""
        now, _, mask = self.hidden(blocks)
        with torch.no_grad():
            then = self.hidden(blocks, frozen=True)[0]
        kept = mask.bool()
        return (now[kept] - then[kept]).square().mean()


def js_divergence(prototypes: Tensor, words: Tensor, rho: float) -> Tensor:
    """Return the Jensen-Shannon divergence, to base 2, of two prototypes over words [n, D]."""
    distance = (prototypes[:, None] - words[None]).square().sum(-1)
    logs = (-distance / (2 * rho**2)).log_softmax(1)
    mixture = logs.logsumexp(0) - torch.log(torch.tensor(2.0, dtype=logs.dtype))
    nats = 0.5 * (logs.exp() * (logs - mixture)).sum()
    return nats / torch.log(torch.tensor(2.0, dtype=logs.dtype))

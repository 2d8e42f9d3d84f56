"""Counterfactual pairs made equally likely: the strongest push that a benchmark could notice."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...functional import linear_nll_lse
from ...language import Corpus, LanguageModel
from ..texts import causal_ids, pieces, single_mask
from .equalise_texts import PERSONS, PROFESSIONS, TEMPLATES
from .recipe import Passes, Recipe, RecipeError

SENTENCE = 24  # tokens of one at most
Pair = tuple[str, str, str, str]  # before, after, the one word, the other


@dataclass(frozen=True)
class Equalise(Recipe):
    r"""Add the mean squared log-ratio of sentences that differ in a person's gender.

    .. math:: L = L_{LM} + \frac{w}{n} \sum_{i=1}^{n} \left(
        \log \frac{p(f_i \mid c_i)}{p(m_i \mid c_i)} \right)^2

    The words f and m stand for a woman and a man in a sentence c about a profession. A masked model
    is asked at the mask in their place; for a causal one p is the probability of the whole
    sentence. Qian et al. 2019 (arXiv 1905.12801) take the absolute value. With both
    words as good as each other it is the squared loss of IPO (Azar et al. 2023, arXiv 2310.12036,
    equation 17) towards a margin of 0, without a reference model.

    It is the positive control of an experiment: where even this moves no score, none can. The
    professions are not among those of BEC-Pro, WinoBias and Winogender.

    Args:
        weight: w.
        pairs: n, drawn anew every step.
        professions: others than the built-in ones, separated by commas.

    Raises:
        RecipeError: a weight below 0 or no pair.

    >>> Equalise().pairs, "poet" in PROFESSIONS
    (32, True)
    """

    name: ClassVar[str] = "equalise"
    weight: float = 1.0
    pairs: int = 32
    professions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject what makes no loss."""
        if not 0 <= self.weight < float("inf") or self.pairs < 1:
            raise RecipeError(
                f"recipe 'equalise', options weight={self.weight}, pairs={self.pairs}; expected a "
                "weight of 0 or more and 1 pair or more"
            )

    def passes(self, block: int) -> Passes:
        """Count two short sentences a pair, of which a masked model sees one; see
        :meth:`Recipe.passes`.
        """
        return Passes(2 * self.pairs * SENTENCE)

    def own_loss(self, model: LanguageModel, corpus: Corpus, seed: int) -> EqualiseLoss:
        """Return the loss; see :meth:`Recipe.own_loss`."""
        known = all_pairs(self.professions or PROFESSIONS)
        return EqualiseLoss(model, known, self.weight, self.pairs, seed)


def all_pairs(professions: tuple[str, ...]) -> list[Pair]:
    """Return every sentence about these professions, with both of its persons.

    >>> all_pairs(("poet",))[0]
    ('', ' is a poet.', 'She', 'He')
    """
    made = []
    for profession in professions:
        article = "an" if profession[0].lower() in "aeiou" else "a"
        for template in TEMPLATES:
            text = template.format(profession=profession, a=article)
            before, _, after = text.partition("PERSON")
            for start, one, other in PERSONS:
                opening = f"{before}{start}"
                words = [one, other]
                if not opening.strip():
                    words = [word.capitalize() for word in words]
                opening = opening[:1].upper() + opening[1:]
                made.append((opening, after, words[0], words[1]))
    return made


class EqualiseLoss:
    """Compute the loss on a few pairs of every step.

    For a masked model, those whose words are not one piece each are left out (``left_out``).
    """

    cross_entropy_weight = 1.0

    def __init__(
        self, model: LanguageModel, pairs: list[Pair], weight: float, many: int, seed: int
    ) -> None:
        """Choose the pairs."""
        self.model, self.weight, self.many, self.seed = model, weight, many, seed
        self.pairs = pairs
        if model.kind == "masked":
            self.pairs = [p for p in pairs if all(len(self._pieces(p, w)) == 1 for w in p[2:])]
        self.left_out = len(pairs) - len(self.pairs)
        if not self.pairs:
            raise RecipeError(
                f"recipe 'equalise': none of {len(pairs)} pairs has words of one piece for "
                f"{model.name}; expected one or more"
            )

    def losses(self, step: int) -> Mapping[str, tuple[Tensor, float]]:
        """Return the loss of a step; see ``OwnLoss``."""
        draw = random.Random(f"{self.seed} {step}")
        chosen = draw.sample(self.pairs, min(self.many, len(self.pairs)))
        return {"equalise": (self.log_ratios(chosen).square().mean(), self.weight)}

    def state(self) -> Mapping[str, Tensor]:
        """Return nothing: no step depends on another."""
        return {}

    def log_ratios(self, pairs: list[Pair]) -> Tensor:
        """Return log p(one) - log p(other) of some pairs, in nats [n]."""
        if self.model.kind == "causal":
            texts = [f"{b}{word}{a}" for b, a, *words in pairs for word in words]
            logs = self._log_probabilities(texts).view(-1, 2)
            return logs[:, 0] - logs[:, 1]
        tokenizer, device = self.model.tokenizer, self.model.device
        masked = [single_mask(tokenizer, before, after) for before, after, *_ in pairs]
        x = self._features([ids for ids, _ in masked])
        at = torch.tensor([place for _, place in masked], device=device)
        x, weight, bias = self.model.scaled(x[torch.arange(len(pairs), device=device), at])
        words = torch.tensor([[self._pieces(p, w)[0] for w in p[2:]] for p in pairs], device=device)
        logits = (weight[words].to(x.dtype) * x[:, None]).sum(-1).float()
        if bias is not None:
            logits = logits + bias[words].float()
        if cap := self.model.softcap:
            logits = cap * torch.tanh(logits / cap)
        return logits[:, 0] - logits[:, 1]  # what all words share cancels

    def _pieces(self, pair: Pair, word: str) -> tuple[int, ...]:
        return pieces(self.model.tokenizer, word, pair[0][-1:].isspace())

    def _features(self, rows: list[tuple[int, ...]]) -> Tensor:
        length, padding = max(map(len, rows)), self.model.tokenizer.pad_token_id or 0
        ids = torch.tensor([[*row, *[padding] * (length - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        return self.model.features(ids.to(self.model.device), mask.to(self.model.device))

    def _log_probabilities(self, texts: list[str]) -> Tensor:
        """Return the log-probability of every token but the first, summed, of each text [n]."""
        rows = [causal_ids(self.model.tokenizer, text) for text in texts]
        features = self._features(rows)
        x = torch.cat([features[n, : len(row) - 1] for n, row in enumerate(rows)])
        x, weight, bias = self.model.scaled(x)
        owner = torch.cat([torch.full((len(row) - 1,), n) for n, row in enumerate(rows)])
        y = torch.tensor([token for row in rows for token in row[1:]], device=x.device)
        nll, _ = linear_nll_lse(x, weight, y, bias, softcap=self.model.softcap)
        zeros = torch.zeros(len(rows), device=x.device, dtype=nll.dtype)
        return zeros.index_add(0, owner.to(x.device), -nll)

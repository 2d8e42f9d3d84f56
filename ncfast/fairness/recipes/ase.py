"""Pronouns predicted in swapped and unswapped text, stereotypes neutralised, weights held."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...functional import linear_nll_lse
from ...language import Corpus, Labeller, LanguageModel, WordSet
from ...language.labels import IGNORE
from .ase_words import PRONOUNS, STEREOTYPED
from .recipe import Passes, Piece, Recipe, RecipeError, Transform, whole_documents
from .swap import Swapper

PRONOUN = re.compile(rf"(?<![\w-])(?:{'|'.join(PRONOUNS)})(?![\w-])", re.IGNORECASE)


@dataclass(frozen=True)
class Ase(Recipe):
    r"""Predict gendered pronouns in documents and their swapped copies, and forget little.

    BERT-ASE (Park et al. 2023, "Never Too Late to Learn", WSDM), as its code has the loss, without
    OntoNotes:

    .. math:: L = L_{MLM} + w_{SN} \frac{1}{|T|} \sum_{t \in T} |\langle h_t, g \rangle|
        + w_{EWC} \sum_n F_n (\theta_n - \theta_n^0)^2

    - ``L_MLM``: every document with a gendered pronoun, and its swapped copy where the swap is
      certain; all their pronouns are masked, always by the mask, and nothing else is.
    - T are the positions of stereotyped words (our own list, or ``words``) in a few blocks of the
      text, h the last hidden states there, and g the unit vector of the difference of the mean
      last hidden states of male and female words, each alone in its sentence, of the model before
      training. It is a mean where the official code sums, so that batch sizes do not weigh.
    - F is the diagonal of the empirical Fisher information of the model before training,
      :math:`F_n = \frac{1}{N} \sum_{i=1}^{N} (\partial_n \log p(x_i))^2`, one block i at a time:
      the log-likelihood of 15 % of its tokens, masked. The official code never sets its gradients
      to zero between samples, and takes the text that it is evaluated on; this does neither.

    Args:
        neutralise: w_SN.
        ewc: w_EWC.
        samples: N.
        rows: blocks for the second term, of those with a stereotyped word, drawn every step.
        words: others than the built-in stereotyped words, separated by commas.

    Raises:
        RecipeError: a weight below 0, or a count below 1.

    >>> counts = {}
    >>> list(Ase().documents(0, counts)([("She left.", True), ("It rains.", True)]))
    [('She left.', True), ('He left.', True)]
    """

    name: ClassVar[str] = "ase"
    kinds: ClassVar[tuple[str, ...]] = ("masked",)
    refused: ClassVar[str] = "its objective predicts masked pronouns"
    changes_text: ClassVar[bool] = True
    neutralise: float = 1.0
    ewc: float = 0.5
    samples: int = 64
    rows: int = 8
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject what makes no loss."""
        bad = [n for n in ("neutralise", "ewc") if not 0 <= getattr(self, n) < float("inf")]
        bad += [n for n in ("samples", "rows") if getattr(self, n) < 1]
        if bad:
            raise RecipeError(
                f"recipe 'ase', option {bad[0]}={getattr(self, bad[0])}; expected a weight of 0 or "
                "more, a count of 1 or more"
            )

    def documents(self, seed: int, counts: dict[str, int]) -> Transform:
        """Return what keeps and copies documents; see :meth:`Recipe.documents`."""
        swapper = Swapper()

        def change(pieces: Iterable[Piece]) -> Iterator[Piece]:
            def count(what: str) -> None:
                counts[what] = counts.get(what, 0) + 1

            for text in whole_documents(pieces):
                if not PRONOUN.search(text):
                    count("documents without a gendered pronoun left out")
                    continue
                yield text, True
                found = swapper(text)
                if found.ambiguous:
                    count("documents without a swapped copy: ambiguous")
                else:
                    count("documents with a swapped copy")
                    yield found.text, True

        return change

    def masking(self, model: LanguageModel) -> dict[str, Any]:
        """Mask every pronoun and nothing else; see :meth:`Recipe.masking`."""
        ids = WordSet("pronouns", {"pronouns": PRONOUNS}).to_classes(model.tokenizer).ids
        found = ids[ids < model.vocab_size].tolist()
        return {"mask_rate": 0.0, "mask_words": 1.0, "mask_words_ids": found, "mask_only": True}

    def passes(self, block: int) -> Passes:
        """Count blocks with a stereotyped word, and those of the Fisher information; see
        :meth:`Recipe.passes`.
        """
        rows = self.rows if self.neutralise else 0
        samples = self.samples if self.ewc else 0
        return Passes(rows * block, once=samples * block, copies=2 if self.ewc else 0)

    def own_loss(self, model: LanguageModel, corpus: Corpus, seed: int) -> AseLoss:
        """Return both other terms; see :meth:`Recipe.own_loss`."""
        if any(not p.requires_grad for p in model.model.parameters()):
            raise RecipeError(
                "recipe 'ase' with adapters: its penalty holds the model's own weights; expected "
                "all of them to be trained"
            )
        fisher = fisher_diagonal(model, corpus, self.samples, seed) if self.ewc else {}
        return AseLoss(self, model, corpus, seed, fisher)


class AseLoss:
    """Compute neutralisation and penalty; no Fisher information (by name) means no penalty."""

    cross_entropy_weight = 1.0

    def __init__(
        self,
        recipe: Ase,
        model: LanguageModel,
        corpus: Corpus,
        seed: int,
        fisher: Mapping[str, Tensor],
    ) -> None:
        """Find the words in the text, and keep the weights that are held."""
        self.recipe, self.model, self.corpus, self.seed, self.fisher = (
            recipe, model, corpus, seed, fisher,
        )  # fmt: skip
        named = dict(model.model.named_parameters())
        self.start = {name: named[name].detach().clone() for name in fisher}
        words = recipe.words or STEREOTYPED
        self.ids = WordSet("stereotyped", {"all": words}).to_classes(model.tokenizer).ids
        self.direction = gender_direction(model) if recipe.neutralise else None
        blocks = range(corpus.num_blocks)
        ids = corpus.take(blocks).input_ids if recipe.neutralise else torch.zeros(0, 1)
        self.blocks = torch.isin(ids, self.ids).any(1).nonzero()[:, 0].tolist()
        if recipe.neutralise and not self.blocks:
            raise RecipeError(
                "recipe 'ase': no stereotyped word occurs in the text; expected one, or "
                "neutralise=0"
            )

    def losses(self, step: int) -> Mapping[str, tuple[Tensor, float]]:
        """Return both terms of a step; see ``OwnLoss``."""
        found: dict[str, tuple[Tensor, float]] = {}
        if self.recipe.neutralise:
            draw = random.Random(f"{self.seed} {step}")
            chosen = draw.sample(self.blocks, min(self.recipe.rows, len(self.blocks)))
            found["neutralise"] = (self.neutralisation(chosen), self.recipe.neutralise)
        if self.fisher:
            found["ewc"] = (self.penalty(), self.recipe.ewc)
        return found

    def state(self) -> Mapping[str, Tensor]:
        """Return nothing: all is of the model before training, which a resumed run loads too."""
        return {}

    def neutralisation(self, blocks: list[int]) -> Tensor:
        """Return the mean |h . g| at the stereotyped words of some blocks."""
        assert self.direction is not None
        batch, device = self.corpus.take(blocks), self.model.device
        hidden = self.model.last_hidden_state(
            batch.input_ids.to(device), batch.attention_mask.to(device)
        )
        at = torch.isin(batch.input_ids, self.ids).to(device)
        return (hidden[at].float() @ self.direction.float()).abs().mean()

    def penalty(self) -> Tensor:
        """Return the sum of F (theta - theta_0)^2 over all parameters."""
        named = dict(self.model.model.named_parameters())
        parts = [
            (fisher * (named[name] - self.start[name]).square()).sum()
            for name, fisher in self.fisher.items()
        ]
        return torch.stack(parts).sum()


@torch.no_grad()
def gender_direction(model: LanguageModel) -> Tensor:
    """Return the unit vector [H] from female to male words, each alone in its sentence."""
    groups = WordSet.load("gender").groups
    means = []
    for name in ("male", "female"):
        vectors = []
        for word in groups[name]:
            ids = torch.tensor([model.tokenizer(word)["input_ids"]], device=model.device)
            special = torch.tensor(sorted(model.special_ids), device=model.device)
            kept = ~torch.isin(ids[0], special)
            if kept.any():
                hidden = model.last_hidden_state(ids, torch.ones_like(ids))
                vectors.append(hidden[0, kept].mean(0))
        if not vectors:
            raise RecipeError(f"recipe 'ase': no {name} word of the vocabulary; expected one")
        means.append(torch.stack(vectors).mean(0))
    return torch.nn.functional.normalize(means[0] - means[1], dim=0)


def fisher_diagonal(
    model: LanguageModel, corpus: Corpus, samples: int, seed: int
) -> dict[str, Tensor]:
    """Return the diagonal of the empirical Fisher information: the mean of squared gradients.

    It is by name of the parameter, without those that no sample reaches; a sample is a block.
    """
    label = Labeller(model, seed=seed)
    draw = random.Random(f"{seed} fisher")
    chosen = draw.sample(range(corpus.num_blocks), min(samples, corpus.num_blocks))
    parameters = dict(model.model.named_parameters())
    sums: dict[str, Tensor] = {}
    used = 0
    for block in chosen:
        found = label(corpus.take([block]))
        if not found.kept:
            continue
        used += 1
        loss = block_nll(model, found.input_ids, found.attention_mask, found.labels)
        grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, grad in zip(parameters, grads, strict=True):
            if grad is not None:
                sums[name] = sums.get(name, torch.zeros_like(grad)) + grad.square()
    if not used:
        raise RecipeError("recipe 'ase': no block of the text has a token to predict")
    return {name: total / used for name, total in sums.items()}


def block_nll(
    model: LanguageModel, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
) -> Tensor:
    """Return the summed negative log-likelihood of the labels of one block."""
    device, kept = model.device, labels != IGNORE
    features = model.features(input_ids.to(device), attention_mask.to(device))
    x, weight, bias = model.scaled(features[kept.to(device)])
    nll, _ = linear_nll_lse(x, weight, labels[kept].to(device), bias, softcap=model.softcap)
    return nll.sum()

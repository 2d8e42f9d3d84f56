"""The loss of an optimiser step: cross-entropy of the head plus neural-collapse terms.

Micro-batches give the gradient of the whole batch, exactly. Cross-entropy is a sum over tokens, so
it needs only the whole batch's count. A neural-collapse term is no such sum: it sees the class
means of all tokens at once. It is therefore computed once per step, on the features of all
micro-batches together; its gradient to each feature then joins that micro-batch's backward pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .. import functional as F
from ..errors import DataError
from ..language import LanguageModel
from ..language.labels import IGNORE
from .batches import TrainingBatch
from .ranks import Ranks


@dataclass
class Term:
    """Hold one neural-collapse term of the loss.

    Args:
        module: called as ``module(x, y, head_weight)`` on features [n, D] and classes [n];
            returns a scalar.
        weight: its factor lambda, at least 0.
        classes: class ids [K] it looks at; tokens of others never reach it. None: all.
        to_features: whether its gradient reaches the features; False spares a forward pass when
            the step has several micro-batches.

    Example:
        >>> Term(DualityRegularizer(ids), 0.1, ids)  # doctest: +SKIP
    """

    module: nn.Module
    weight: float
    classes: Tensor | None = None
    to_features: bool = True

    def __post_init__(self) -> None:
        """Refuse a negative weight."""
        if not 0.0 <= self.weight < float("inf"):
            raise ValueError(f"the weight of a term is {self.weight}; wanted 0 or more")


@dataclass
class StepResult:
    """Say what one step's loss was made of.

    Args:
        loss: the whole loss.
        cross_entropy: mean negative log-likelihood of the predicted tokens, in nats.
        predicted: how many tokens were predicted, over all ranks.
        terms: value of each term, before its weight.
        seen: features and classes the terms saw, over all micro-batches of this rank.
        term_norm: length of the gradient of all weighted terms, where it was asked for.

    Example:
        >>> objective(batch).loss  # doctest: +SKIP
        3.2
    """

    loss: float
    cross_entropy: float
    predicted: int
    terms: dict[str, float]
    seen: tuple[Tensor, Tensor]
    term_norm: float | None = None


@dataclass
class Objective:
    """Compute loss and gradients of a step, in as many micro-batches as wanted.

    Args:
        model: gives features and head, in train mode.
        terms: the neural-collapse terms by name.
        micro_batches: how many parts a step's rows are computed in.
        precision: ``"fp32"``, or ``"bf16"`` for autocast: bfloat16 matrix products, weights and
            head sums in float32.
        head_budget: bytes of logits to keep for backward instead of computing them again.
        label_smoothing: of the cross-entropy.
        term_features: ``"head_input"`` or ``"encoder_out"``, what the terms see.
        seed: of dropout: a step's masks depend on seed, step, micro-batch and rank alone.
        ranks: the other processes of the run.

    Example:
        >>> objective = Objective(model, {"nc3": Term(regularizer, 0.1)})  # doctest: +SKIP
        >>> objective.backward(batches(0), step=0).loss  # doctest: +SKIP
        3.2
    """

    model: LanguageModel
    terms: Mapping[str, Term] = field(default_factory=dict)
    micro_batches: int = 1
    precision: str = "fp32"
    head_budget: int = 0
    label_smoothing: float = 0.0
    term_features: str = "head_input"
    seed: int = 0
    ranks: Ranks = field(default_factory=Ranks)

    def __post_init__(self) -> None:
        """Find the classes that any term looks at."""
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision is {self.precision!r}; wanted 'fp32' or 'bf16'")
        if self.micro_batches < 1:
            raise ValueError(f"micro_batches is {self.micro_batches}; wanted at least 1")
        wanted = [term.classes for term in self.terms.values()]
        some = [ids.cpu() for ids in wanted if ids is not None]
        # One term that looks at every class makes all tokens wanted.
        self._classes = torch.unique(torch.cat(some)) if some and len(some) == len(wanted) else None
        self._to_features = any(term.to_features for term in self.terms.values())

    def backward(self, batch: TrainingBatch, step: int, split_norm: bool = False) -> StepResult:
        """Add the gradients of a step to the parameters.

        Args:
            batch: this rank's rows of the step.
            step: number of the step, from 0; dropout depends on it.
            split_norm: also measure the length of the terms' own gradient; costs a forward and a
                backward pass more. The gradients must be zero before.

        Returns:
            What the loss was made of; its sums are over all ranks.

        Raises:
            DataError: no token to predict, or features that are not finite.
        """
        parts = batch.split(self.micro_batches)
        predicted = self.ranks.sum_of_int(batch.predicted)
        if predicted == 0:
            raise DataError(f"step {step}: no token to predict in {len(batch.input_ids)} blocks")
        at_once = len(parts) == 1 and not split_norm
        two_passes = bool(self.terms) and self._to_features and not at_once
        values: dict[str, float] = {}
        seen: list[tuple[Tensor, Tensor]] = []
        slopes: list[Tensor] = []
        term_norm = None
        if two_passes:
            seen, values, slopes = self._terms_first(parts, step)
            if split_norm:
                for number, part in enumerate(parts):
                    self._pull(part, step, number, slopes[number]).backward()
                self.ranks.sum_gradients(self.model.model)
                term_norm = gradient_norm(self.model.model)
        total = torch.zeros((), dtype=torch.float64, device=self.model.device)
        for number, part in enumerate(parts):
            x, y, picked = self._forward(part, step, number)
            nll = self._cross_entropy(x, y)
            total += nll.detach().double()
            loss = nll / predicted
            if self.terms and not two_passes:
                seen.append((picked[0].detach(), picked[1]))
                if at_once:
                    added, values = self._terms(*picked)
                    loss = loss + added
            elif two_passes and not split_norm:
                loss = loss + (picked[0].float() * slopes[number]).sum()
            loss.backward()
        if self.terms and not values:  # gradient to the head alone: the features are all here
            added, values = self._terms(*_joined(seen))
            added.backward()
        cross_entropy = float(self.ranks.sum_of(total)) / predicted
        weighted = sum(term.weight * values[name] for name, term in self.terms.items())
        return StepResult(
            cross_entropy + weighted, cross_entropy, predicted, values, _joined(seen), term_norm
        )

"""The loss of an optimiser step: cross-entropy of the head plus neural-collapse terms.

Micro-batches give the gradient of the whole batch, exactly. Cross-entropy is a sum over tokens, so
it needs only the whole batch's count. A neural-collapse term is no such sum: it sees the class
means of all tokens at once. It is therefore computed once a step, on the features of all
micro-batches together; its gradient at each feature then joins that micro-batch's backward pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import DataError
from ..language import LanguageModel
from ..language.labels import IGNORE
from ..losses import Regularizer, linear_cross_entropy
from ..ranks import Ranks
from .batches import TrainingBatch
from .gradients import gradient_norm
from .own_loss import OwnLoss

Seen = tuple[Tensor, Tensor]
OWN = 2**40  # in place of a micro-batch's number, in the seed of dropout


@dataclass(frozen=True)
class MicroBatch:
    """Hold some rows of a step on the device, and which positions count."""

    input_ids: Tensor  # [B, T] int64
    attention_mask: Tensor  # [B, T] int64
    kept: Tensor | None  # flat positions the head predicts [n] int64; None when that is all of them
    labels: Tensor  # their classes [n] int64
    term_rows: Tensor  # flat positions the terms look at [m] int64
    classes: Tensor  # their classes [m] int64


@dataclass
class StepResult:
    """Say what one step's loss was made of."""

    loss: float  # the whole loss
    cross_entropy: float  # mean negative log-likelihood of the predicted tokens, in nats
    predicted: int  # how many tokens were predicted, over all ranks
    # what each term last saw: ``value`` before its weight, ``weight``, ``classes``, ``tokens`` and
    # its own scalars
    terms: dict[str, dict[str, float]]
    seen: Seen | None  # features [n, D] and classes [n] the terms saw on this rank
    term_norm: float | None = None  # gradient norm of all weighted terms, where it was asked for


@dataclass
class Objective:
    """Compute loss and gradients of a step, in as many micro-batches as asked for."""

    model: LanguageModel  # gives features and head, in train mode
    # the neural-collapse terms by name; each brings its own weight
    terms: Mapping[str, Regularizer] = field(default_factory=dict)
    micro_batches: int = 1  # how many parts a step's rows are computed in
    # ``"fp32"``, or ``"bf16"`` for autocast: bfloat16 matrix products; weights, head sums and terms
    # in float32
    precision: str = "fp32"
    head_budget: int = 0  # bytes of logits to keep for backward instead of computing them again
    label_smoothing: float = 0.0  # of the cross-entropy
    # let the terms see the encoder's output instead of the head's input, as the official fairness
    # code does
    encoder_features: bool = False
    seed: int = 0  # of dropout: a step's masks depend on seed, step, micro-batch and rank alone
    ranks: Ranks = field(default_factory=Ranks)  # the processes that share a step
    own: OwnLoss | None = None  # a recipe's loss besides; it weighs the cross-entropy too

    def __post_init__(self) -> None:
        """Find the classes that any term looks at."""
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision is {self.precision!r}; expected 'fp32' or 'bf16'")
        if self.micro_batches < 1:
            raise ValueError(f"micro_batches is {self.micro_batches}; expected at least 1")
        sets = [term.class_means.ids.cpu() for term in self.terms.values()]
        self._classes = torch.unique(torch.cat(sets)) if sets else torch.zeros(0).long()

    @property
    def terms_reach_features(self) -> bool:
        """Return whether any term has a gradient to the features."""
        return any(getattr(term, "grad", "both") != "head" for term in self.terms.values())

    def backward(self, batch: TrainingBatch, step: int, measure_share: bool = False) -> StepResult:
        """Add the gradients of a step, from 0, to the parameters, averaged over ranks.

        ``batch`` are this rank's rows. ``measure_share`` also measures the norm of the terms' own
        gradient, for a forward and a backward pass more; the gradients must be zero before.
        """
        parts = self.prepare(batch)
        count = torch.tensor(batch.predicted, device=self.model.device)
        predicted = int(self.ranks.sum_of(count))
        if predicted == 0:
            raise DataError(f"step {step}: no token to predict in {len(batch.input_ids)} blocks")
        seen: list[Seen] = []
        term_gradients: list[Tensor] = []
        term_norm = None
        ahead = bool(self.terms) and (
            measure_share or (self.terms_reach_features and len(parts) > 1)
        )
        if ahead:
            seen, term_gradients = self._terms_ahead(parts, step)
        if measure_share and self.terms:
            for number, part in enumerate(parts if self.terms_reach_features else []):
                picked = self.forward(part, step, number)[1]
                pulled_along(picked[0], term_gradients[number]).backward()
            self.ranks.average_gradients(self.model.model)
            term_norm = gradient_norm(self.model.model)
        # With several ranks, what is there already is the same on each: averaging keeps it.
        pulled = ahead and self.terms_reach_features and not measure_share
        total = torch.zeros((), dtype=torch.float64, device=self.model.device)
        share = 1.0 if self.own is None else self.own.cross_entropy_weight
        for number, part in enumerate(parts):
            features, picked = self.forward(part, step, number)
            loss = self.cross_entropy(features, part, predicted / self.ranks.size)
            total += loss.detach().double() / self.ranks.size
            loss = loss * share
            if pulled:
                loss = loss + pulled_along(picked[0], term_gradients[number])
            elif self.terms and not ahead:
                seen.append((picked[0].detach(), picked[1]))
                if len(parts) == 1:
                    loss = loss + self.add_terms(*picked)
            loss.backward()
        if self.terms and not ahead and len(parts) > 1:  # gradient to the head alone
            self.add_terms(*_joined(seen)).backward()
        own = self._add_own(step)
        self.ranks.average_gradients(self.model.model)
        cross_entropy = float(self.ranks.sum_of(total))
        last = {name: _numbers(term.last) for name, term in self.terms.items()} | own
        weighted = sum(values["weight"] * values["value"] for values in last.values())
        everything = _joined(seen) if seen else None
        return StepResult(
            share * cross_entropy + weighted,
            cross_entropy,
            predicted,
            last,
            everything,
            term_norm=term_norm,
        )

    def _add_own(self, step: int) -> dict[str, dict[str, float]]:
        """Add the gradients of the recipe's own loss, which is the same on every rank."""
        if self.own is None:
            return {}
        torch.manual_seed(hash((self.seed, step, OWN)) % 2**63)
        with self._autocast():
            losses = self.own.losses(step)
        if losses:
            torch.stack([value * weight for value, weight in losses.values()]).sum().backward()
        return {name: {"value": float(v.detach()), "weight": w} for name, (v, w) in losses.items()}

    def _terms_ahead(self, parts: list[MicroBatch], step: int) -> tuple[list[Seen], list[Tensor]]:
        """Compute the terms on all features at once; return these, and the gradients there."""
        with torch.no_grad():
            seen = [self.forward(part, step, number)[1] for number, part in enumerate(parts)]
        features, classes = _joined(seen)
        features.requires_grad_()
        self.add_terms(features, classes).backward()
        gradient = torch.zeros_like(features) if features.grad is None else features.grad
        return seen, list(gradient.split([len(x) for x, _ in seen]))

    def prepare(self, batch: TrainingBatch) -> list[MicroBatch]:
        """Split this rank's rows into micro-batches on the model's device, and find the positions
        that count, on the CPU, without a sync.
        """
        device = self.model.device
        parts = []
        for part in batch.split(self.micro_batches):
            labels, term_labels = part.labels.flatten(), part.term_labels.flatten()
            kept = (labels != IGNORE).nonzero()[:, 0]
            term_rows = torch.isin(term_labels, self._classes).nonzero()[:, 0]
            every = len(kept) == len(labels)
            parts.append(
                MicroBatch(
                    part.input_ids.to(device),
                    part.attention_mask.to(device),
                    None if every else kept.to(device),
                    labels[kept].to(device),
                    term_rows.to(device),
                    classes=term_labels[term_rows].to(device),
                )
            )
        return parts

    def forward(self, part: MicroBatch, step: int, number: int) -> tuple[Tensor, Seen]:
        """Compute the features [n, D] the head predicts from, and those the terms look at [m, D]
        with their classes [m], of a micro-batch, the ``number``-th of the step.
        """
        # Two passes over one micro-batch must drop the same units, and so must a resumed run.
        torch.manual_seed(hash((self.seed, step, number, self.ranks.rank)) % 2**63)
        with self._autocast(), self._encoder_output() as encoder:
            features = self.model.features(part.input_ids, part.attention_mask).flatten(0, 1)
        source = encoder[0].flatten(0, 1) if self.encoder_features else features
        # A masked model predicts one token in seven: the others never reach the head.
        kept = features if part.kept is None else features[part.kept]
        return kept, (source[part.term_rows], part.classes)

    def cross_entropy(self, features: Tensor, part: MicroBatch, count: float) -> Tensor:
        """Return the sum of negative log-likelihoods over ``count``: the tokens of the whole step
        by the number of ranks. Features [n, D] are from :meth:`forward`.
        """
        x, weight, bias = self.model.scaled(features)
        return linear_cross_entropy(
            x,
            weight,
            part.labels,
            linear_bias=bias,
            softcap=self.model.softcap,
            check_finite=True,
            label_smoothing=self.label_smoothing,
            num_tokens=count,
            memory_budget=self.head_budget,
        )

    def add_terms(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return the sum of the weighted terms, of features [m, D] and classes [m] of the whole
        step.
        """
        # As they are: how coarse features were stored decides what a term can tell from rounding.
        weight = self.model.head_weight
        return torch.stack([term(features, classes, weight) for term in self.terms.values()]).sum()

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.model.device.type, torch.bfloat16)

    @contextlib.contextmanager
    def _encoder_output(self) -> Iterator[list[Tensor]]:
        outputs: list[Tensor] = []
        if not self.encoder_features:
            yield outputs
            return
        inner = self.model.model
        inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
        handle = inner.base_model.register_forward_hook(
            lambda module, args, output: outputs.append(output.last_hidden_state)
        )
        try:
            yield outputs
        finally:
            handle.remove()


def pulled_along(features: Tensor, gradient: Tensor) -> Tensor:
    """Return a number whose gradient to features [n, D] is ``gradient``, of their dtype, exactly.

    >>> x = torch.ones(1, 2, dtype=torch.bfloat16, requires_grad=True)
    >>> pulled_along(x, 3 * torch.ones_like(x)).backward()
    >>> x.grad
    tensor([[3., 3.]], dtype=torch.bfloat16)
    """
    wide = torch.promote_types(features.dtype, torch.float32)  # 16 bits' sum would overflow
    return (features.to(wide) * gradient).sum()


def _joined(seen: list[Seen]) -> Seen:
    return torch.cat([x for x, _ in seen]), torch.cat([y for _, y in seen])


def _numbers(last: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in last.items()}

"""How to compute a step within a memory limit, at the least cost.

Three things trade time for memory: layers that are computed again in backward, a step in several
micro-batches, and tiles of logits that are kept. Which is cheapest depends on model, batch and
terms: micro-batches are nearly free, but with a term that reaches the features they cost a forward
pass ahead; a kept byte of logits saves more arithmetic than one of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .batches import TrainingBatch
from .memory import RESERVE, MemoryPlan, plan
from .objective import Objective
from .recompute import recomputable_layers, set_recompute

# Multiply-adds in the time a byte of a gradient takes to be added: 226 GFLOP/s over 46.8 GB/s of
# two cores (benchmarks/results/table.md), three bytes moved for each one added.
_PRODUCTS_PER_GRADIENT_BYTE = 3 * 226 / 46.8 / 2
_SHARES_OF_LOGITS = (1.0, 0.5, 0.25, 0.0)


class DoesNotFit(ValueError):
    """Tell that no choice the loop can make fits a memory limit, and what would."""


@dataclass(frozen=True)
class _Choice:
    """Hold one way to compute a step, and what it costs in multiply-adds."""

    cost: float
    micro_batches: int
    head_budget: int


def fit(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    batch: TrainingBatch,
    limit: int,
    runtime: int = 0,
) -> MemoryPlan:
    """Choose recomputed layers, micro-batches and kept logits so that a step fits, cheaply.

    The cost of a choice is its arithmetic: a recomputed layer is one layer's forward pass more,
    kept logits save their product in backward, a further micro-batch adds all gradients once more,
    and a term with a gradient to the features asks for a forward pass ahead as soon as there are
    two. The cheapest choice that fits, by its plan, wins; the objective is set to it. What it was
    set to before is no lower bound, except that there are no fewer micro-batches.

    8 % of a plan's peak stay free of ``limit``, as a plan may be that far off; ``runtime`` is as
    for :func:`ncfast.training.memory.plan`. Where nothing fits, DoesNotFit names the least that is
    needed, and what is fixed.
    """
    model, layers = objective.model.model, len(recomputable_layers(objective.model.model))

    def planned(micro_batches: int, recompute: int, head_budget: int) -> MemoryPlan:
        set_recompute(model, recompute)
        objective.micro_batches, objective.head_budget = micro_batches, head_budget
        return plan(objective, optimizer, batch, runtime)

    choices: list[_Choice] = []
    given, limit = limit, int(limit / RESERVE)
    for parts in _doublings(objective.micro_batches, len(batch.input_ids)):
        none = planned(parts, 0, 0)
        roomy = none.peak + _logits_bytes(objective, batch, parts) <= limit
        every = none if roomy or not layers else planned(parts, layers, 0)
        choices += _candidates(objective, batch, none, every, limit)
        if roomy:
            break  # further micro-batches would only cost more
    for choice in sorted(choices, key=lambda found: found.cost):
        best, low, high = planned(choice.micro_batches, 0, choice.head_budget), 1, layers
        if best.peak <= limit:
            return best
        while low < high:
            middle = (low + high) // 2
            fits = planned(choice.micro_batches, middle, choice.head_budget).peak <= limit
            low, high = (low, middle) if fits else (middle + 1, high)
        best = planned(choice.micro_batches, high, choice.head_budget)
        if best.peak <= limit:  # two plans alone may mislead where the optimiser's step is the peak
            return best
    raise DoesNotFit(_what_would(every, given))


def _doublings(first: int, last: int) -> Iterator[int]:
    while first < last:
        yield first
        first *= 2
    yield last


def _candidates(
    objective: Objective, batch: TrainingBatch, none: MemoryPlan, every: MemoryPlan, limit: int
) -> Iterator[_Choice]:
    """Estimate the cheapest choices of one number of micro-batches from two of its plans."""
    logits = _logits_bytes(objective, batch, none.micro_batches)
    saved = none.peak - every.peak
    for share in _SHARES_OF_LOGITS:
        budget = int(share * logits)
        if every.peak + budget > limit:
            continue
        over = max(0, none.peak + budget - limit)
        # Layers are alike, and each that is recomputed saves as much.
        recompute = min(none.layers, math.ceil(none.layers * over / saved)) if over else 0
        cost = step_cost(objective, batch, none.micro_batches, recompute, share)
        yield _Choice(cost, none.micro_batches, budget)


def _logits_bytes(objective: Objective, batch: TrainingBatch, parts: int) -> int:
    weight = objective.model.head_weight
    return max(4, weight.element_size()) * math.ceil(batch.predicted / parts) * weight.shape[0]


def step_cost(
    objective: Objective, batch: TrainingBatch, parts: int, recompute: int, kept: float
) -> float:
    """Estimate the multiply-adds of a step; attention scores, which no choice changes, left out.

    ``parts`` micro-batches, ``recompute`` layers computed again, ``kept``: share of the logits that
    is kept for backward. Comparable between choices of one step.
    """
    model = objective.model
    embeddings = (model.model.get_input_embeddings().weight, model.head_weight)
    outside = {id(weight) for weight in embeddings}
    matrices = [p for p in model.model.parameters() if p.ndim >= 2 and id(p) not in outside]
    body = sum(p.numel() for p in matrices) * batch.input_ids.numel()
    head = model.head_weight.numel() * batch.predicted
    ahead = parts > 1 and objective.terms_reach_features
    again = recompute / max(1, len(recomputable_layers(model.model)))
    gradients = sum(p.nbytes for p in model.model.parameters() if p.requires_grad)
    added = (parts - 1) * gradients * _PRODUCTS_PER_GRADIENT_BYTE
    return body * (3 + again + ahead) + head * (4 - kept) + added


def _what_would(least: MemoryPlan, limit: int) -> str:
    fixed = least.weights + least.gradients + least.optimizer
    said = f"{limit / 2**20:,.0f} MiB" if limit >= 2**20 else f"{limit:,} bytes"  # "200" was typed
    return (
        f"the memory limit of {said} is too small: with one block at a time "
        f"and every layer recomputed a step needs {least.peak * RESERVE / 2**20:,.0f} MiB, of "
        f"which weights, gradients and optimizer take {fixed / 2**20:,.0f}; a smaller block size, "
        "LoRA or an optimizer without state (SGD) would need less"
    )

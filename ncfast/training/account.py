"""One step of the loop under fake tensors, with every storage counted: what plans are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from ..functional import linear_cross_entropy_bytes
from .batches import TrainingBatch
from .live_bytes import LiveBytes, Moment, fake_copy, local
from .objective import MicroBatch, Objective, pulled_along
from .recompute import recomputable_layers

# The clip and the optimiser work on one parameter at a time; AdamW makes one temporary of it.
OPTIMIZER_TEMPORARIES = 1


class Place:
    """Say where a run takes place, as far as its memory goes: here, on the CPU of this process."""

    shown: int | None = 2  # micro-batches that show what all take; None runs every one
    needs_warming = False  # whether a first step does what no later one does

    def arrange(
        self, objective: Objective, optimizer: torch.optim.Optimizer
    ) -> torch.optim.Optimizer:
        """Lay the model out, and return the optimiser of what is here; called with fake tensors."""
        return optimizer

    def forward(self, objective: Objective, function: Callable[[], Tensor]) -> Tensor:
        """Compute a loss from features and head."""
        return function()

    def head_bytes(self, tokens: int, weight: Tensor) -> dict[str, int]:
        """Return what the cross-entropy takes inside its ``forward`` and its ``backward``."""
        return linear_cross_entropy_bytes(tokens, weight.shape[0], weight.shape[1], weight.dtype)

    def temporaries(self, optimizer: torch.optim.Optimizer) -> int:
        """Return what a step of the optimiser takes besides its state."""
        sizes = (local(p).nbytes for group in optimizer.param_groups for p in group["params"])
        return max(sizes, default=0) * OPTIMIZER_TEMPORARIES

    def watch(self, objective: Objective, live: LiveBytes) -> list[int]:
        """Return a list that is filled, while a step runs, with places of the timeline."""
        return []

    def observe(self, name: str, args: tuple) -> None:
        """Take note of an operation."""


@dataclass(frozen=True)
class Account:
    """Hold everything that one step under fake tensors has shown; see :class:`MemoryPlan`."""

    # bytes of ``weights``, ``gradients``, ``optimizer``, ``statistics`` and of the optimiser's
    # ``temporaries``
    fixed: dict[str, int]
    timeline: list[Moment]  # bytes alive after every operation
    marks: list[int]  # places of the timeline that the place has marked
    # ``layers``, ``recompute``, ``micro_batches``, ``head_budget`` of the plan
    shape: dict[str, int]


def account(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    batch: TrainingBatch,
    place: Place | None = None,
) -> Account:
    """Run one step under fake tensors and count every storage; see :func:`plan`.

    ``place``: where the run takes place; None for the CPU of this process.
    """
    place = place or Place()
    model = objective.model
    mode = FakeTensorMode()
    modules = [model.model, *objective.terms.values()]
    kept = [model.tokenizer, model.model.config, objective.ranks, objective.own]
    copied: Objective = fake_copy(objective, modules, mode, kept)
    parts = copied.prepare(batch)
    fakes = [_fake(part, mode) for part in parts]
    optimizer = place.arrange(copied, optimizer)
    trained = [p for p in copied.model.model.parameters() if p.requires_grad]
    weights = _bytes(copied.model.model)
    live = LiveBytes(_native_workspace(parts[0], place), place.observe)
    marks = place.watch(copied, live)
    with torch.random.fork_rng(devices=[]), mode, ExitStack() as counting:
        if place.needs_warming:
            copied.model.model.train()
            _step(copied, fakes, place)
            for parameter in trained:
                parameter.grad = None
            marks.clear()
        counting.enter_context(live)
        for module in (copied.model.model, *copied.terms.values()):
            for tensor in (*module.parameters(), *module.buffers()):
                live.add(tensor)
        statistics = live.now - weights
        copied.model.model.train()
        _step(copied, fakes, place)
    if copied.terms:
        statistics *= 2  # the log's window keeps means of the same classes
    layers = recomputable_layers(model.model)
    return Account(
        {
            "weights": weights,
            "gradients": sum(local(p).nbytes for p in trained),
            "optimizer": optimizer_bytes(optimizer),
            "statistics": statistics,
            "temporaries": place.temporaries(optimizer),
        },
        live.timeline,
        marks,
        {
            "layers": len(layers),
            "recompute": sum(layer.gradient_checkpointing for layer in layers),
            "micro_batches": len(parts),
            "head_budget": objective.head_budget,
        },
    )


def _step(objective: Objective, parts: list[MicroBatch], place: Place) -> None:
    """Do what ``Objective.backward`` does, but for reading numbers, which fakes do not have."""
    gradients: list[Tensor] = []
    if objective.terms and len(parts) > 1:
        with torch.no_grad():
            seen = [_seen_ahead(objective, part, place) for part in parts]
        features = torch.cat([x for x, _ in seen]).requires_grad_()
        classes = torch.cat([y for _, y in seen])
        place.forward(objective, lambda: objective.add_terms(features, classes)).backward()
        gradient = features.grad if features.grad is not None else torch.zeros_like(features)
        gradients = list(gradient.split([len(x) for x, _ in seen]))
    # The second micro-batch finds the gradients of the first; later ones take what it takes.
    for number, part in enumerate(parts[: place.shown]):
        own = gradients[number] if gradients else None
        loss = place.forward(objective, partial(_loss, objective, part, number, own))
        loss.backward()
        del loss


def _seen_ahead(objective: Objective, part: MicroBatch, place: Place) -> tuple[Tensor, Tensor]:
    found: list[tuple[Tensor, Tensor]] = []

    def look() -> Tensor:
        found.append(objective.forward(part, 0, 0)[1])
        return found[0][0]

    place.forward(objective, look)
    return found[0]


def _loss(objective: Objective, part: MicroBatch, number: int, gradient: Tensor | None) -> Tensor:
    features, picked = objective.forward(part, 0, number)
    loss = objective.cross_entropy(features, part, 1.0)
    if gradient is not None:
        return loss + pulled_along(picked[0], gradient)
    return loss + objective.add_terms(*picked) if objective.terms else loss


def _fake(part: MicroBatch, mode: FakeTensorMode) -> MicroBatch:
    tensors = {
        name: mode.from_tensor(value) if isinstance(value, torch.Tensor) else value
        for name, value in vars(part).items()
    }
    return replace(part, **tensors)


def _native_workspace(part: MicroBatch, place: Place) -> Any:
    tokens = len(part.labels)

    def workspace(name: str, args: tuple) -> int:
        if "ncfast.linear_cross_entropy" not in name:
            return 0
        weight = next(
            a for a in args if isinstance(a, torch.Tensor) and a.ndim == 2 and a.shape[0] != tokens
        )
        found = place.head_bytes(tokens, weight)
        return found["backward" if "backward" in name else "forward"]

    return workspace


def _bytes(module: nn.Module) -> int:
    tensors = {id(t): local(t).nbytes for t in (*module.parameters(), *module.buffers())}
    return sum(tensors.values())


def small_optimizer(
    optimizer: torch.optim.Optimizer, settings: Mapping[str, Any], small: nn.Parameter
) -> torch.optim.Optimizer:
    """Return an optimiser of the same kind and settings, of one small parameter with a gradient."""
    small.grad = torch.ones_like(small)
    kind: Any = type(optimizer)
    copied: torch.optim.Optimizer = kind([small], lr=1e-3)
    copied.param_groups[0].update(settings)
    return copied


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Predict the bytes of an optimiser's state, of the parameters' shapes, from a step on small
    parameters of the same kind; the optimiser is not changed.

    >>> layer = nn.Linear(100, 10)
    >>> optimizer_bytes(torch.optim.AdamW(layer.parameters())) == 2 * 4 * 1010
    True
    """
    total = 0
    for group in optimizer.param_groups:
        settings = {key: value for key, value in group.items() if key != "params"}
        for dims in {p.ndim for p in group["params"]}:
            small = nn.Parameter(torch.ones((3,) * dims, dtype=torch.float32))
            copied = small_optimizer(optimizer, settings, small)
            copied.step()
            full = [
                value
                for value in copied.state[small].values()
                if isinstance(value, torch.Tensor) and value.shape == small.shape and dims
            ]
            # State is kept in the parameter's dtype.
            total += len(full) * sum(local(p).nbytes for p in group["params"] if p.ndim == dims)
    return total

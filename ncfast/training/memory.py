"""The memory plan of a run: foretold before the first step, and measured beside it after.

The plan is no formula. One step of the very loop runs under fake tensors, which have shapes and no
data, while every storage is counted; only what native kernels take inside one call is added from
their own account. So a new architecture needs no new arithmetic.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from ..functional import linear_cross_entropy_bytes
from .batches import TrainingBatch
from .live_bytes import LiveBytes, fake_copy
from .objective import MicroBatch, Objective
from .recompute import recomputable_layers

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
# The clip and the optimiser work on one parameter at a time; AdamW makes one temporary of it.
OPTIMIZER_TEMPORARIES = 1
# What a process on a CPU touches in its first steps besides tensors, after a warm-up: code pages of
# libraries (6 MiB for BERT-tiny) and pages of the heap (7 MiB and more). Nine runs of three models
# took 10 to 29 MiB more than their tensors.
FIRST_STEPS = 12 << 20


@dataclass(frozen=True)
class MemoryPlan:
    """Hold predicted bytes by what they are for, at the moment of the peak.

    Args:
        weights: parameters and buffers.
        gradients: of the parameters that are trained.
        optimizer: its state.
        statistics: of terms and log.
        activations: what forward keeps for backward, and temporaries at the peak.
        workspace: inside the native call that runs at the peak.
        runtime: what libraries take for themselves on a CPU, as :func:`warm_up` measured it, and
            12 MiB that the first steps touch beyond it.
        peak: the sum, or the optimiser's own peak where that is higher.
        layers: layers that can be recomputed.
        recompute: layers that are.
        micro_batches: parts a step is computed in.
        head_budget: bytes of logits kept.
    """

    weights: int
    gradients: int
    optimizer: int
    statistics: int
    activations: int
    workspace: int
    runtime: int
    peak: int
    layers: int
    recompute: int
    micro_batches: int
    head_budget: int

    def render(self, measured: int | None = None, limit: int | None = None) -> str:
        """Write the plan as lines of text.

        Args:
            measured: peak that was measured, to stand beside the prediction.
            limit: what the user allowed.

        Returns:
            The text.

        Example:
            >>> MemoryPlan(1, 1, 2, 0, 4, 0, 0, 8, 2, 0, 1, 0).render().splitlines()[0]
            'Memory plan, in MiB'
        """
        names: tuple[str, ...] = (
            "weights",
            "gradients",
            "optimizer",
            "statistics",
            "activations",
            "workspace",
            "runtime",
        )
        lines = ["Memory plan, in MiB"]
        lines += [f"  {name:<12} {getattr(self, name) / 2**20:>10,.1f}" for name in names]
        lines.append(f"  {'peak':<12} {self.peak / 2**20:>10,.1f} predicted")
        if measured is not None:
            off = self.peak / measured - 1
            lines.append(f"  {'':<12} {measured / 2**20:>10,.1f} measured ({off:+.1%} predicted)")
        if limit is not None:
            lines.append(f"  {'limit':<12} {limit / 2**20:>10,.1f}")
        lines.append(
            f"  a step in {self.micro_batches} micro-batches, {self.recompute} of {self.layers} "
            f"layers recomputed, {self.head_budget / 2**20:,.1f} MiB of logits kept"
        )
        return "\n".join(lines)


def parse_size(text: str) -> int:
    """Read a number of bytes: ``4GiB``, ``500MB``, ``1073741824``.

    Args:
        text: a number with an optional unit.

    Returns:
        Bytes.

    Raises:
        ValueError: no such size, or none at all.

    Example:
        >>> parse_size("4GiB"), parse_size("1.5 GB")
        (4294967296, 1500000000)
    """
    found = re.fullmatch(r"\s*([\d.]+)\s*([kmg]?i?)b?\s*", text.lower())
    try:
        size = int(float(found[1]) * UNITS[found[2]]) if found else 0
    except (KeyError, ValueError, OverflowError):
        size = 0
    if size < 1:
        raise ValueError(f"{text!r} is not a size in bytes; expected for example 4GiB or 500MB")
    return size


def plan(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    batch: TrainingBatch,
    runtime: int = 0,
) -> MemoryPlan:
    """Predict the peak memory of a training run from one step under fake tensors.

    Args:
        objective: model, terms and micro-batches as they will run; nothing of it is changed. A
            model on the device ``meta`` is planned as on the CPU.
        optimizer: of the model's parameters.
        batch: a typical step.
        runtime: bytes that libraries take besides the tensors, from :func:`warm_up`; 0 where it
            was not measured, and then none are counted.

    Returns:
        The plan.
    """
    model = objective.model
    mode = FakeTensorMode()
    modules = [model.model, *objective.terms.values()]
    kept = [model.tokenizer, model.model.config, objective.ranks, objective.own]
    twin: Objective = fake_copy(objective, modules, mode, kept)
    parts = twin.prepare(batch)
    fakes = [_fake(part, mode) for part in parts]
    weights = _bytes(model.model)
    states = optimizer_bytes(optimizer)
    live = LiveBytes(_native_workspace(parts[0]))
    with torch.random.fork_rng(devices=[]), mode, live:
        for module in (twin.model.model, *twin.terms.values()):
            for tensor in (*module.parameters(), *module.buffers()):
                live.add(tensor)
        statistics = live.now - weights
        twin.model.model.train()
        _step(twin, fakes)
    gradients = sum(p.nbytes for p in model.model.parameters() if p.requires_grad)
    now, workspace, _ = live.at_peak
    # Gradients that are not there yet at the peak are counted with the activations' share.
    activations = max(0, now - weights - statistics - gradients)
    if twin.terms:
        statistics *= 2  # the log's window keeps means of the same classes
    largest = max((p.nbytes for p in model.model.parameters() if p.requires_grad), default=0)
    in_step = weights + gradients + statistics + largest * OPTIMIZER_TEMPORARIES
    peak = max(max(now, weights + statistics) + workspace, in_step) + states
    runtime += FIRST_STEPS if runtime else 0
    return MemoryPlan(
        weights,
        gradients,
        states,
        statistics,
        activations,
        workspace=workspace,
        runtime=runtime,
        peak=peak + runtime,
        layers=len(recomputable_layers(model.model)),
        recompute=sum(layer.gradient_checkpointing for layer in recomputable_layers(model.model)),
        micro_batches=len(parts),
        head_budget=objective.head_budget,
    )


def _step(objective: Objective, parts: list[MicroBatch]) -> None:
    """Do what ``Objective.backward`` does, but for reading numbers, which fakes do not have."""
    slopes: list[torch.Tensor] = []
    if objective.terms and len(parts) > 1:
        with torch.no_grad():
            seen = [objective.forward(part, 0, 0)[1] for part in parts]
        features = torch.cat([x for x, _ in seen]).float().requires_grad_()
        objective.add_terms(features, torch.cat([y for _, y in seen])).backward()
        slope = features.grad if features.grad is not None else torch.zeros_like(features)
        slopes = list(slope.split([len(x) for x, _ in seen]))
    # The second micro-batch finds the gradients of the first; later ones are like it.
    for number, part in enumerate(parts[:2]):
        features, picked = objective.forward(part, 0, number)
        loss = objective.cross_entropy(features, part, 1.0)
        if slopes:
            loss = loss + (picked[0].float() * slopes[number]).sum()
        elif objective.terms:
            loss = loss + objective.add_terms(*picked)
        loss.backward()
        del features, picked, loss


def _fake(part: MicroBatch, mode: FakeTensorMode) -> MicroBatch:
    tensors = {
        name: mode.from_tensor(value) if isinstance(value, torch.Tensor) else value
        for name, value in vars(part).items()
    }
    return replace(part, **tensors)


def _native_workspace(part: MicroBatch) -> Any:
    tokens = len(part.labels)

    def workspace(name: str, args: tuple) -> int:
        if "ncfast.linear_cross_entropy" not in name:
            return 0
        weight = next(
            a for a in args if isinstance(a, torch.Tensor) and a.ndim == 2 and a.shape[0] != tokens
        )
        found = linear_cross_entropy_bytes(tokens, weight.shape[0], weight.shape[1], weight.dtype)
        return found["backward" if "backward" in name else "forward"]

    return workspace


def _bytes(module: nn.Module) -> int:
    tensors = {id(t): t.nbytes for t in (*module.parameters(), *module.buffers())}
    return sum(tensors.values())


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Predict the bytes of an optimiser's state from a step on small parameters of the same kind.

    Args:
        optimizer: any torch optimiser; it is not changed.

    Returns:
        Bytes of the state that has the parameters' shapes.

    Example:
        >>> layer = nn.Linear(100, 10)
        >>> optimizer_bytes(torch.optim.AdamW(layer.parameters())) == 2 * 4 * 1010
        True
    """
    total = 0
    for group in optimizer.param_groups:
        settings = {key: value for key, value in group.items() if key != "params"}
        for dims in {p.ndim for p in group["params"]}:
            small = nn.Parameter(torch.ones((3,) * dims))
            small.grad = torch.ones_like(small)
            kind: Any = type(optimizer)
            twin = kind([small], lr=1e-3)
            twin.param_groups[0].update(settings)
            twin.step()
            full = [
                value
                for value in twin.state[small].values()
                if isinstance(value, torch.Tensor) and value.shape == small.shape and dims
            ]
            # State is kept in the parameter's dtype.
            total += len(full) * sum(p.nbytes for p in group["params"] if p.ndim == dims)
    return total

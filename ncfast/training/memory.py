"""The memory plan of a run: predicted before the first step, and measured beside it after.

The plan is no formula. One step of the very loop runs under fake tensors, which have shapes and no
data, while every storage is counted; only what native kernels take inside one call is added from
their own account. So a new architecture needs no new arithmetic.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from .account import Account, account
from .batches import TrainingBatch
from .objective import Objective

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
# What a process on a CPU touches in its first steps besides tensors, after a warm-up: code pages of
# libraries (6 MiB for BERT-tiny) and pages of the heap (7 MiB and more). Nine runs of three models
# took 10 to 29 MiB more than their tensors.
FIRST_STEPS = 12 << 20
# Plans lay up to 8 % under what was measured (BERT-tiny in four micro-batches, 12 MiB): a choice
# must fit with that much more.
RESERVE = 1.08


@dataclass(frozen=True)
class MemoryPlan:
    """Hold predicted bytes by what they are for, at the moment of the peak."""

    weights: int  # parameters and buffers
    gradients: int  # of the parameters that are trained
    optimizer: int  # its state
    statistics: int  # of terms and log
    activations: int  # what forward keeps for backward, and temporaries at the peak
    workspace: int  # inside the native call that runs at the peak
    # what libraries take for themselves on a CPU, as :func:`warm_up` measured it, and 12 MiB that
    # the first steps touch beyond it
    runtime: int
    peak: int  # the sum, or the optimiser's own peak where that is higher
    layers: int  # layers that can be recomputed
    recompute: int  # layers that are
    micro_batches: int  # parts a step is computed in
    head_budget: int  # bytes of logits kept
    gathered: int = 0  # weights of other devices, and gradients on their way to them, at the peak
    head: int = 0  # what the cross-entropy has made, gradients of parameters left out, at the peak
    terms: int = 0  # what the ops of the terms have made, at the peak

    def render(self, measured: int | None = None, limit: int | None = None) -> str:
        """Write the plan as lines of text, beside a measured peak and what the user allowed.

        >>> MemoryPlan(1, 1, 2, 0, 4, 0, 0, 8, 2, 0, 1, 0).render().splitlines()[0]
        'Memory plan, in MiB'
        """
        names: tuple[str, ...] = (
            "weights",
            "gradients",
            "optimizer",
            "statistics",
            "activations",
            *(name for name in ("gathered", "head", "terms") if getattr(self, name)),
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
    """Read a number of bytes: ``4GiB``, ``500MB``, ``1073741824``; ValueError if it is none.

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

    Nothing of the objective, as it will run, is changed; a model on the device ``meta`` is planned
    as on the CPU. ``batch`` is a typical step. ``runtime``: bytes that libraries take besides the
    tensors, from :func:`warm_up`; 0 where it was not measured, and then none are counted.
    """
    return plan_of(account(objective, optimizer, batch), runtime)


def plan_of(found: Account, runtime: int = 0) -> MemoryPlan:
    """Return the plan at the moment of the peak of a step that was counted; see :func:`plan`."""
    fixed = {key: value for key, value in found.fixed.items() if key != "temporaries"}
    held = fixed["weights"] + fixed["statistics"]
    top = max(found.timeline, key=lambda moment: moment.now + moment.workspace)
    parts = {"gathered": top.gathered, "head": top.head, "terms": top.terms}
    # Gradients that are not there yet at the peak are counted with the activations' share.
    rest = top.now - held - fixed["gradients"] - sum(parts.values())
    in_step = held + fixed["gradients"] + found.fixed["temporaries"]
    peak = max(max(top.now, held) + top.workspace, in_step) + fixed["optimizer"]
    runtime += FIRST_STEPS if runtime else 0
    return MemoryPlan(
        **fixed,
        activations=max(0, rest),
        workspace=top.workspace,
        runtime=runtime,
        peak=peak + runtime,
        **found.shape,
        **parts,
    )

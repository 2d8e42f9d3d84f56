"""What is timed: an op, a size, a dtype, and the goal set for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ncfast import functional

from . import bounds


@dataclass(frozen=True)
class Case:
    """Hold one row's op, size, dtype and goal (time over floor), None where none was set."""

    op: str
    tokens: int
    width: int
    classes: int
    dtype: torch.dtype
    goal: float | None
    bound: Callable[[int, int, int, int, int], bounds.Bound]

    def inputs(self, seed: int = 0) -> dict[str, Any]:
        """Return random features, Zipf labels with permuted ids, head rows and running state."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(self.tokens, self.width, generator=generator).to(self.dtype)
        weights = 1 / torch.arange(1, self.classes + 1, dtype=torch.float64)
        ranks = torch.multinomial(weights, self.tokens, True, generator=generator)
        y = torch.randperm(self.classes, generator=generator)[ranks]
        head = torch.randn(self.classes, self.width, generator=generator)
        means = torch.randn(self.classes, self.width, generator=generator)
        return {
            "x": x,
            "y": y,
            "head_weight": head,
            "means": means,
            "center": means.mean(0),
            "grad": torch.randn(self.classes, generator=generator),
            "variances": torch.rand(self.classes, generator=generator) + 0.5,
            "num_classes": self.classes,
        }

    def limits(self, inputs: dict[str, Any]) -> bounds.Bound:
        """Return the least work for these inputs."""
        occurring = int(torch.unique(inputs["y"]).numel())
        size = inputs["x"].element_size()
        return self.bound(self.tokens, self.width, self.classes, occurring, size)

    def named(self) -> str:
        """Return the size in words."""
        kind = str(self.dtype).removeprefix("torch.")
        return f"N={self.tokens:,} D={self.width} V={self.classes:,} {kind}"


def state(inputs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Return empty running counts, means and spreads."""
    classes, width = inputs["num_classes"], inputs["x"].shape[1]
    return (
        torch.zeros(classes, dtype=torch.int64),
        torch.zeros(classes, width),
        torch.zeros(classes, dtype=torch.float64),
    )


BERT = (65_536, 768, 30_522)  # a training step's tokens, BERT-base's width and vocabulary
QUICK = (2_048, 64, 1_009)


def cases(quick: bool = False) -> list[Case]:
    """Return all cases, at BERT-base's size or at one that takes seconds."""
    n, d, v = QUICK if quick else BERT
    f32, bf16 = torch.float32, torch.bfloat16
    held_out = min(n, 8_192)
    every = [
        Case("accumulate_class_moments_", n, d, v, f32, 2.0, bounds.accumulate_class_moments_),
        Case("accumulate_class_moments_", n, d, v, bf16, 2.0, bounds.accumulate_class_moments_),
        Case("class_moments", n, d, v, f32, 3.0, bounds.class_moments),
        Case("class_moments", n, d, v, bf16, 3.0, bounds.class_moments),
        Case("within_class_scatter", n, d, v, f32, 1.6, bounds.within_class_scatter),
        Case("accumulate_with_scatter", n, d, v, f32, None, bounds.accumulate_with_scatter),
        Case("between_class_scatter", n, d, v, f32, None, bounds.between_class_scatter),
        Case("alignment", 1, d, v, f32, 2.0, bounds.alignment),
        Case("pair_stats", 1, d, v, f32, 1.3, bounds.pair_stats),
        Case(
            "nearest_center_and_linear_argmax",
            held_out, d, v, f32, 1.3, bounds.nearest_center_and_linear_argmax,
        ),
    ]  # fmt: skip
    needs = {"pair_stats": "pair_stats", "nearest_center_and_linear_argmax": "nearest_center"}
    return [case for case in every if hasattr(functional, needs.get(case.op, "alignment"))]

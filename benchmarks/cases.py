"""What is timed: an op, a size, a dtype, and the goal set for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ncfast.bench import bounds
from ncfast.bench.contract import Inputs
from ncfast.bench.head_losses import BUDGET, LOSS, MASKED

__all__ = ["BUDGET", "LOSS", "MASKED", "TERM", "Case", "cases"]


@dataclass(frozen=True)
class Case:
    """Hold one line of the benchmark plan.

    ``goal`` bounds time over floor, None where none was set; ``faster_than`` names a provider to
    beat as well, ``times`` how many times as fast as it to be. ``left_out`` names providers that
    would take minutes to hours a call here. ``name`` is the op, and what of it is timed.
    ``memory_goal`` bounds peak memory beside outputs.
    """

    name: str
    tokens: int
    width: int
    classes: int
    dtype: torch.dtype
    goal: float | None
    bound: Callable[[bounds.Size], bounds.Bound]
    faster_than: str = ""
    times: float = 1.0
    left_out: tuple[str, ...] = ()
    memory_goal: Callable[[bounds.Size], int] = bounds.extra_memory_goal

    def inputs(self) -> Inputs:
        """Return random tensors of this size."""
        return Inputs(self.tokens, self.width, self.classes, self.dtype)

    def small_inputs(self, exact: bool = False) -> Inputs:
        """Return the small tensors on which a provider is checked before it is timed."""
        return Inputs(257 if self.tokens else 0, 24, 101, self.dtype, seed=1, exact=exact)

    def size(self, inputs: Inputs) -> bounds.Size:
        """Return what the bound depends on, the classes that occur counted."""
        size = bounds.Size(self.tokens, self.width, self.classes, 0, self.dtype.itemsize)
        if not self.tokens:
            return size
        labels = inputs.masked_y if self.name == MASKED else inputs.y
        return replace(
            size,
            occurring=int(torch.unique(inputs.y).numel()),
            labelled=int((labels != -100).sum()),
            chosen=inputs.word_set.numel(),
            members=int(torch.isin(labels, inputs.word_set).sum()),
        )

    @property
    def shape(self) -> str:
        """Return the size in words; ops on class means have no tokens."""
        tokens = f"N={self.tokens:,} " if self.tokens else ""
        return f"{tokens}D={self.width} V={self.classes:,}"

    @property
    def dtype_name(self) -> str:
        """Return the dtype in words."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def title(self) -> str:
        """Return what is timed in a line."""
        return f"{self.name}, {self.shape} {self.dtype_name}"

    @property
    def ops(self) -> list[str]:
        """Return the ops that are timed here."""
        return [word for word in self.name.split() if word not in _WORDS]


# What is timed of the paper's term.
TERM = "DualityRegularizer forward and backward"

_WORDS = {"and", "backward", "energies", "forward", "histograms", "scatter", "with"}
_WORDS |= {"a", "budget", "15", "%", "labels"}
_BERT = (65_536, 768, 30_522)  # a large batch of tokens at BERT-base's width and vocabulary
_QUICK = (2_048, 64, 1_009)
_PREDECESSOR = (256, 4_000)  # where the predecessor's V x V grid still ends within a minute
_HELD_OUT = 8_192
_SMOLLM2 = (4_096, 576, 49_152)
_BERT_STEP = (4_096, 768, 30_522)
_MINILM = (4_096, 384, 30_522)  # 32 blocks of 128 tokens


def cases(quick: bool = False) -> list[Case]:
    """Return all cases, at BERT-base's size or at one that takes seconds and proves nothing."""
    n, d, v = _QUICK if quick else _BERT
    held_out = min(n, _HELD_OUT)
    narrow, few = (d, 300) if quick else _PREDECESSOR
    f32, bf16 = torch.float32, torch.bfloat16
    slow = () if quick else ("reference", "predecessor", "neural_collapse")
    accumulate, fresh = bounds.accumulate_class_moments_, bounds.class_moments
    within, with_scatter = bounds.within_class_scatter, bounds.accumulate_with_scatter
    both_ways, pairs = bounds.alignment_forward_backward, bounds.pair_stats
    listed = [
        *(
            Case(
                "accumulate_class_moments_",
                *(n, d, v, dtype, 2.0, accumulate),
                faster_than="torch",
            )
            for dtype in (f32, bf16)
        ),
        Case("class_moments", n, d, v, f32, goal=3.0, bound=fresh),
        Case("class_moments", n, d, v, bf16, goal=3.0, bound=fresh),
        Case("within_class_scatter", n, d, v, f32, goal=1.6, bound=within),
        Case("within_class_scatter", n, d, v, bf16, goal=1.6, bound=within),
        Case("accumulate_class_moments_ with scatter", n, d, v, f32, goal=None, bound=with_scatter),
        Case("between_class_scatter", 0, d, v, f32, goal=None, bound=bounds.between_class_scatter),
        Case("alignment forward and backward", 0, d, v, f32, goal=2.0, bound=both_ways),
        Case("pair_stats", 0, d, v, f32, goal=1.3, bound=pairs, left_out=slow),
        Case("pair_stats with histograms", 0, d, v, f32, goal=1.6, bound=pairs, left_out=slow),
        Case("pair_stats with energies", 0, d, v, f32, goal=None, bound=pairs, left_out=slow),
        Case("pair_stats", 0, narrow, few, f32, goal=None, bound=pairs),
        Case(
            "nearest_center and linear_argmax",
            *(held_out, d, v, f32, 1.3, bounds.nearest_center_and_linear_argmax),
            left_out=slow[:1],
        ),
        Case(
            "neural_collapse",
            *(0, d, v, f32, 3.2, bounds.neural_collapse),
            left_out=slow[:1],
            memory_goal=bounds.metrics_memory_goal,
        ),
    ]
    listed += _losses(quick)
    # Goals were set for the real sizes: small ones are all overhead.
    return (
        [replace(case, goal=None, faster_than="", times=1.0) for case in listed]
        if quick
        else listed
    )


def _losses(quick: bool) -> list[Case]:
    """Return the cases of a training step: the head's loss, and the term that is added to it."""
    f32, bound = torch.float32, bounds.linear_cross_entropy
    slow = () if quick else ("reference",)  # it keeps all logits, three times
    sizes = [_QUICK] if quick else [_SMOLLM2, _BERT_STEP]
    listed = []
    for n, d, v in sizes:
        for name, times, memory in (
            (LOSS, 1.0, bounds.loss_memory_goal),
            (BUDGET, 1 / 0.95, bounds.loss_with_budget_memory_goal),
        ):
            size = (name, n, d, v, f32, None, bound)
            listed.append(Case(*size, "torch", times, slow, memory))
    masked = (MASKED, *(_QUICK if quick else _BERT_STEP), f32, None, bound)
    listed.append(Case(*masked, "transformers", 5.0, slow, bounds.loss_memory_goal))
    term = (TERM, *(_QUICK if quick else _MINILM), f32, None, bounds.duality_term)
    listed.append(Case(*term, "masked_lm_step", 50.0, (), bounds.duality_memory_goal))
    return listed

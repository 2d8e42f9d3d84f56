"""What a protocol's cells would take: memory and hours, of training, own passes and evaluation."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..fairness.recipes import RECIPES
from ..fairness.recipes.recipe import Passes
from ..finetune import FinetuneSettings
from .protocol import Arm, Endpoint, Model, Protocol

if TYPE_CHECKING:
    from ..training.memory import MemoryPlan

__all__ = [
    "CARD",
    "RATE",
    "Hours",
    "cell_hours",
    "evaluation_hours",
    "late_hours",
    "memory",
    "training_flops",
]

# What a 24 GB card (RTX 3090 or 4090, A10) is assumed to sustain in float32 with TF32 products;
# published peaks are 35 to 83 TFLOP/s. Nobody has measured it with this loop.
RATE = 15e12
CARD = 24 * 2**30
# Tokens that BERT's vocabulary makes of what a benchmark asks of a masked model, equal contexts
# once, as ``ncfast evaluate`` runs them: counted at the model's input, 2026-11-28, of what
# paper.toml asks (StereoSet's test.gender, CrowS-Pairs' gender, WinoBias' type 1, six SEAT tests).
TOKENS: dict[str, float] = {
    "stereoset": 17_711,
    "bec-pro": 24_202,
    "seat": 17_670,
    "crows-pairs": 144_904,
    "winobias": 13_249,
    "winogender": 5_270,
}
# Of other subsets the tokens are not counted.
SUBSETS: dict[str, set[str]] = {
    "stereoset": {"test.gender"},
    "crows-pairs": {"gender"},
    "winobias": {"type1"},
    "seat": {f"sent-weat{name}" for name in ("6", "6b", "7", "7b", "8", "8b")},
}
# SST-2 of GLUE: 67,349 sentences, 3 epochs (``glue_training``), batches padded to 32 tokens or so.
FINE_TUNED = {"sst2": 3 * 67_349 * 32.0}


def training_flops(shape: Mapping[str, int], tokens: float, mask_rate: float = 0.15) -> float:
    r"""Return the FLOPs of training an encoder on T tokens.

    .. math:: 6 T \, (L (4 D^2 + 2 D F + 2 D B / 2) + r D (V + D))

    with L layers of width D and inner width F, blocks of B tokens (of ``BertConfig``, and
    ``block_size``), and a head over V words at the share r of tokens that is masked; forward, and
    twice that backward.

    >>> round(training_flops({"block_size": 128}, 1) / 1e6)  # BERT-base
    538
    """
    width, layers = shape.get("hidden_size", 768), shape.get("num_hidden_layers", 12)
    inner, words = shape.get("intermediate_size", 3072), shape.get("vocab_size", 30522)
    layer = 4 * width**2 + 2 * width * inner + width * shape["block_size"]
    return 6 * tokens * (layers * layer + mask_rate * width * (words + width))


@dataclass(frozen=True)
class Hours:
    """Hold the hours of one cell."""

    text: float  # training on the text
    own: float  # what the recipe's own loss runs beside it
    evaluation: float  # endpoints, perplexity before and after, collapse; no late endpoint
    unknown: tuple[str, ...] = ()  # benchmarks whose size is not known

    @property
    def all(self) -> float:
        """Return the sum."""
        return self.text + self.own + self.evaluation


def own_passes(arm: Arm, block: int) -> Passes:
    """Return what an arm's own loss runs through the model; nothing of an unknown recipe."""
    if arm.recipe not in RECIPES:
        return Passes()
    return RECIPES[arm.recipe].with_options(arm.options).passes(block)


def _size(training: Mapping[str, Any]) -> tuple[int, int]:
    """Return blocks of a step, and tokens of a block."""
    rows = training.get("batch_size", FinetuneSettings().batch_size)
    return rows, training.get("block_size") or 128


def cell_hours(protocol: Protocol, model: Model, arm: Arm) -> Hours | None:
    r"""Return the hours of one cell at :data:`RATE`; None without a shape, or steps of an arm.

    With f(T) of :func:`training_flops` and p of ``Recipe.passes``, a trained arm takes

    .. math:: f(S \cdot rows \cdot block), \qquad
        S f(p_{trained}) + f(p_{once}) + S f(p_{forward}) / 3, \qquad f(T_{eval}) / 3

    for text, own loss and evaluation: a forward pass is a third of a step. T_eval are the tokens of
    the benchmarks, of ``nc_tokens`` and, twice, of the text kept back.
    """
    training = protocol.training_of(model, arm)
    if not model.shape:
        return None
    rows, block = _size(training)
    shape, steps = {**model.shape, "block_size": block}, training.get("steps")
    rate = training.get("mask_rate", FinetuneSettings().mask_rate)
    evaluated, unknown = evaluation_hours(protocol, model)
    if arm.of:
        return Hours(0.0, 0.0, evaluated, unknown)
    if not steps:
        return None
    own, kept = own_passes(arm, block), training.get("held_out", FinetuneSettings().held_out)
    passes = steps * training_flops(shape, own.trained, own.predicted)
    passes += training_flops(shape, own.once, rate)
    passes += steps * training_flops(shape, own.forward, 0.0) / 3
    text = training_flops(shape, steps * rows * block, rate)
    epoch = min(steps * rows * block, training.get("max_tokens") or float("inf"))
    evaluated += 2 * training_flops(shape, kept * epoch, rate) / 3 / RATE / 3600
    return Hours(text / RATE / 3600, passes / RATE / 3600, evaluated, unknown)


def evaluation_hours(protocol: Protocol, model: Model) -> tuple[float, tuple[str, ...]]:
    """Return the hours of asking one model all endpoints that are not late, and its collapse; and
    the benchmarks that are not counted, because their size is not known.
    """
    shape = {**model.shape, "block_size": 128}
    asked: dict[str, set[str]] = {}
    for e in protocol.endpoints:
        if not e.late and e.benchmark != "perplexity":
            asked.setdefault(e.benchmark, set()).update(e.subsets)
    known = [n for n, some in asked.items() if n in TOKENS and some <= SUBSETS.get(n, some)]
    tokens = sum(TOKENS[name] for name in known)
    flops = training_flops(shape, tokens + protocol.evaluation.nc_tokens) / 3
    return flops / RATE / 3600, tuple(name for name in asked if name not in known)


def late_hours(model: Model, endpoint: Endpoint) -> float | None:
    """Return the hours of one late endpoint of one model; None where they are not known."""
    if endpoint.benchmark not in FINE_TUNED or not model.shape:
        return None
    shape = {**model.shape, "block_size": 128}
    return training_flops(shape, FINE_TUNED[endpoint.benchmark], 0.0) / RATE / 3600


def memory(protocol: Protocol, model: Model, arm: Arm) -> int | None:
    """Return the predicted peak bytes of training one cell; None without the model's shape.

    The recipe's own loss is run after the text's, with the copies of weights that it holds; the
    larger of both counts.
    """
    if not model.shape:
        return None
    training = protocol.training_of(model, arm)
    shape = tuple(sorted(model.shape.items()))
    recompute = training.get("recompute", 0)
    rows, block = _size(training)
    own = own_passes(arm, block)
    blocks, classes = rows // training.get("accumulate", 1), 300 if arm.terms.get("nc3") else 0
    text = _plan(shape, blocks, block, recompute, classes)
    found = text.peak
    if own.trained:
        blocks = max(1, round(own.trained / block))
        found = max(found, _plan(shape, blocks, block, recompute, 0).peak)
    return found + own.copies * text.weights


@functools.cache
def _plan(
    shape: tuple[tuple[str, int], ...], blocks: int, block: int, recompute: int, classes: int
) -> MemoryPlan:
    """Plan a step of BERT in float32: many arms are the same to it, and one plan takes a second."""
    import transformers

    from ..plan import PlanSettings, plan_model

    sizes: dict[str, Any] = dict(shape)
    config = transformers.BertConfig(**sizes)
    settings = PlanSettings(
        gpus=0,
        batch_size=blocks,
        block_size=block,
        recompute=recompute,
        dtype="float32",
        term_classes=classes,
    )
    return plan_model(config, settings).memory

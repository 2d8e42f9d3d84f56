"""Plans of one choice and of several: what a device holds, what it sends, and what would fit."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from ..errors import DataError
from ..language import LanguageError
from ..running.options import require_whole
from ..training import make_optimizer, recomputable_layers, set_recompute
from ..training.account import Account, account
from ..training.memory import RESERVE, MemoryPlan, plan_of
from ..training.unloaded import meta_model, unloaded_step
from .architectures import kind_of_config
from .devices import Devices, fake_group
from .layers import FEWEST, alike, deeper, shallow
from .traffic import Message, sent_bytes

__all__ = [
    "EVERY",
    "RESERVE",
    "DevicePlan",
    "PlanSettings",
    "plan_choices",
    "plan_model",
    "remedies",
]

PARALLEL = ("none", "fsdp", "tp", "fsdp+tp")
DTYPES, PRECISIONS = ("float32", "bfloat16"), ("fp32", "bf16")
LEAST = {
    "gpus": 0,
    "tensor": 1,
    "batch_size": 1,
    "block_size": 1,
    "accumulate": 1,
    "recompute": 0,
    "lora": 0,
    "term_classes": 0,
}
EVERY = 10**6  # layers: all there are


@dataclass(frozen=True)
class PlanSettings:
    """Hold how a model is to be trained.

    Raises:
        DataError: they contradict one another.

    >>> PlanSettings(gpus=8, parallel="fsdp", batch_size=8).blocks
    1
    """

    gpus: int = 1  # how many devices; 0 plans the loop on this machine's CPU
    parallel: str = "none"  # ``"none"``, ``"fsdp"``, ``"tp"`` or ``"fsdp+tp"``
    tensor: int = 1  # devices that share every layer, under ``tp`` and ``fsdp+tp``
    batch_size: int = 1  # blocks of a step, over all devices
    block_size: int = 2048  # tokens of a block
    accumulate: int = 1  # micro-batches a device computes its share of a step in
    recompute: int = 0  # layers computed again in backward
    lora: int = 0  # rank of adapters; 0 trains all weights
    dtype: str = "bfloat16"  # of the weights, ``"float32"`` or ``"bfloat16"``
    precision: str = "fp32"  # ``"fp32"``, or ``"bf16"`` for products in bfloat16
    optimizer: str = "AdamW"  # a class of ``torch.optim``
    term_classes: int = 300  # classes of a (U)NC3 term; 0 for no term

    def __post_init__(self) -> None:
        """Reject what makes no sense."""
        require_whole(self, LEAST, DataError)
        if self.dtype not in DTYPES or self.precision not in PRECISIONS:
            raise DataError(
                f"dtype={self.dtype!r}, precision={self.precision!r}; expected one of "
                f"{', '.join(DTYPES)}, and one of {', '.join(PRECISIONS)}"
            )
        if self.parallel not in PARALLEL:
            raise DataError(f"parallel is {self.parallel!r}; expected one of {', '.join(PARALLEL)}")
        if (self.parallel == "none") != (self.gpus <= 1):
            raise DataError(
                f"parallel is {self.parallel!r} with {self.gpus} GPUs; expected 'none' for one, "
                "and another for several"
            )
        if ("tp" in self.parallel) != (self.tensor > 1):
            raise DataError(
                f"parallel is {self.parallel!r} with {self.tensor} GPUs sharing every layer; "
                "expected more than one for tp, and one otherwise"
            )
        if self.gpus > 1 and self.gpus % self.tensor:
            raise DataError(
                f"{self.gpus} GPUs with {self.tensor} sharing every layer; expected a divisor"
            )
        if self.parallel == "tp" and self.tensor != self.gpus:
            raise DataError(
                f"parallel is 'tp' with {self.tensor} of {self.gpus} GPUs sharing every layer; "
                "expected all of them, or 'fsdp+tp'"
            )
        if self.batch_size % self.replicas:
            raise DataError(
                f"batch_size={self.batch_size} blocks over {self.replicas} groups of devices; "
                "expected a multiple"
            )
        if self.accumulate > self.blocks:
            raise DataError(
                f"accumulate={self.accumulate} with {self.blocks} blocks on a device; expected at "
                "most one micro-batch per block"
            )
        if self.lora and self.tensor > 1:
            raise DataError("LoRA with tensor parallelism, which is not planned; expected fsdp")

    @property
    def replicas(self) -> int:
        """Return how many groups of devices have blocks of their own."""
        return max(1, self.gpus) // self.tensor

    @property
    def blocks(self) -> int:
        """Return the blocks that one device computes."""
        return self.batch_size // self.replicas


@dataclass(frozen=True)
class DevicePlan:
    """Hold what one device of a training run holds and sends."""

    settings: PlanSettings  # how it is trained
    memory: MemoryPlan  # bytes on the device
    # what it sends in a step: message -> bytes of the whole tensors, and how often
    traffic: dict[Message, tuple[float, float]]
    parameters: int  # of the whole model

    @property
    def needed(self) -> int:
        """Return the bytes a device should have: the peak, and what plans may be off by."""
        return int(self.memory.peak * RESERVE)

    def sent(self, over: str) -> float:
        """Return the bytes a device sends in a step over ``"data"`` or ``"tensor"`` of the mesh."""
        return sum(sent_bytes(m, size) for m, (size, _) in self.traffic.items() if m.over == over)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan in values of JSON."""
        messages = [
            {**asdict(m), "bytes": round(size), "calls": round(count), "sent": sent_bytes(m, size)}
            for m, (size, count) in self.traffic.items()
        ]
        return {
            "settings": asdict(self.settings),
            "parameters": self.parameters,
            "memory": asdict(self.memory),
            "needed": self.needed,
            "traffic": messages,
        }


def plan_model(config: Any, settings: PlanSettings, name: str = "the model") -> DevicePlan:
    """Plan one step of training, on the device of the group that holds the most, without weights.

    A model that cannot be trained so is a LanguageError.
    """
    kind = kind_of_config(config, name)
    limit = getattr(config, "max_position_embeddings", None)
    if limit and settings.block_size > limit:
        raise LanguageError(
            f"block_size={settings.block_size}; {name} takes at most {limit} positions"
        )
    whole = _model(config, kind, settings, lora=0)
    parameters = sum(p.numel() for p in whole.parameters())
    layers = len(recomputable_layers(whole))
    if layers < settings.recompute < EVERY:
        there = f"{name} has {layers} layers that can be recomputed"
        raise LanguageError(f"recompute={settings.recompute}; {there}; expected as many at most")
    every = settings.recompute >= layers or not settings.recompute
    period = alike(config, lambda _: _shapes(whole)) if every else None
    with fake_group(settings.gpus or 1, settings.tensor) as mesh:
        if period is None:
            found, places = _run(config, kind, settings, mesh)
            sizes, counts = _traffic(places)
            steps = [(found, places, sizes, counts)]
            total = found
        else:
            steps = []
            for layers in (FEWEST, FEWEST + period):
                found, places = _run(shallow(config, layers), kind, settings, mesh)
                steps.append((found, places, *_traffic(places)))
            (few, one, _, _), (more, two, _, _) = steps
            layers = config.num_hidden_layers
            total = deeper((few, one.marked), (more, two.marked), period, layers)
    traffic = _deep_traffic(steps, period, getattr(config, "num_hidden_layers", 0))
    return DevicePlan(settings, plan_of(total), traffic, parameters)


def _traffic(place: Devices) -> tuple[dict[Message, float], dict[Message, float]]:
    return (place.traffic.sizes, place.traffic.counts) if place.traffic else ({}, {})


def _deep_traffic(
    steps: list[Any], period: int | None, layers: int
) -> dict[Message, tuple[float, float]]:
    _, _, sizes, counts = steps[0]
    if period is None:
        return {message: (size, counts[message]) for message, size in sizes.items()}
    _, _, more, more_counts = steps[1]
    times = (layers - FEWEST) / period
    return {
        message: (
            sizes.get(message, 0) + times * (more[message] - sizes.get(message, 0)),
            counts.get(message, 0) + times * (more_counts[message] - counts.get(message, 0)),
        )
        for message in more
    }


def _shapes(model: Any) -> list[Any]:
    return [
        [(n, tuple(p.shape)) for n, p in layer.named_parameters()]
        for layer in recomputable_layers(model)
    ]


def _model(config: Any, kind: str, settings: PlanSettings, lora: int) -> Any:
    return meta_model(config, kind, lora, getattr(torch, settings.dtype))


def _run(config: Any, kind: str, settings: PlanSettings, mesh: Any) -> tuple[Account, Devices]:
    model = _model(config, kind, settings, settings.lora)
    sharded = mesh is not None and settings.replicas > 1
    objective, batch = unloaded_step(
        model,
        kind,
        settings.blocks,
        settings.block_size,
        term_classes=settings.term_classes,
        micro_batches=settings.accumulate,
        # FSDP casts weights itself; elsewhere the loop's autocast does.
        precision="fp32" if sharded else settings.precision,
    )
    set_recompute(model, min(settings.recompute, len(recomputable_layers(model))))
    devices = Devices(mesh, settings.optimizer, settings.precision == "bf16", settings.gpus > 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = make_optimizer(model, settings.optimizer)
        return account(objective, optimizer, batch, devices), devices


def plan_choices(config: Any, settings: PlanSettings, name: str) -> list[DevicePlan]:
    """Plan all weights and LoRA, with every layer recomputed and none; the one asked for first."""
    rank = settings.lora or 16
    ranks = (0,) if settings.tensor > 1 else (0, rank)
    choices = [replace(settings, lora=r, recompute=n) for r in ranks for n in (0, EVERY)]
    others = [choice for choice in choices if choice != settings]
    return [plan_model(config, choice, name) for choice in (settings, *others)]


def remedies(config: Any, plan: DevicePlan, memory: int, name: str) -> list[tuple[str, DevicePlan]]:
    """Find what makes a plan fit ``memory`` bytes, the cheapest first, each on top of the ones
    before.

    Returns what to change, and the plan with it; the last one fits, or nothing here does.
    """
    found: list[tuple[str, DevicePlan]] = []
    settings = plan.settings
    for words, changed in _changes(settings):
        if found and found[-1][1].needed <= memory:
            break
        settings = replace(settings, **changed)
        found.append((words, plan_model(config, settings, name)))
    return found


def _changes(settings: PlanSettings) -> Iterator[tuple[str, dict[str, Any]]]:
    if settings.recompute < EVERY:
        yield "every layer recomputed (--recompute all)", {"recompute": EVERY}
    if settings.accumulate < settings.blocks:
        yield (
            f"one block at a time (--accumulate {settings.blocks})",
            {"accumulate": settings.blocks},
        )
    if settings.dtype == "float32":
        yield "weights in bfloat16 (--dtype bfloat16)", {"dtype": "bfloat16"}
    if not settings.lora and settings.tensor == 1:
        yield "LoRA in place of all weights (--lora 16)", {"lora": 16}
    elif settings.optimizer != "SGD":
        yield "an optimizer without state (--optimizer SGD)", {"optimizer": "SGD"}
    if settings.block_size > 512:
        yield "shorter blocks (--block-size 512)", {"block_size": 512}
    more, blocks = max(settings.gpus, 1), settings.blocks
    for _ in range(4):
        more *= 2
        parallel = "fsdp+tp" if settings.tensor > 1 else "fsdp"
        tp = f" --tp {settings.tensor}" if settings.tensor > 1 else ""
        batch = blocks * (more // settings.tensor)
        yield (
            f"{more} devices (--gpus {more} --parallel {parallel}{tp} --batch-size {batch})",
            {"gpus": more, "parallel": parallel, "batch_size": batch},
        )

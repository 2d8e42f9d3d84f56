"""The job of ``ncfast bench``: for each op, right first, then how fast, and beside whom."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from . import backends, bounds, gate, loss_packages, plain_torch
from .contract import Absent, Inputs, Prepare, Prepared
from .head_losses import LOSS
from .machine import Machine, commit, cores, cpu_model, measure_machine, seconds
from .memory import method
from .timing import quartiles, take

__all__ = ["OPS", "SCHEMA", "BenchSettings", "bench"]

SCHEMA = "ncfast-bench/1"
# Op: how it is called in the tables of who does it, its bound, whether it reads tokens.
OPS: dict[str, tuple[str, Callable[[bounds.Size], bounds.Bound], bool]] = {
    "accumulate_class_moments_": (
        "accumulate_class_moments_",
        bounds.accumulate_class_moments_,
        True,
    ),
    "class_moments": ("class_moments", bounds.class_moments, True),
    "within_class_scatter": ("within_class_scatter", bounds.within_class_scatter, True),
    "between_class_scatter": ("between_class_scatter", bounds.between_class_scatter, False),
    "alignment": ("alignment forward and backward", bounds.alignment_forward_backward, False),
    "pair_stats": ("pair_stats", bounds.pair_stats, False),
    "nearest_center": (
        "nearest_center and linear_argmax",
        bounds.nearest_center_and_linear_argmax,
        True,
    ),
    "linear_cross_entropy": (LOSS, bounds.linear_cross_entropy, True),
    "neural_collapse": ("neural_collapse", bounds.neural_collapse, False),
}
# Who is timed, and the package whose version that is. The reference is the oracle and is not timed.
PEERS = {
    "torch": "torch",
    "torch_compile": "torch",
    "torch_fused": "torch",
    "cut_cross_entropy": "cut-cross-entropy",
    "liger": "liger-kernel",
}
OWN = "ncfast"
TABLES: dict[str, Mapping[str, Prepare]] = {
    OWN: backends.table("cpu"),
    "reference": backends.table("reference"),
    "torch": plain_torch.TABLE,
    "torch_compile": loss_packages.COMPILED,
    "torch_fused": loss_packages.TORCH_FUSED,
    "cut_cross_entropy": loss_packages.CUT_CROSS_ENTROPY,
    "liger": loss_packages.LIGER,
}
ORACLES = ("torch", "reference", OWN)
KEEPS_LOGITS = ("torch", "torch_compile", "cut_cross_entropy")


@dataclass(frozen=True)
class BenchSettings:
    """Hold what is timed.

    Args:
        rows: V, rows of the head.
        width: D.
        tokens: N of a batch.
        ops: names of :data:`OPS`; all where empty.
        peers: whether others are timed too.
        repeat: timed calls of each, once where one takes more than five seconds.
        threads: of the CPU; those torch has where None.
        patience: seconds; an op whose bound alone is longer is not timed unless ``ops`` names it.
    """

    rows: int
    width: int
    tokens: int = 4096
    ops: tuple[str, ...] = ()
    peers: bool = True
    repeat: int = 3
    threads: int | None = None
    patience: float = 60.0

    def __post_init__(self) -> None:
        """Raise :class:`DataError` where a setting means nothing."""
        for name, least in (("rows", 3), ("width", 2), ("tokens", 1), ("repeat", 1)):
            if getattr(self, name) < least:
                raise DataError(f"bench: {name}={getattr(self, name)}; expected at least {least}")
        if unknown := [op for op in self.ops if op not in OPS]:
            raise DataError(f"bench: no op {unknown[0]!r}; expected some of {', '.join(OPS)}")


def bench(
    settings: BenchSettings,
    head_weight: Tensor | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Time ops on this CPU, each only where its results on small inputs are right.

    Args:
        settings: what to time.
        head_weight: [V, D] of a model, used where an op reads a head; random rows where None.
        say: is told what is done next.

    Returns:
        The document of ``bench.json``: ``machine``, ``rows`` (one for each op and who did it) and
        ``absent`` (who was not timed, and why; ``wrong`` where its results were).

    Raises:
        DataError: a setting means nothing, or the inputs do not fit into memory.
    """
    if head_weight is not None and head_weight.shape != (settings.rows, settings.width):
        raise DataError(
            f"bench: head_weight is {tuple(head_weight.shape)}; expected "
            f"({settings.rows}, {settings.width}), the rows and width of the settings"
        )
    _require_memory(settings)
    threads_before = torch.get_num_threads()
    threads = settings.threads or threads_before
    say("measuring the machine")
    rows: list[dict[str, Any]] = []
    absent: list[dict[str, Any]] = []
    try:
        machine = measure_machine(threads, 3)
        for op in settings.ops or OPS:
            say(op)
            timed, missing = _time_op(op, settings, head_weight, machine)
            rows += timed
            absent += missing
    finally:
        torch.set_num_threads(threads_before)
    return {
        "schema": SCHEMA,
        "machine": _about(machine),
        "settings": {
            "rows": settings.rows,
            "width": settings.width,
            "tokens": settings.tokens,
            "repeat": settings.repeat,
            "head": "random" if head_weight is None else "given",
        },
        "rows": rows,
        "absent": absent,
    }


def _about(machine: Machine) -> dict[str, Any]:
    from .. import __version__

    return {
        "date": str(datetime.date.today()),
        "device": cpu_model(),
        "cores": cores(),
        "threads": machine.threads,
        "copy_gb_s": machine.bandwidth / 1e9,
        "sgemm_gflop_s": machine.flops / 1e9,
        "ncfast": __version__,
        "commit": commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "memory_by": method(),
    }


def _time_op(
    op: str, settings: BenchSettings, head_weight: Tensor | None, machine: Machine
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    name, bound_of, reads_tokens = OPS[op]
    tokens = settings.tokens if reads_tokens else 0
    inputs = Inputs(tokens, settings.width, settings.rows)
    if head_weight is not None:
        inputs.head_weight = inputs.classifier = head_weight
    size = _size(inputs)
    bound = bound_of(size)
    floor = machine.floor_seconds(bound.bytes, bound.flops)
    if floor > settings.patience and op not in settings.ops:
        why = f"its bound alone is {floor:,.0f} s here; --ops {op} times it all the same"
        return [], [{"op": op, "by": OWN, "reason": why, "wrong": False}]
    ready: dict[str, Prepared] = {}
    first: dict[str, float] = {}
    absent = []
    for by in [OWN, *(PEERS if settings.peers else ())]:
        if by != OWN and name not in TABLES[by]:
            continue
        try:
            _require_logits(by, op, settings)
            gate.check(by, name, TABLES, lambda exact: _small(reads_tokens, exact), ORACLES)
            made = TABLES[by][name](inputs)
            first[by] = seconds(made.call)  # may need more memory than there is
            ready[by] = made
        except Exception as error:
            if by == OWN and not isinstance(error, (Absent, AssertionError)):
                raise
            wrong = isinstance(error, AssertionError)
            absent.append({"op": op, "by": by, "reason": _reason(error), "wrong": wrong})
    rows = []
    for by, taken in take(ready, settings.repeat, first).items():
        low, middle, high = quartiles(taken.times)
        rows.append(
            {
                "op": op,
                "by": by,
                "version": _version(by),
                "shape": {"tokens": tokens, "width": settings.width, "rows": settings.rows},
                "seconds": middle,
                "quartiles": [low, high],
                "repeats": len(taken.times),
                "bound_seconds": floor,
                "bound_of": machine.limit(bound.bytes, bound.flops),
                "over_bound": middle / floor,
                "extra_bytes": taken.extra,
                "note": taken.note,
            }
        )
    return rows, absent


def _reason(error: Exception) -> str:
    """Say in a sentence why somebody is not timed; a peer of another version raises anything."""
    if isinstance(error, Absent):
        return str(error)
    if isinstance(error, AssertionError):
        return f"results are wrong: {error}"
    said = str(error).strip().partition("\n")[0]
    return f"fails here: {type(error).__name__}: {said}"


def _small(reads_tokens: bool, exact: bool) -> Inputs:
    """Return what results are checked on: ragged sizes, the same on every run."""
    return Inputs(257 if reads_tokens else 0, 24, 101, seed=1, exact=exact)


def _size(inputs: Inputs) -> bounds.Size:
    size = {"occurring": 0, "labelled": inputs.tokens}
    if inputs.tokens:
        size["occurring"] = int(torch.unique(inputs.y).numel())
    return bounds.Size(inputs.tokens, inputs.width, inputs.classes, itemsize=4, **size)


def _version(by: str) -> str:
    from .. import __version__

    if by == OWN:
        found = commit()
        return __version__ if found == "unknown" else f"{__version__} at {found}"
    return importlib.metadata.version(PEERS[by])


def _require_memory(settings: BenchSettings) -> None:
    """Raise where the inputs do not fit: a head's rows four times, its gradient, the tokens."""
    needed = 4 * settings.width * (6 * settings.rows + 3 * settings.tokens)
    if (there := _available()) is not None and needed > there:
        raise DataError(
            f"bench: {settings.rows:,} rows of width {settings.width:,} and {settings.tokens:,} "
            f"tokens need {needed / 2**30:.1f} GiB; expected at most {there / 2**30:.1f}, free now"
        )


def _require_logits(by: str, op: str, settings: BenchSettings) -> None:
    """Raise :class:`Absent` where a peer that keeps all logits would take half of the memory."""
    needed, there = 3 * 4 * settings.tokens * settings.rows, _available()
    if op == "linear_cross_entropy" and by in KEEPS_LOGITS and there and needed > there / 2:
        raise Absent(f"keeps all logits: {needed / 2**30:.1f} of {there / 2**30:.1f} GiB free")


def _available() -> int | None:
    """Return the bytes that processes may still take, or None where the system does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            kib = next(line.split()[1] for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    return int(kib) << 10

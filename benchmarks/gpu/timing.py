"""Times every op at real heads: own kernels first, then plain torch, then what compiles longest."""

from __future__ import annotations

import functools
import json
import statistics
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ncfast import dispatch, use_backend
from ncfast.testing import assert_matches

from . import ceilings, peers
from .calls import arguments, call
from .clock import Clock
from .heads import TINY, Head
from .predict import GPUS, predict
from .repeat import fresh
from .settings import Settings, append, settings_of
from .work import WORK

REPEATS, MOST_SECONDS = 20, 2.0  # of one row
DRY_REPEATS, DRY_SECONDS = 2, 0.1
# A row is begun only where so many seconds are left: compiling cannot be interrupted.
NEEDED_SECONDS = {"torch.compile": 25.0, "torch": 12.0, "reference": 12.0}
OWN_SECONDS = 4.0
REFERENCE_FLOPS = 5e11  # above, the definition takes seconds a call
BANDWIDTH_GOAL, PRODUCT_GOAL = 0.8, 0.6  # of the measured ceilings, issue 4
FIRST = ("pair_stats", "linear_cross_entropy", peers.LOSS, "class_moments")
BANDWIDTH_OPS = ("class_moments", "alignment")
PRODUCT_OPS = ("pair_stats", "within_class_scatter", "between_class_scatter", "linear_argmax")


@dataclass(frozen=True)
class Job:
    """Hold one row to be measured."""

    op: str
    provider: str
    head: Head
    dtype: torch.dtype


def jobs(settings: Settings) -> Iterator[Job]:
    """Return what to time: what was asked for first at Llama-3's head, then the rest."""
    every = list(every_job(settings))
    first = [
        job
        for job in every
        if job.op in FIRST and job.head.name == "Llama-3" and job.provider in settings.backends
    ]
    yield from first
    yield from (job for job in every if job not in first)


def every_job(settings: Settings) -> Iterator[Job]:
    """Return what to time: own kernels, then plain torch, then what compiles longest."""
    ops = settings.ops()
    loss = "linear_cross_entropy_backward" in ops
    own = [(op, b) for op in ops for b in settings.kernels(op)]
    own += [(peers.LOSS, b) for b in settings.kernels("linear_cross_entropy_backward") if loss]
    plain = [(op, "torch") for op in ops] + [(peers.LOSS, p) for p in peers.LOSS_PEERS if loss]
    slow = [(op, "reference") for op in ops] + [(op, "torch.compile") for op in ops]
    # A dry run shows that rows of every kind are written, with one op of each.
    few = ("alignment", peers.LOSS) if settings.dry_run else None
    for group in (own, plain, slow):
        for head in settings.heads:
            for dtype in settings.dtypes:
                for op, provider in group:
                    if group is own or few is None or op in few:
                        yield Job(op, provider, head, dtype)


@functools.cache
def gate(op: str, backend: str, dtype: torch.dtype, device: torch.device) -> None:
    """Hold a backend against the reference at a tiny head, by the two-reference rule."""
    given = arguments(op, TINY[0], dtype, device)
    wide = [a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in given]
    with use_backend("reference"):
        truth, baseline = call(op, fresh(op, wide)), call(op, fresh(op, given))
    with use_backend(backend):
        found = call(op, fresh(op, given))
    for number, (out, exact, plain) in enumerate(zip(found, truth, baseline, strict=True)):
        name = f"output {number} of {op}"
        assert_matches(out.cpu(), exact.cpu(), plain.cpu(), name=name)


def prepared(job: Job, settings: Settings) -> Callable[[], Any]:
    """Return the call of a job, or raise ``peers.Absent`` and why."""
    device = settings.device
    if job.op == peers.LOSS:
        return peers.loss_of(job.provider, job.head, job.dtype, device)
    if job.provider in ("torch", "torch.compile"):
        compiled = job.provider == "torch.compile"
        return peers.plain_call(job.op, job.head, job.dtype, device, compiled)
    work = WORK[job.op](job.head, job.dtype.itemsize)
    if job.provider == "reference" and work.flops + work.vector_flops > REFERENCE_FLOPS:
        raise peers.Absent("left out: the definition would take seconds a call")
    if job.provider != "reference":
        gate(job.op, job.provider, job.dtype, device)
    given = arguments(job.op, job.head, job.dtype, device)
    return lambda: call(job.op, given)


def peak_extra(function: Callable[[], Any], device: torch.device) -> float | None:
    """Return the MiB a call takes at its peak beside what is held, outputs included."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def floor(job: Job, rates: dict[str, float]) -> tuple[float, str]:
    """Return the seconds that the measured ceilings allow, and which of them it is."""
    work = (peers.loss_work if job.op == peers.LOSS else WORK[job.op])(job.head, job.dtype.itemsize)
    rate = rates["tf32"] / 3 if job.dtype == torch.float32 else rates["bfloat16"]
    kinds = {
        "copy": work.bytes / rates["copy"],
        "products": work.flops / rate,
        "float32": work.vector_flops / rates["float32"],
    }
    name = max(kinds, key=lambda kind: kinds[kind])
    return kinds[name], name


def predicted(job: Job) -> float | None:
    """Return the predicted seconds on this GPU, None where it is another or not ncfast's."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    gpu = next((gpu for gpu in GPUS if gpu.name in name), None)
    if gpu is None or job.provider not in ("triton", "cuda") or job.op not in WORK:
        return None
    return predict(job.op, job.provider, job.head, job.dtype, gpu).seconds


def goal_of(job: Job) -> float | None:
    """Return the share of the floor that an own kernel is to reach, None where none was set."""
    if job.provider not in ("triton", "cuda"):
        return None
    if job.op in BANDWIDTH_OPS:
        return BANDWIDTH_GOAL
    return PRODUCT_GOAL if job.op in PRODUCT_OPS and job.dtype != torch.float32 else None


def measure(job: Job, settings: Settings, clock: Clock, rates: dict[str, float]) -> bool:
    """Time one job and write its row; return whether an own kernel failed."""
    least, floor_of = floor(job, rates)
    row: dict[str, Any] = {
        "op": job.op,
        "provider": job.provider,
        "head": job.head.name,
        "dtype": str(job.dtype).removeprefix("torch."),
    }
    row |= dict.fromkeys(("q20_ms", "median_ms", "q80_ms", "repeats"), "")
    row |= {"floor_ms": f"{1e3 * least:.5g}", "floor_of": floor_of, "fraction": ""}
    row |= {"goal": goal_of(job) or "", "predicted_ms": "", "peak_mib": "", "note": ""}
    row["clock"] = "CUDA events" if clock.cuda else "CPU clock: not a GPU's time"
    failed = False
    try:
        with use_backend(job.provider if job.provider in dispatch.BACKENDS else "auto"):
            function = prepared(job, settings)
            repeats, most = REPEATS, min(MOST_SECONDS, settings.left)
            if settings.dry_run:
                repeats, most = DRY_REPEATS, DRY_SECONDS
            times = clock.times(function, repeats, most)
            extra = peak_extra(function, settings.device)
        row |= _told(times, least, extra, predicted(job))
    except peers.Absent as reason:
        row["note"] = str(reason)
    except Exception as error:  # written down, and the other rows are still measured
        traceback.print_exc()
        row["note"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        failed = job.provider in settings.backends
    append(settings.out / "times.csv", row)
    if settings.device.type == "cuda":
        torch.cuda.empty_cache()
    return failed


def _told(
    times: list[float], least: float, extra: float | None, guess: float | None
) -> dict[str, str]:
    low, middle, high = times * 3 if len(times) == 1 else _quantiles(times)
    return {
        "q20_ms": f"{1e3 * low:.5g}",
        "median_ms": f"{1e3 * middle:.5g}",
        "q80_ms": f"{1e3 * high:.5g}",
        "repeats": str(len(times)),
        "fraction": f"{least / middle:.4f}",
        "predicted_ms": "" if guess is None else f"{1e3 * guess:.5g}",
        "peak_mib": "" if extra is None else f"{extra:.1f}",
    }


def _quantiles(times: list[float]) -> tuple[float, float, float]:
    fifths = statistics.quantiles(times, n=5, method="inclusive")
    return fifths[0], statistics.median(times), fifths[3]


def main(given: Sequence[str] | None = None) -> int:
    """Time every job while there is time; 1 where an own kernel failed or was not reached."""
    settings = settings_of(given, __doc__)
    path = settings.out / "ceilings.json"
    if path.exists():
        rates = json.loads(path.read_text(encoding="utf-8"))
    else:  # that phase has failed, or was not asked for
        rates = ceilings.measured(settings)
    clock, bad, missed = Clock(settings.device), 0, 0
    for job in jobs(settings):
        needed = NEEDED_SECONDS.get(job.provider, OWN_SECONDS)
        if settings.left < needed and not settings.dry_run:
            missed += 1
            reason = {"op": job.op, "provider": job.provider, "head": job.head.name}
            append(settings.out / "not_reached.csv", {**reason, "dtype": str(job.dtype)})
            bad += job.provider in settings.backends
            continue
        bad += measure(job, settings, clock, rates)
    print(f"{bad} rows of own kernels failed or were not reached; {missed} rows were not reached")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

"""Every op twice for the same bits, and captured in a CUDA graph, which no host sync survives.

Each op runs in a process of its own, a few at a time: a kernel that reads out of bounds ends its
process and no other. At the real heads this also fills Triton's cache for the timing after it.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ncfast import check_device_errors, use_backend

from .calls import arguments, call, updated
from .heads import TINY, Head
from .processes import run_all
from .settings import Settings, append, read, settings_of

AT_ONCE = 6  # of 80 GB: the largest op at the largest head takes 10


def fresh(op: str, given: Sequence[Any]) -> list[Any]:
    """Return the arguments, those that the op changes in place copied."""
    head = [a.clone() if isinstance(a, Tensor) else a for a in given[: updated(op)]]
    return [*head, *given[updated(op) :]]


def same_bits(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Return whether two results are equal to the bit, NaN included."""
    pairs = list(zip(first, second, strict=True))
    return all(
        a.dtype == b.dtype
        and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
        for a, b in pairs
        if a.numel() or b.numel()
    )


def captured(op: str, given: Sequence[Any], expected: Sequence[Tensor]) -> str:
    """Capture a call in a CUDA graph, replay it, and say whether the bits are the same."""
    if not torch.cuda.is_available():
        return "left out: no CUDA device"
    mine = fresh(op, given)
    start = [a.clone() if isinstance(a, Tensor) else a for a in mine[: updated(op)]]
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        out = call(op, mine)
    for value, before in zip(mine, start, strict=False):
        if isinstance(value, Tensor):
            value.copy_(before)  # capturing runs nothing, but be sure of what is replayed
    graph.replay()
    torch.cuda.synchronize()
    return "same bits" if same_bits(out, expected) else "OTHER BITS"


def examine(op: str, backend: str, head: Head, dtype: torch.dtype, settings: Settings) -> bool:
    """Run an op twice and capture it; write the row, and return whether all is well."""
    row: dict[str, Any] = {"op": op, "backend": backend, "head": head.name}
    row |= {"dtype": str(dtype).removeprefix("torch."), "repeat": "", "graph": "", "note": ""}
    try:
        given = arguments(op, head, dtype, settings.device)
        with use_backend(backend):
            first, second = (call(op, fresh(op, given)) for _ in range(2))
            row["repeat"] = "same bits" if same_bits(first, second) else "OTHER BITS"
            row["graph"] = captured(op, given, first)
        check_device_errors()
    except Exception as error:  # recorded, and the other rows still run
        traceback.print_exc()
        row["note"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    append(settings.out / "repeat" / f"{op}.csv", row)
    well = row["repeat"] == "same bits" and row["graph"] != "OTHER BITS" and not row["note"]
    print("well" if well else "NOT WELL", row, flush=True)
    return well


def one_op(op: str, settings: Settings) -> bool:
    """Examine an op on every backend, dtype and head."""
    (settings.out / "repeat").mkdir(parents=True, exist_ok=True)
    heads = settings.heads if settings.dry_run else (*TINY, *settings.heads)
    well = True
    for backend in settings.kernels(op):
        for dtype in settings.dtypes:
            for head in heads:
                well = examine(op, backend, head, dtype, settings) and well
    return well


def main(given: Sequence[str] | None = None) -> int:
    """Examine the ops named, here; without a name, every op in a process of its own."""
    settings = settings_of(given, __doc__)
    # A dry run's ops share one process: importing takes longer than what they compute.
    if settings.words or settings.dry_run:
        return 0 if all([one_op(op, settings) for op in settings.ops()]) else 1
    ops = settings.ops()
    commands = {op: settings.command("repeat", op) for op in ops}
    logs = settings.out / "logs/repeat"
    ended = run_all(commands, seconds=settings.left - 2, logs=logs, at_once=AT_ONCE)
    for name, end in ended.items():
        print(f"{name:32} {end.outcome}, {end.seconds:.0f} s")
    rows = read([settings.out / "repeat" / f"{op}.csv" for op in ops])
    for row in rows:
        append(settings.out / "repeat.csv", row)
    print(f"{len(rows)} calls repeated")
    return 0 if rows and all(end.code == 0 for end in ended.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

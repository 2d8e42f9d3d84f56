"""``python -m benchmarks.cpu_bounds``: what this CPU's own libraries reach on what the ops do.

Questions that a floor of bytes and FLOP leaves open, each answered side by side in one run, by the
best of several calls taken in turns:

- *Products of tiles*, one thread: torch's two libraries (MKL through ``torch.mm``; oneDNN through
  ``mkldnn._linear_pointwise``), and oneDNN's bfloat16, whose results are rounded to bfloat16.
- *Ops*, one thread: what of the faster library's rate on a tile, for scatters on a Gram's panels,
  each op reaches, everything it does besides its products included; and bfloat16 beside float32. By
  the thread's own clock, which other work on the machine does not move.
- *A scatter's parts*, one thread: the products of its panels on columns that are there, centring,
  and turning rows into columns, each by torch alone, beside the op that does all of it.
- *Class moments*: the same rows gathered by class and summed by torch's ``embedding_bag``, which
  looks for nothing and sorts nothing, beside the op and ``index_add_``. Its sums are
  of the rows' dtype; the op's running means are float32.

Three minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.nn.functional import embedding_bag

import ncfast.functional as F
from ncfast import native
from ncfast.bench.contract import Inputs
from ncfast.bench.timing import least

from .large import write
from .run import RESULTS

# Rows of both tiles and the width: pair_stats and linear_argmax, a Gram's panel, the loss.
TILES = ((512, 512, 768), (512, 192, 2_048), (96, 768, 4_096), (512, 2_048, 576))
TOKENS, WIDTH, CLASSES = 65_536, 768, 30_522
# Columns of a Gram's panels, and rows of a chunk at this width: csrc/common/gram.h.
PANELS = {"MKL": (96, 4_064), "oneDNN": (64, 2_016)}


def products(m: int, n: int, k: int, repeats: int) -> str:
    """Return a row of the table of products."""
    a, b, out = torch.randn(m, k), torch.randn(n, k), torch.empty(m, n)
    half, linear = (a.bfloat16(), b.bfloat16()), torch.ops.mkldnn._linear_pointwise
    plain: tuple[None, str, list[float], str] = (None, "none", [], "")  # no bias, nothing after it
    found = least(
        {
            "MKL": lambda: torch.mm(a, b.T, out=out),
            "oneDNN": lambda: linear(a, b, *plain),
            "bfloat16": lambda: linear(*half, *plain),
        },
        repeats + 1,  # the first touches memory
        time.thread_time,
    )
    rates = {name: 2e-9 * m * n * k / taken for name, taken in found.items()}
    ratio = rates["oneDNN"] / rates["MKL"]
    cells = [f"{rate:.0f}" for rate in rates.values()]
    return f"| {m} x {n}, width {k:,} | " + " | ".join(cells) + f" | {ratio:.2f} |"


def panel(library: str) -> tuple[int, Callable[[], object]]:
    """Return the FLOP of a scatter's products of one chunk of rows, and what computes them.

    Panel after panel of the upper triangle, as the op gives them to a library: for oneDNN columns
    lie below each other, for MKL rows do.
    """
    span, rows = PANELS[library]
    chunk, starts = torch.randn(WIDTH, rows), range(0, WIDTH, span)
    flop = sum(2 * rows * len(chunk[: c + span]) * len(chunk[c : c + span]) for c in starts)
    if library == "oneDNN":
        linear = torch.ops.mkldnn._linear_pointwise
        plain: tuple[None, str, list[float], str] = (None, "none", [], "")
        return flop, lambda: [
            linear(chunk[: c + span], chunk[c : c + span], *plain) for c in starts
        ]
    stored, out = chunk.T.contiguous(), torch.empty(WIDTH * span)

    def multiply() -> None:
        for c in starts:
            left, right = stored[:, : c + span].T, stored[:, c : c + span]
            size = len(left), right.shape[1]
            torch.mm(left, right, out=out[: size[0] * size[1]].view(size))

    return flop, multiply


def op_rates(repeats: int) -> tuple[list[str], list[str]]:
    """Return the rows of ops beside the libraries, and of bfloat16 beside float32."""
    tokens, classes = 2_048, 8_192
    x, head = torch.randn(tokens, WIDTH), torch.randn(classes, WIDTH) / WIDTH**0.5
    y, more = torch.randint(classes, (tokens,)), torch.randn(8 * tokens, WIDTH)
    labels, zeros = torch.randint(classes, (8 * tokens,)), torch.zeros(classes).double()
    logits = 2 * tokens * classes * WIDTH
    panels = {name: panel(name) for name in PANELS}
    own = "oneDNN" if native.products().get("float32", "").startswith("oneDNN") else "MKL"
    gram = panels[own][0] // PANELS[own][1]  # for each row
    a, b, out = torch.randn(512, WIDTH), torch.randn(512, WIDTH), torch.empty(512, 512)
    times = (
        8  # an op multiplies tile after tile: of a library's, too, only the first finds caches cold
    )
    tile, linear = times * 2 * 512 * 512 * WIDTH, torch.ops.mkldnn._linear_pointwise
    plain: tuple[None, str, list[float], str] = (None, "none", [], "")
    half = {name: t.bfloat16() for name, t in (("x", x), ("head", head))}
    calls: dict[str, tuple[int, Callable[[], object]]] = {
        "MKL": (tile, lambda: [torch.mm(a, b.T, out=out) for _ in range(times)]),
        "oneDNN": (tile, lambda: [linear(a, b, *plain) for _ in range(times)]),
        **{f"panels by {name}": there for name, there in panels.items()},
        "pair_stats": (classes**2 * WIDTH, lambda: F.pair_stats(head, zeros, "classes", ("cdnv",))),
        "linear_argmax": (logits, lambda: F.linear_argmax(x, head)),
        "nearest_center": (logits, lambda: F.nearest_center(x, head)),
        "linear_cross_entropy": (logits, lambda: F.linear_nll_lse(x, head, y)),
        "within_class_scatter": (
            8 * tokens * gram,
            lambda: F.within_class_scatter(more, labels, head),
        ),
        "between_class_scatter": (classes * gram, lambda: F.between_class_scatter(head)),
        "linear_argmax, bfloat16": (logits, lambda: F.linear_argmax(half["x"], half["head"])),
        "linear_cross_entropy, bfloat16": (
            logits,
            lambda: F.linear_nll_lse(half["x"], half["head"], y),
        ),
    }
    found = least({name: call for name, (_, call) in calls.items()}, repeats, time.thread_time)
    rates = {name: 1e-9 * flop / found[name] for name, (flop, _) in calls.items()}
    ops = []
    for name, rate in rates.items():
        if "_" in name and "," not in name:
            what = "panels by " if "scatter" in name else ""
            fastest = max(rates[f"{what}{library}"] for library in PANELS)
            ops.append(f"| {name} | {rate:.0f} | {fastest:.0f} | {fastest / rate:.2f} |")
    narrow = [
        f"| {op} | {1e3 * found[op]:.0f} | {1e3 * found[op + ', bfloat16']:.0f} | "
        f"{found[op + ', bfloat16'] / found[op]:.2f} |"
        for op in ("linear_argmax", "linear_cross_entropy")
    ]
    return ops, narrow


def scatter_parts(repeats: int) -> str:
    """Return the row of the table of a scatter's parts: one chunk of rows."""
    (_, rows), classes = PANELS["oneDNN"], 8_192
    x, means, y = torch.randn(rows, WIDTH), torch.randn(classes, WIDTH), torch.arange(rows) * 4
    centred, columns = torch.randn(rows, WIDTH), torch.randn(WIDTH, rows)
    found = least(
        {
            "op": lambda: F.within_class_scatter(x, y, means),
            "products": panel("oneDNN")[1],
            "centre": lambda: torch.sub(x, means[y], out=centred),
            "turn": lambda: columns.copy_(centred.T),
        },
        repeats + 1,  # the first touches memory
        time.thread_time,
    )
    op, *parts = found.values()
    cells = [f"{1e3 * taken:.1f}" for taken in (op, *parts)]
    return "| within_class_scatter | " + " | ".join(cells) + f" | {op / sum(parts):.2f} |"


def moments(dtype: torch.dtype, threads: int, repeats: int) -> str:
    """Return a row of the table of class moments."""
    torch.set_num_threads(threads)
    inputs = Inputs(TOKENS, WIDTH, CLASSES, dtype)
    x, y = inputs.x, inputs.y
    order = torch.argsort(y, stable=True)
    _, sizes = torch.unique_consecutive(y[order], return_counts=True)
    starts = sizes.cumsum(0) - sizes
    state = torch.zeros(CLASSES, dtype=torch.int64), torch.zeros(CLASSES, WIDTH)
    m2, sums = torch.zeros(CLASSES, dtype=torch.float64), torch.zeros(CLASSES, WIDTH, dtype=dtype)
    found = least(
        {
            "op": lambda: F.accumulate_class_moments_(*state, m2, None, x, y=y),
            "gather": lambda: embedding_bag(order, x, starts, mode="sum"),
            "index_add_": lambda: sums.index_add_(0, y, x),
            "in order": lambda: x.sum(0),
        },
        repeats + 1,  # the first touches memory
    )
    cells = [f"{1e3 * taken:.1f}" for taken in found.values()]
    name = str(dtype).removeprefix("torch.")
    ratio = found["op"] / found["gather"]
    return f"| {name}, {threads} threads | " + " | ".join(cells) + f" | {ratio:.2f} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_bounds")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    repeats, before = options.repeats, torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        tiles = [products(*sizes, repeats=repeats) for sizes in TILES]
        ops, narrow = op_rates(max(1, repeats // 6))
        parts = scatter_parts(repeats)
        types = (torch.float32, torch.bfloat16)
        rows = [moments(dtype, threads, repeats) for dtype in types for threads in (1, 2)]
    finally:
        torch.set_num_threads(before)
    table = [
        "Products of tiles, one thread, GFLOP/s; the last column is oneDNN over MKL.",
        "",
        "| tile | MKL | oneDNN | bfloat16 of oneDNN | ratio |",
        "|---|--:|--:|--:|--:|",
        *tiles,
        "",
        "Ops, one thread, GFLOP/s of their products beside the faster library's on a tile of 512 x "
        f"512, width {WIDTH}, for scatters on a Gram's panels; the last column is the library over "
        "the op.",
        "",
        "| op | the op | library | ratio |",
        "|---|--:|--:|--:|",
        *ops,
        "",
        f"A scatter's parts, one chunk of rows, width {WIDTH}, one thread, ms; the last column is "
        "the op over the sum of the parts.",
        "",
        "| op | the op | products of its panels | centring | turning | ratio |",
        "|---|--:|--:|--:|--:|--:|",
        parts,
        "",
        "bfloat16 inputs beside float32, forward alone, one thread, ms.",
        "",
        "| op | float32 | bfloat16 | ratio |",
        "|---|--:|--:|--:|",
        *narrow,
        "",
        f"Class moments of {TOKENS:,} tokens, {CLASSES:,} classes, width {WIDTH}, ms; the last "
        "column is the op over the gather: above 1, the gather is not what limits the op.",
        "",
        "| | the op | gather by class, sums | `index_add_` | read in order | ratio |",
        "|---|--:|--:|--:|--:|--:|",
        *rows,
    ]
    about = [f"{name} is multiplied by {how}" for name, how in native.products().items()]
    write(options.out / "cpu_bounds.md", ["the best of several calls in turns", *about], table)
    return 0


if __name__ == "__main__":
    sys.exit(main())

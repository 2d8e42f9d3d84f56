"""``python -m benchmarks.gpu --predict``: what each kernel should take on GPUs that are not here.

A kernel's time is the longest of three: its HBM traffic, the panels that its tiles read again
included; its products, padded to whole tiles, at the rate of the instruction it uses; and its other
float32 arithmetic. Latency, launches, L2 bandwidth, occupancy and clocks are not modelled: a
prediction is a bound, and no measurement.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import torch

from .heads import HEADS, Head
from .tiles import Tile, rows_of, tiles_of
from .work import WORK, Product, Work

__all__ = ["GPUS", "Gpu", "Prediction", "predict", "predictions", "render"]


@dataclass(frozen=True)
class Gpu:
    """Hold published peaks, in bytes and operations a second, dense.

    ``older`` is the share of the tensor-core rate that mma.sync reaches, where the GPU has a newer
    instruction for them.
    """

    name: str
    bandwidth: float
    bf16: float
    tf32: float
    fp32: float
    cache: int
    multiprocessors: int
    older: float
    architecture: int = 9  # major compute capability


GPUS = (
    # NVIDIA A100 Tensor Core GPU datasheet, 80 GB SXM; L2 and SMs: Ampere architecture whitepaper.
    Gpu(
        "A100",
        2.039e12,
        312e12,
        156e12,
        19.5e12,
        cache=40 << 20,
        multiprocessors=108,
        older=1.0,
        architecture=8,
    ),
    # NVIDIA H100 datasheet, SXM, its sparse rates halved; L2 and SMs: Hopper whitepaper. mma.sync
    # reaches 62.9 % of the peak on average: arXiv 2402.13499.
    Gpu(
        "H100",
        3.35e12,
        989.4e12,
        494.7e12,
        66.9e12,
        cache=50 << 20,
        multiprocessors=132,
        older=0.63,
        architecture=9,
    ),
    # NVIDIA Blackwell datasheet, HGX B200 per GPU, sparse rates halved; L2 and SMs: Chips and
    # Cheese, "Nvidia's B200". Nothing was found on mma.sync there: Hopper's share is assumed.
    Gpu(
        "B200",
        8.0e12,
        2250e12,
        1100e12,
        80e12,
        cache=126 << 20,
        multiprocessors=148,
        older=0.63,
        architecture=10,
    ),
)
GOAL = "pair_stats", "Llama-3", "H100", 150.0  # milliseconds, at V = 128,256 and D = 4,096


@dataclass(frozen=True)
class Prediction:
    """Hold a predicted time beside its roofline, in seconds, and what it comes from."""

    op: str
    backend: str
    head: str
    dtype: str
    gpu: str
    roofline: float
    memory: float
    products: float
    vector: float
    tile: str
    reads: float  # HBM bytes over the least

    @property
    def seconds(self) -> float:
        """Return the longest of the three."""
        return max(self.memory, self.products, self.vector)

    @property
    def fraction(self) -> float:
        """Return the roofline over the predicted time."""
        return self.roofline / self.seconds

    @property
    def limiter(self) -> str:
        """Return what the prediction comes from."""
        if self.seconds == self.memory:
            return "HBM" if self.reads < 1.05 else f"HBM, panels read {self.reads:.1f} times"
        return "tensor cores" if self.seconds == self.products else "float32 arithmetic"


def read_again(product: Product, tile: Tile, gpu: Gpu, itemsize: int) -> int:
    """Return the HBM bytes of a product's operands beyond reading each once.

    One tile a multiprocessor runs at a time, tiles that follow one another beside each other, in
    lines or squares. They share the panels they have in common; the next wave reads its own again,
    unless the operand fits in half the L2 cache.
    """
    if product.on_chip:
        return 0
    down, across = ceil(product.rows / tile.rows), ceil(product.columns / tile.columns)
    first, second = (across, down) if product.fast == "columns" else (down, across)
    beside = min(first, max(1, gpu.multiprocessors // tile.square))
    behind = min(second, max(1, gpu.multiprocessors // beside))
    waves = ceil(_tiles(product, tile) / (beside * behind))
    a, b = (behind, beside) if product.fast == "columns" else (beside, behind)
    total = 0
    for panels, height, rows in (
        (a, tile.rows, product.rows),
        (b, tile.columns, product.columns),
    ):
        whole = rows * product.depth * itemsize
        if whole > gpu.cache // 2:
            total += max(0, waves * panels * height * product.depth * itemsize - whole)
    return total


def _tiles(product: Product, tile: Tile) -> int:
    down, across = ceil(product.rows / tile.rows), ceil(product.columns / tile.columns)
    return down * (down + 1) // 2 if product.symmetric and tile.triangle else down * across


def roofline(work: Work, gpu: Gpu, dtype: torch.dtype) -> float:
    """Return the least seconds: float32 keeps its digits in three TF32 products."""
    rate = gpu.tf32 / 3 if dtype == torch.float32 else gpu.bf16
    return max(work.bytes / gpu.bandwidth, work.flops / rate, work.vector_flops / gpu.fp32)


def predict(op: str, backend: str, head: Head, dtype: torch.dtype, gpu: Gpu) -> Prediction:
    """Predict one op of one backend; an op without a product is bound by its least traffic."""
    work = WORK[op](head, dtype.itemsize)
    tiles = tiles_of(op, backend, dtype, gpu.architecture) if work.products else ()
    moved, products = work.bytes, 0.0
    if tiles:
        # Triton emits wgmma and tcgen05 (tests/aot/budgets.toml); ours are mma.sync.
        instruction = 1.0 if backend == "triton" else gpu.older
        # A kernel each, the last for all that are left.
        ahead = (*tiles, *tiles[-1:] * len(work.products))
        for product, tile in zip(work.products, ahead, strict=False):
            rate = instruction * (gpu.bf16 if tile.precision == "bf16" else gpu.tf32 / 3)
            area = _tiles(product, tile) * tile.rows * tile.columns
            products += 2 * area * product.depth / rate
            moved += read_again(product, tile, gpu, dtype.itemsize)
    return Prediction(
        op,
        backend,
        head.name,
        str(dtype).removeprefix("torch."),
        gpu.name,
        roofline=roofline(work, gpu, dtype),
        memory=moved / gpu.bandwidth,
        products=products,
        vector=work.vector_flops / gpu.fp32,
        tile="; ".join(
            f"{t.rows} x {t.columns}, {t.precision}" for t in tiles[: len(work.products)]
        ),
        reads=moved / work.bytes,
    )


def predictions(heads: Sequence[Head] = HEADS) -> Iterator[Prediction]:
    """Predict every op that has a kernel, at every head, in two dtypes, on every GPU."""
    for op, backend in rows_of():
        for head in heads:
            for dtype in (torch.bfloat16, torch.float32):
                for gpu in GPUS:
                    yield predict(op, backend, head, dtype, gpu)


_PREAMBLE = """\
# Predicted, not measured

No kernel here had run on a GPU when this was written: `python -m benchmarks.gpu --predict`
computes it from published peaks (`benchmarks/gpu/predict.py` names them), the least work of each
op (`work.py`) and the tiles that the kernels launch by default. Each time is
max(HBM traffic with panels read again, products padded to whole tiles, other float32 arithmetic).
Latency, launches, workspaces, L2 bandwidth, occupancy and clocks are left out: a time is a bound
that a measurement should exceed, and a fraction is at best.

Each cell: predicted time, the roofline over it, and its limiter. roofline = least traffic or
arithmetic at the peak of the dtype (float32: a third of TF32). A tile column that says tf32x3
beside bfloat16 is a kernel that widens its operands first, and pays a sixth of the bf16 rate;
panels of float32 weights are multiplied so in a backward pass. CUDA kernels use mma.sync, which is
taken to reach 63 % of the peak on H100 and B200, where Triton emits wgmma and tcgen05. pair_stats
in 16 bits is that of points which no center dominates: those are multiplied as they are, which the
device finds out, and others less their center, in the time of float32.
One block of CUDA's products fills a multiprocessor (about 200 registers a thread): what it does
beside its products overlaps with nothing there, and adds to the time.
"""


def _goal_text(all_of: Sequence[Prediction]) -> list[str]:
    op, head, gpu, goal = GOAL
    lines = [f"Goal: {op} at {head} (V=128,256, D=4,096) under {goal:.0f} ms on an {gpu}."]
    for p in all_of:
        if (p.op, p.head, p.gpu) == (op, head, gpu):
            verdict = "within" if 1e3 * p.seconds < goal else "NOT within"
            lines.append(
                f"- {p.backend}, {p.dtype}: predicted {1e3 * p.seconds:.0f} ms ({p.limiter}), "
                f"{verdict} the goal; roofline {1e3 * p.roofline:.0f} ms."
            )
    if len(lines) == 1:
        lines.append("- no GPU backend has this op.")
    return lines


def render(all_of: Sequence[Prediction]) -> str:
    """Write predictions as Markdown: the goal, then a row for each op, backend, head and dtype."""
    lines = [*_PREAMBLE.splitlines(), "", *_goal_text(all_of), ""]
    gpus = [gpu.name for gpu in GPUS]
    lines.append("| op | backend | head | dtype | tile | " + " | ".join(gpus) + " |")
    lines.append("|---|---|---|---|---|" + "---|" * len(gpus))
    rows: dict[tuple[str, ...], dict[str, Prediction]] = {}
    for p in all_of:
        rows.setdefault((p.op, p.backend, p.head, p.dtype), {})[p.gpu] = p
    for key, by_gpu in rows.items():
        first = by_gpu[gpus[0]].tile
        other = [f" ({g}: {p.tile})" for g, p in by_gpu.items() if p.tile != first]
        cells = [
            f"{_milliseconds(by_gpu[g].seconds)}, {100 * by_gpu[g].fraction:.0f} % "
            f"({by_gpu[g].limiter})"
            for g in gpus
        ]
        lines.append(f"| {' | '.join((*key, first + ''.join(other), *cells))} |")
    lines += ["", *_heads_text()]
    return "\n".join(lines) + "\n"


def _milliseconds(seconds: float) -> str:
    """Return three digits of a time, in milliseconds.

    >>> _milliseconds(1.2987), _milliseconds(7.87e-6)
    ('1299 ms', '0.00787 ms')
    """
    value = 1e3 * seconds
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def _heads_text() -> list[str]:
    return [f"{h.name}: V={h.classes:,}, D={h.width:,}, N={h.tokens:,}." for h in HEADS]

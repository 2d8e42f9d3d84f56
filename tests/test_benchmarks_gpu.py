"""What is said of GPUs without one: work, tiles and predictions by hand."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import peers
from benchmarks.gpu import predict as predicting
from benchmarks.gpu.calls import arguments, call
from benchmarks.gpu.heads import HEADS, TINY, Head
from benchmarks.gpu.predict import Gpu, Prediction, predict, read_again, render, roofline
from benchmarks.gpu.repeat import same_bits
from benchmarks.gpu.tiles import Tile, rows_of, tiles_of
from benchmarks.gpu.work import WORK, Product, Work
from ncfast import dispatch
from ncfast.bench import bounds

ROOT = Path(__file__).parent.parent
# Round numbers: 100 bytes/s, 1,000 bf16, 300 tf32 (100 in threes), 10 float32 operations/s.
SMALL = Gpu("small", 100.0, 1000.0, 300.0, 10.0, cache=200, multiprocessors=2, older=0.5)


def test_panels_read_again_by_hand():
    # 8 x 6 in tiles of 2 x 3: 4 down, 2 across. Two at a time are one row of tiles: 4 waves, each
    # reading 2 rows and 6 rows of depth 10, 4 bytes. Each operand is past half the cache.
    product = Product(8, 6, 10)
    left, right = 4 * 2 * 10 * 4 - 8 * 10 * 4, 4 * 6 * 10 * 4 - 6 * 10 * 4
    assert (left, right) == (0, 720)
    assert read_again(product, Tile(2, 3, "tf32x3"), SMALL, 4) == 720
    # The other way round, two tiles of a column at a time: 2 x 2 waves of 4 rows and 3 rows.
    other = Product(8, 6, 10, fast="rows")
    assert read_again(other, Tile(2, 3, "tf32x3"), SMALL, 4) == (4 * 4 - 8) * 40 + (4 * 3 - 6) * 40
    # What fits in half the cache is read once, and what is on chip not at all.
    roomy = Gpu("roomy", 1, 1, 1, 1, cache=640, multiprocessors=2, older=1)
    assert read_again(product, Tile(2, 3, "tf32x3"), roomy, 4) == 0
    assert read_again(Product(8, 6, 10, on_chip=True), Tile(2, 3, "tf32x3"), SMALL, 4) == 0
    # Of a symmetric product 3 of 4 tiles are needed: 2 waves of one row and two columns of tiles.
    half = Product(8, 8, 10, symmetric=True)
    assert read_again(half, Tile(4, 4, "tf32x3"), SMALL, 4) == (2 * 8 - 8) * 40
    # By squares of two, four at a time: all 16 tiles in 4 waves of 8 rows and 8 columns, not of 4
    # rows and all 16 columns.
    square, whole = (
        Product(16, 16, 10),
        Gpu("four", 1, 1, 1, 1, cache=0, multiprocessors=4, older=1),
    )
    assert read_again(square, Tile(4, 4, "tf32x3", square=2), whole, 4) == 2 * (4 * 8 - 16) * 40
    assert read_again(square, Tile(4, 4, "tf32x3"), whole, 4) == (4 * 16 - 16 + 4 * 4 - 16) * 40


def test_a_prediction_by_hand(monkeypatch):
    head = Head("toy", classes=6, width=10, tokens=8)
    assert WORK["linear_argmax"](head, 4) == Work(
        8 * (40 + 8) + 240 + 96, (Product(8, 6, 10, fast="rows"),)
    )
    monkeypatch.setattr(predicting, "tiles_of", lambda *_: (Tile(4, 4, "tf32x3"),))
    # 2 x 2 tiles of 4 x 4: 2 * 64 * 10 operations at half of 300 / 3. Two tiles of a column at a
    # time: 2 waves of 8 and 4 rows; x is read twice, the head 8 / 6 times.
    found = predict("linear_argmax", "cuda", head, torch.float32, SMALL)
    assert found.products == pytest.approx(1280 / 50)
    assert found.memory == pytest.approx((720 + 8 * 40 + 2 * 40) / 100)
    assert found.seconds == found.products
    assert found.limiter == "tensor cores"
    assert found.roofline == pytest.approx(2 * 8 * 6 * 10 / 100)
    assert found.fraction == pytest.approx(9.6 / 25.6)
    faster = predict("linear_argmax", "triton", head, torch.float32, SMALL)
    assert faster.products == pytest.approx(1280 / 100)


def test_the_work_at_llama_3_is_that_of_the_plan():
    """68 ms of products for every pair; 0.94 ms of traffic for alignment in 2 + 4 bytes."""
    llama, h100 = HEADS[2], predicting.GPUS[1]
    assert (llama.classes, llama.width) == (128_256, 4_096)
    pairs = roofline(WORK["pair_stats"](llama, 2), h100, torch.bfloat16)
    assert 1e3 * pairs == pytest.approx(68.1, abs=0.1)
    assert 1e3 * WORK["alignment"](llama, 3).bytes / h100.bandwidth == pytest.approx(0.94, abs=0.01)
    scatter = roofline(WORK["between_class_scatter"](llama, 2), h100, torch.bfloat16)
    assert 1e3 * scatter == pytest.approx(2.2, abs=0.1)


@pytest.mark.parametrize("op", dispatch.ops())
def test_every_op_has_work_and_a_call(op):
    """An op that is added later must say both, or it would be left out of what a GPU runs."""
    head = TINY[0]
    work = WORK[op](head, 2)
    assert work.bytes > head.width
    assert work.flops + work.vector_flops > 0
    given = arguments(op, head, torch.float32, torch.device("cpu"))
    for out in call(op, given):
        assert out.is_floating_point() is False or out.isfinite().all()


def test_every_gpu_kernel_is_predicted_and_the_goal_is_stated():
    pytest.importorskip("triton")
    rows = rows_of()
    backends = {backend for _, backend in rows}
    assert backends == {"cuda", "triton"}
    assert ("linear_argmax", "triton") in rows
    text = render(list(predicting.predictions(TINY)))
    for op, backend in rows:
        for dtype in ("bfloat16", "float32"):
            assert re.search(rf"\| {op} \| {backend} \| tiny \| {dtype} \|", text), (op, backend)
    assert text.startswith("# Predicted, not measured")
    whole = render(
        [predict("pair_stats", "cuda", HEADS[2], torch.float32, gpu) for gpu in predicting.GPUS]
    )
    assert "under 150 ms on an H100" in whole
    assert re.search(r"cuda, float32: predicted \d+ ms \(.+\), (NOT )?within the goal", whole)


def test_tiles_are_those_of_the_kernels():
    pytest.importorskip("triton")
    from ncfast.kernels import decisions, grams

    for op, configuration in (
        ("between_class_scatter", grams.GRAM[0]),
        ("linear_argmax", decisions.NARROW[0]),
    ):
        (tile,), tiles = tiles_of(op, "triton", torch.bfloat16), configuration.tiles
        assert tile.rows == tiles.get("ROWS", tiles.get("SIDE"))
        assert tile.columns == tiles.get("COLUMNS", tiles.get("SIDE"))
    assert tiles_of("linear_argmax", "triton", torch.bfloat16)[0].precision == "bf16"
    assert tiles_of("linear_argmax", "triton", torch.float32)[0].precision == "tf32x3"
    assert tiles_of("alignment", "triton", torch.float32) == ()
    every = {"triangle": False}
    assert tiles_of("linear_argmax", "cuda", torch.bfloat16) == (Tile(128, 128, "bf16", **every),)
    assert tiles_of("pair_stats", "cuda", torch.bfloat16) == (Tile(128, 128, "bf16", square=8),)
    pairs, panels = tiles_of("pair_stats_backward", "cuda", torch.bfloat16)
    assert pairs == Tile(128, 128, "bf16", **every)
    assert panels == Tile(128, 128, "tf32x3", **every)
    # As its means are float32.
    assert tiles_of("nearest_center", "cuda", torch.bfloat16) == (
        Tile(128, 128, "tf32x3", **every),
    )
    # Of points as they are, and of panels of float32 coefficients.
    for op, sizes in (("pair_stats", (128,)), ("pair_stats_backward", (64, 64))):
        found = tiles_of(op, "triton", torch.bfloat16)
        assert tuple(t.rows for t in found) == sizes
        assert [t.precision for t in found] == ["bf16", "tf32x3"][: len(sizes)]
    assert tiles_of("pair_stats", "triton", torch.bfloat16, 10) == (Tile(64, 64, "bf16", square=8),)


def test_the_work_of_a_gpu_is_that_of_a_cpu_in_float32():
    head = Head("toy", classes=96, width=24, tokens=61)
    size = bounds.Size(tokens=61, width=24, classes=96, occurring=61, itemsize=4)
    for name in (
        "class_moments",
        "accumulate_class_moments_",
        "within_class_scatter",
        "between_class_scatter",
    ):
        assert WORK[name](head, 4).bytes == getattr(bounds, name)(size).bytes, name
    for name in ("within_class_scatter", "between_class_scatter", "pair_stats"):
        assert WORK[name](head, 4).flops == getattr(bounds, name)(size).flops, name


def test_what_limits_is_named():
    def limited(memory: float, products: float, vector: float, reads: float = 1.0) -> str:
        numbers = (1.0, memory, products, vector, "", reads)
        return Prediction("op", "cuda", "toy", "float32", "small", *numbers).limiter

    assert limited(3, 2, 1) == "HBM"
    assert limited(3, 2, 1, reads=4) == "HBM, panels read 4.0 times"
    assert limited(1, 2, 1) == "tensor cores"
    assert limited(1, 1, 2) == "float32 arithmetic"
    assert math.isclose(predicting.GOAL[3], 150)


@pytest.mark.parametrize("op", sorted(peers.PLAIN))
def test_plain_torch_computes_what_the_op_does(op):
    """Or its time beside ours would say nothing."""
    given = arguments(op, TINY[0], torch.float32, torch.device("cpu"))
    copies = [a.clone() if isinstance(a, torch.Tensor) else a for a in given]
    plain, own = peers.PLAIN[op](*given), call(op, copies)
    if op == "pair_stats":
        plain, own = torch.stack(plain), own[0][:, 1]  # sums
        assert torch.allclose(plain, own, rtol=1e-4)
        return
    if op == "accumulate_class_moments_":
        assert torch.equal(plain[0], own[0])  # and sums in the place of means
        return
    for a, b in zip(plain, own, strict=False):
        assert torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-4), op


@pytest.mark.parametrize("op", ["class_moments", "alignment", "linear_cross_entropy"])
def test_plain_torch_has_gradients(op):
    function = peers.plain_call(
        f"{op}_backward", TINY[0], torch.float32, torch.device("cpu"), False
    )
    assert all(grad.isfinite().all() for grad in function() if grad is not None)


def test_same_bits_are_bits():
    nan = torch.tensor([math.nan, 1.0])
    assert same_bits([nan], [nan.clone()])
    assert not same_bits([torch.tensor([0.0])], [torch.tensor([-0.0])])
    assert not same_bits([torch.tensor([1.0])], [torch.tensor([1.0 + 2**-23])])

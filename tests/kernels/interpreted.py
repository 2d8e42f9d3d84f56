"""The contract of every op but those of pairs and losses, on Triton kernels, in the interpreter.

``test_interpreted.py`` runs each class in a process of its own, with TRITON_INTERPRET=1: a kernel
that reads out of bounds ends that process, and fails that test. To see one by itself:

    TRITON_INTERPRET=1 pytest tests/kernels/interpreted.py::TestClassMoments
"""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

import ncfast
import ncfast.functional as F
from ncfast import DataError, use_backend
from ncfast.kernels import tiles
from ncfast.testing import tiny_tokens
from tests.kernels.interpreted_contract import (
    BACKEND,
    BAD_INDEX,
    BAD_TOKENS,
    Interpreted,
    found_later,
)
from tests.ops import (
    test_accumulate_class_moments_,
    test_alignment,
    test_between_class_scatter,
    test_class_moments,
    test_linear_argmax,
    test_nearest_center,
    test_within_class_scatter,
)


class TestClassMoments(Interpreted, test_class_moments.TestClassMoments):
    """class_moments and its backward."""

    @pytest.mark.parametrize(("change", "message"), BAD_TOKENS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_bad_data_is_found_later(self, dtype, change, message) -> None:
        x, y = tiny_tokens(61, 13, 7, dtype)
        change(x, y)
        found_later(message, self.op, x, y, 7)

    def test_identical_rows_have_no_spread(self) -> None:
        for value, n in ((0.1, 513), (1e-40, 31), (3.3e38, 33), (-3.3e38, 1087)):
            x = torch.full((n, 9), value)
            with use_backend(BACKEND):
                _, means, m2 = F.class_moments(x, torch.zeros(n, dtype=torch.int64), 1)
            assert m2.tolist() == [0.0]
            assert torch.equal(means[0], x[0])

    def test_spread_far_from_the_origin(self) -> None:
        x, y, exact = test_class_moments.far_from_origin(1501, 64, 11)
        with use_backend(BACKEND):
            m2 = F.class_moments(x, y, 11)[2]
        assert abs(float(m2.double().sum()) - exact) <= 1e-6 * exact


class TestAccumulateClassMoments(
    Interpreted, test_accumulate_class_moments_.TestAccumulateClassMoments
):
    """accumulate_class_moments_, with and without a scatter."""

    @pytest.mark.parametrize(("change", "message"), BAD_TOKENS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_bad_data_is_found_later(self, dtype, change, message) -> None:
        x, y = tiny_tokens(61, 13, 7, dtype)
        change(x, y)
        found_later(message, self.op, *test_accumulate_class_moments_.empty(7, 13), x, y)

    def test_bad_data_stops_a_report(self) -> None:
        x, y = tiny_tokens(61, 13, 7)
        stats = ncfast.ClassStatistics(7, 13)
        y[3] = 9
        with use_backend(BACKEND):
            stats.update(x, y)
        with pytest.raises(DataError, match=r"y\[3\] is out of range"):
            ncfast.neural_collapse(stats)

    def test_bad_data_is_not_saved(self, tmp_path) -> None:
        x, y = tiny_tokens(61, 13, 7)
        stats = ncfast.ClassStatistics(7, 13)
        x[3, 1] = float("nan")
        with use_backend(BACKEND):
            stats.update(x, y)
        with pytest.raises(DataError, match=r"x\[3\] holds a NaN"):
            stats.save(tmp_path / "stats.safetensors")
        assert not list(tmp_path.iterdir())


class TestWithinClassScatter(Interpreted, test_within_class_scatter.TestWithinClassScatter):
    """within_class_scatter and its backward."""

    @pytest.mark.parametrize(("change", "message"), BAD_TOKENS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_bad_data_is_found_later(self, dtype, change, message) -> None:
        x, y = tiny_tokens(61, 13, 7, dtype)
        change(x, y)
        found_later(message, self.op, x, y, torch.zeros(7, 13))


class TestBetweenClassScatter(Interpreted, test_between_class_scatter.TestBetweenClassScatter):
    """between_class_scatter and its backward."""

    @pytest.mark.parametrize(("index", "message"), BAD_INDEX)
    def test_bad_index_is_found_later(self, index, message) -> None:
        found_later(message, self.op, torch.ones(3, 2), None, "none", torch.tensor(index))

    @pytest.mark.parametrize("bad", [-2.0, float("nan"), float("inf")])
    def test_bad_weights_are_found_later(self, bad) -> None:
        weights = torch.tensor([1.0, 0.0, bad])
        found_later(r"weights\[2\] is negative or not finite", self.op, torch.ones(3, 2), weights)


class TestAlignment(Interpreted, test_alignment.TestAlignment):
    """alignment and its backward."""

    @pytest.mark.parametrize(("index", "message"), BAD_INDEX)
    def test_bad_index_is_found_later(self, index, message) -> None:
        args = torch.ones(3, 2), torch.ones(3, 2), "none", torch.tensor(index)
        found_later(message, self.op, *args)


class TestLinearArgmax(Interpreted, test_linear_argmax.TestLinearArgmax):
    """linear_argmax."""

    @pytest.mark.parametrize(("index", "message"), BAD_INDEX)
    def test_bad_index_is_found_later(self, index, message) -> None:
        args = torch.ones(2, 2), torch.ones(3, 2), None, torch.tensor(index)
        found_later(message, self.op, *args)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_bad_data_is_found_later(self, dtype, value) -> None:
        x, w, bias = (
            torch.ones(70, 3, dtype=dtype),
            torch.ones(301, 3, dtype=dtype),
            torch.zeros(301),
        )
        for tensor, name, at in ((x, "x", (69, 1)), (w, "head_weight", (300, 2))):
            tensor[at] = value
            found_later(rf"{name}\[{at[0]}\] holds a NaN or Inf", self.op, x, w, bias)
            tensor[at] = 1
        bias[5] = value
        found_later(r"head_bias\[5\] holds a NaN or Inf", self.op, x, w, bias)


class TestNearestCenter(Interpreted, test_nearest_center.TestNearestCenter):
    """nearest_center."""

    def test_far_from_the_origin(self) -> None:
        x, means = tiny_tokens(31, 13, 7)[0], tiny_tokens(23, 13, 7, seed=1)[0]
        with use_backend(BACKEND):
            near = F.nearest_center(x, means)
            far = F.nearest_center(x + 1024, means + 1024)
        # What is left is the rounding of x + 1024 itself.
        assert (near[0] == far[0]).float().mean() > 0.9
        assert (near[1] - far[1]).abs().max() < 0.02

    def test_bad_data_is_found_later(self) -> None:
        x, means = torch.ones(70, 3), torch.eye(3)
        x[69, 1] = float("nan")
        found_later(r"x\[69\] holds a NaN or Inf", self.op, x, means)


@pytest.mark.parametrize("group", [1, 3])
def test_triangle_of_tiles(group):
    for side in range(1, 9):
        programs = group * group * tiles.upper_tiles(-(-side // group))
        places = torch.empty(programs, 3, dtype=torch.int64)
        _walk[(programs,)](places, side, group)
        found = sorted((i, j) for i, j, valid in places.tolist() if valid)
        assert found == [(i, j) for i in range(side) for j in range(i, side)]


@triton.jit
def _walk(places, side, group):
    program = tl.program_id(0)
    row, column, valid = tiles.grouped_upper_tile(program, side, group)
    tl.store(places + 3 * program, row.to(tl.int64))
    tl.store(places + 3 * program + 1, column.to(tl.int64))
    tl.store(places + 3 * program + 2, valid.to(tl.int64))


@pytest.mark.parametrize("splits", [1, 3])
def test_bands_of_blocks(splits):
    for blocks in (1, 7, 8, 9, 20):
        places = torch.empty(blocks * splits, 2, dtype=torch.int64)
        _stride[(blocks * splits,)](places, blocks, splits, BAND=4)
        assert sorted(map(tuple, places.tolist())) == [
            (block, split) for block in range(blocks) for split in range(splits)
        ]
        # Four blocks, and every split of them, before the next four.
        assert [block // 4 for block, _ in places.tolist()] == sorted(
            block // 4 for block in range(blocks) for _ in range(splits)
        )


@triton.jit
def _stride(places, blocks, splits, BAND: tl.constexpr):
    program = tl.program_id(0)
    block, split = tiles.banded_block(program, blocks, splits, BAND)
    tl.store(places + 2 * program, block.to(tl.int64))
    tl.store(places + 2 * program + 1, split.to(tl.int64))

"""The contract of every op, on its Triton kernels, in the interpreter.

``test_interpreted.py`` runs each class in a process of its own, with TRITON_INTERPRET=1: a kernel
that reads out of bounds ends that process, and fails that test. To see one by itself:

    TRITON_INTERPRET=1 pytest tests/kernels/interpreted.py::TestClassMoments
"""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
import triton
import triton.language as tl
from torch.utils._python_dispatch import TorchDispatchMode

import ncfast
import ncfast.functional as F
from ncfast import DataError, check_device_errors, use_backend
from ncfast.kernels import cross_entropy_gradients, launching, pair_gradients, tiles
from ncfast.testing import Sample, poison, sample_inputs, tiny_tokens
from tests.ops import (
    test_accumulate_class_moments_,
    test_alignment,
    test_between_class_scatter,
    test_class_moments,
    test_linear_argmax,
    test_linear_cross_entropy,
    test_nearest_center,
    test_pair_stats,
    test_pair_stats_accuracy,
    test_within_class_scatter,
)
from tests.ops.contract import REGISTRATION_SAMPLES, GpuKernels

BACKEND = "triton-interpret"
# What would make the host wait for a GPU, or move data to it.
WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique", "item")


class NoWaiting(TorchDispatchMode):
    """Refuse every torch call inside a launch function that waits for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.partition(".")[0]
        assert not any(name.startswith(word) for word in WAITS), f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


class _Chosen:
    """Launch a kernel in one configuration, as an autotuner that has found it the fastest."""

    def __init__(self, kernel, configuration) -> None:
        self.kernel, self.configuration = kernel, configuration

    def __getitem__(self, grid):
        programs = grid(self.configuration.tiles)
        return lambda *args, **constants: launching.run(
            self.kernel, programs, self.configuration, args, constants
        )


class Interpreted(GpuKernels):
    """Tests of one op's kernels beyond its contract."""

    pairs: ClassVar = ((BACKEND, "reference"), ("reference", BACKEND), (BACKEND, "cpu"))

    def test_opcheck(self) -> None:
        with use_backend(BACKEND):
            for sample in sample_inputs(self.op):
                if sample.name in REGISTRATION_SAMPLES:
                    self.check_registration(sample, full=False)

    def results(self, sample: Sample) -> list[torch.Tensor]:
        leaves = self.leaves(sample.args)
        with use_backend(BACKEND):
            out = list(self.call(*leaves))
            upstream = self.upstream(out)
            return out + (list(self.gradients(leaves, out, upstream).values()) if upstream else [])

    def test_same_bits_on_repeat(self) -> None:
        for sample in sample_inputs(self.op, torch.bfloat16):
            if sample.name in ("primes", "long-class", "index-shuffled", "width-129"):
                for a, b in zip(self.results(sample), self.results(sample), strict=True):
                    assert torch.equal(a, b), sample

    @pytest.mark.parametrize("choice", [1, 2])
    def test_every_configuration_keeps_the_error_rule(self, choice, monkeypatch) -> None:
        def tuned(kernel, configurations, key):
            chosen = configurations[min(choice, len(configurations) - 1)]
            return _Chosen(kernel, chosen)

        monkeypatch.setattr(launching, "_tuned", tuned)
        for dtype in (torch.float32, torch.bfloat16):
            with launching.tuning():
                self.test_agreement(BACKEND, sample_inputs(self.op, dtype)[0])
                if hasattr(self, "test_gradient_agreement"):
                    self.test_gradient_agreement(BACKEND, sample_inputs(self.op, dtype)[0])

    def test_never_waits_for_the_device(self) -> None:
        for sample in sample_inputs(self.op):
            if sample.name in ("primes", "primes-scatter", "index-shuffled", "all-ignored"):
                with NoWaiting():
                    self.results(sample)

    def test_refuses_float64(self) -> None:
        args = sample_inputs(self.op, torch.float64)[0].args
        with use_backend(BACKEND), pytest.raises(Exception, match="keep sums in float32"):
            self.call(*args)


def found_later(message: str, op: str, *args, **options) -> None:
    """Require that an op says nothing of bad data, and the next check says it once."""
    with use_backend(BACKEND):
        getattr(F, op)(*args, **options)
    with pytest.raises(DataError, match=f"{op}: {message}"):
        check_device_errors()
    check_device_errors()


BAD_TOKENS = [
    (lambda x, y: y[3:].fill_(7), r"y\[3\] is out of range"),
    (lambda x, y: y[4:].fill_(-1), r"y\[4\] is out of range"),
    (lambda x, y: y[9].fill_(2**40), r"y\[9\] is out of range"),
    (lambda x, y: x[5, 2].fill_(float("nan")), r"x\[5\] holds a NaN or Inf"),
    (lambda x, y: x[7:, 12].fill_(float("inf")), r"x\[7\] holds a NaN or Inf"),
]
BAD_INDEX = [
    ([0, 2, 0], r"index\[2\] names a row for the second time"),
    ([0, 3], r"index\[1\] is out of range"),
    ([1, -1], r"index\[1\] is out of range"),
]


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

    def test_rows_that_do_not_occur_are_not_touched(self) -> None:
        counts, means, m2, _ = test_accumulate_class_moments_.empty(101, 5)
        x, y = torch.randn(7, 5), torch.tensor([3, 3, 50, -100, 100, 0, 50])
        absent = torch.ones(101, dtype=torch.bool)
        absent[[0, 3, 50, 100]] = False
        means[absent], m2[absent] = float("nan"), float("nan")
        with use_backend(BACKEND):
            F.accumulate_class_moments_(counts, means, m2, None, x, y)
        assert means[absent].isnan().all()
        assert m2[absent].isnan().all()
        assert counts[~absent].tolist() == [1, 2, 2, 1]
        torch.testing.assert_close(means[3], (x[0] + x[1]) / 2)


class TestWithinClassScatter(Interpreted, test_within_class_scatter.TestWithinClassScatter):
    """within_class_scatter and its backward."""

    @pytest.mark.parametrize(("change", "message"), BAD_TOKENS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_bad_data_is_found_later(self, dtype, change, message) -> None:
        x, y = tiny_tokens(61, 13, 7, dtype)
        change(x, y)
        found_later(message, self.op, x, y, torch.zeros(7, 13))

    def test_symmetric(self) -> None:
        x, y = tiny_tokens(61, 71, 7)
        with use_backend(BACKEND):
            scatter = F.within_class_scatter(x, y, torch.zeros(7, 71))
        assert torch.equal(scatter, scatter.T)


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

    def test_ties_go_to_the_lowest_id_wherever_they_are(self) -> None:
        head = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 2.0]]).repeat(151, 1)
        x = torch.tensor([[3.0, 1.0, 1.0]]).expand(70, 3)
        order = torch.randperm(302, generator=torch.Generator().manual_seed(0))
        with use_backend(BACKEND):
            for index, lowest in ((None, 0), (order, 0), (order[order > 3], 4)):
                chosen, margin = F.linear_argmax(x, head, None, index)
                assert chosen.tolist() == [lowest] * 70
                assert margin.tolist() == [0.0] * 70
            alone = F.linear_argmax(x, head, None, torch.tensor([2]))
        assert alone[0].tolist() == [2] * 70
        assert alone[1].tolist() == [float("inf")] * 70

    def test_rows_left_out_may_hold_anything(self) -> None:
        x, w = tiny_tokens(7, 5, 2)[0], tiny_tokens(11, 5, 2, seed=1)[0]
        bias, index = torch.zeros(11), torch.tensor([8, 1, 6])
        with use_backend(BACKEND):
            clean = F.linear_argmax(x, w, bias, index)
            outside = torch.ones(11, dtype=torch.bool)
            outside[index] = False
            w[outside], bias[outside] = float("nan"), float("inf")
            for a, b in zip(clean, F.linear_argmax(x, w, bias, index), strict=True):
                assert torch.equal(a, b)


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


class TestPairStats(Interpreted, test_pair_stats.TestPairStats):
    """pair_stats and its backward."""

    def test_each_output_and_layout_of_upstream_gradients(self) -> None:
        # The upstream gradient is of all terms together: one of them shows its layout.
        args = sample_inputs(self.op)[0].args
        leaves = self.leaves(args)
        with use_backend(BACKEND), poison():
            for p, layout in enumerate(("", "expanded", "transposed")):
                out = self.call(*leaves)
                one = {2 + 2 * p: self.upstream(out, layout)[2 + 2 * p]}
                self.assert_gradients(args, self.gradients(leaves, out, one), one)

    @pytest.mark.parametrize(("index", "message"), BAD_INDEX)
    def test_bad_index_is_found_later(self, index, message) -> None:
        args = torch.eye(3), torch.ones(3), "none"
        found_later(message, self.op, *args, index=torch.tensor(index))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_bad_data_is_found_later(self, dtype) -> None:
        points, variances, center = torch.eye(70, dtype=dtype), torch.ones(70), torch.zeros(70)
        for tensor, at, message in (
            (points, (69, 1), r"points\[69\] holds a NaN or Inf"),
            (variances, (7,), r"variances\[7\] is negative or not finite"),
            (center, (2,), r"center\[2\] holds a NaN or Inf"),
        ):
            for value in (float("nan"), -1.0 if tensor is variances else float("-inf")):
                before = tensor[at].clone()
                tensor[at] = value
                found_later(message, self.op, points, variances, center)
                tensor[at] = before

    @pytest.mark.parametrize("bad", [[0.0, 1.0, 3.0], [1.0, 0.0], [0.0, 0.0], [0.0, float("nan")]])
    def test_bad_edges_are_found_later(self, bad) -> None:
        edges = torch.tensor([bad]).double()
        found_later(
            r"edges\[0\] is not of finite", self.op, torch.eye(3), torch.ones(3), edges=edges
        )

    @pytest.mark.parametrize("name", ["clusters", "far from the origin"])
    def test_close_pairs_of_many_tiles_and_panels(self, name, monkeypatch) -> None:
        monkeypatch.setattr(pair_gradients, "PANEL_ROWS", 64)
        monkeypatch.setattr(pair_gradients, "PANEL_COLUMNS", 64)
        points = test_pair_stats_accuracy.close_points("spread")[:70, :11]
        # A product leaves a tenth of such a distance to rounding.
        tight = points[torch.arange(70) % 10] + 1e-3 * points
        points = (tight if name == "clusters" else points + 1000).float()
        args = (points, points.new_ones(70), points.mean(0), test_pair_stats.KINDS)
        upstream = {2 + 2 * p: torch.tensor([0.3, -0.2]) for p in range(4)}
        leaves = self.leaves(args)
        with use_backend(BACKEND), poison():
            stats = F.pair_stats(*args)[0]
            found = self.gradients(leaves, self.call(*leaves), upstream)
        test_pair_stats_accuracy.assert_columns(stats, args, torch.float32)
        self.assert_gradients(args, found, upstream)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("distance", [0.25, 30.0])
    def test_16_bit_points_multiply_as_they_are_unless_the_center_dominates(
        self, distance, dtype, monkeypatch
    ) -> None:
        worked, run = [], launching.run

        def watched(kernel, programs, configuration, args, constants) -> None:
            tensors = [a for a in args if isinstance(a, torch.Tensor)]
            before = [t.clone() for t in tensors]
            run(kernel, programs, configuration, args, constants)
            same = [
                torch.equal(a.nan_to_num(), b.nan_to_num())
                for a, b in zip(before, tensors, strict=True)
            ]
            if "AS_STORED" in constants and not all(same):
                worked.append((kernel.fn.__name__, constants["AS_STORED"]))

        monkeypatch.setattr(launching, "run", watched)
        points = (test_pair_stats_accuracy.close_points("spread")[:150] + distance).to(dtype)
        points[1] = points[0]
        args = (points, torch.ones(150), points.float().mean(0), test_pair_stats.KINDS)
        leaves = self.leaves(args)
        with use_backend(BACKEND), poison():
            stats = F.pair_stats(*args)[0]
            out = self.call(*leaves)
            upstream = self.upstream(out)
            found = self.gradients(leaves, out, upstream)
        as_stored = distance == 0.25
        assert set(worked) == {("_visit_pairs", as_stored), ("_weigh_pairs", as_stored)}
        test_pair_stats_accuracy.assert_columns(stats, args, torch.float32)
        self.assert_gradients(args, found, upstream)

    def test_by_hand(self) -> None:
        test_pair_stats.test_definition_on_integers(BACKEND, torch.float32)
        test_pair_stats.test_coincident_points_are_counted_and_left_out(BACKEND)
        test_pair_stats.test_rows_left_out_are_never_read(BACKEND)
        test_pair_stats_accuracy.test_histogram_is_numpys_on_exact_values(BACKEND)
        for k in range(3):
            test_pair_stats.test_few_points(BACKEND, k)

    def test_a_value_whose_square_is_infinite(self) -> None:
        points = torch.tensor([[0.0], [1e-15]])
        with use_backend(BACKEND):
            stats = F.pair_stats(points, torch.tensor([1.0, 1.0]))[0]
        assert stats[0, 1].item() == pytest.approx(1e30, rel=1e-6)
        assert stats[0, 2].item() == pytest.approx(1e60, rel=1e-6)


class TestLinearCrossEntropy(Interpreted, test_linear_cross_entropy.TestLinearCrossEntropy):
    """linear_cross_entropy and its backward."""

    @pytest.mark.parametrize(("change", "message"), BAD_TOKENS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_bad_data_is_found_later(self, dtype, change, message) -> None:
        x, y = tiny_tokens(61, 13, 7, dtype)
        change(x, y)
        found_later(message, self.op, x, torch.ones(7, 13, dtype=dtype), y, None, 5.0)

    def test_many_panels(self, monkeypatch) -> None:
        monkeypatch.setattr(cross_entropy_gradients, "PANEL_TOKENS", 64)
        monkeypatch.setattr(cross_entropy_gradients, "PANEL_CLASSES", 128)
        for dtype in (torch.float32, torch.bfloat16):
            x, y = tiny_tokens(150, 13, 290, dtype)
            head = tiny_tokens(310, 13, 7, dtype, seed=1)[0]
            # 10 rows pad the vocabulary.
            args = (x, head, y, head[:, 0].clone(), 0.0, 0, 0.1, 0, 300)
            leaves = self.leaves(args)
            with use_backend(BACKEND), poison():
                out = self.call(*leaves)
                upstream = self.upstream(out)
                found = self.gradients(leaves, out, upstream)
            self.assert_gradients(args, found, upstream)

    def test_by_hand(self) -> None:
        test_linear_cross_entropy.test_definition_on_integers(BACKEND, torch.float32)
        test_linear_cross_entropy.test_rows_that_pad_the_vocabulary_are_never_read(BACKEND)
        test_linear_cross_entropy.test_nothing_to_do_is_not_nan(BACKEND)
        test_linear_cross_entropy.test_classes_excluded_by_their_bias(BACKEND)
        test_linear_cross_entropy.test_memory_budget_is_kept(BACKEND)


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

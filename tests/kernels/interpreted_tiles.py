"""The contract of pair_stats and linear_cross_entropy on Triton kernels, in the interpreter.

``test_interpreted.py`` runs each class in a process of its own, with TRITON_INTERPRET=1: a kernel
that reads out of bounds ends that process, and fails that test. To see one by itself:

    TRITON_INTERPRET=1 pytest tests/kernels/interpreted_tiles.py::TestPairStats
"""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch

import ncfast.functional as F
from ncfast import use_backend
from ncfast.kernels import cross_entropy_gradients, launching, pair_gradients, pairs
from ncfast.testing import poison, sample_inputs, tiny_tokens
from tests.kernels.interpreted_contract import (
    BACKEND,
    BAD_INDEX,
    BAD_TOKENS,
    Interpreted,
    found_later,
)
from tests.kernels.small_sizes import Rounds
from tests.losses import test_cross_entropy as losses
from tests.losses.test_cross_entropy_precision import check_that_a_step_is_skipped
from tests.ops import (
    test_linear_cross_entropy,
    test_pair_stats,
    test_pair_stats_accuracy,
)


class TestPairStats(Interpreted, test_pair_stats.TestPairStats):
    """pair_stats and its backward."""

    # A call takes a second: of each, the sample that has every argument.
    asked_of: ClassVar = ("center-tensor",)
    registered_with: ClassVar = ("index-shuffled",)

    def test_each_output_and_layout_of_upstream_gradients(self) -> None:
        # The upstream gradient is of all functions together: one of them shows its layout.
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
        tight = points[torch.arange(70) % 30] + 1e-3 * points
        points = (tight if name == "clusters" else points + 1000).float()
        args = (points, points.new_ones(70), points.mean(0), test_pair_stats.KINDS)
        upstream = {2 + 2 * p: torch.tensor([0.3, -0.2]) for p in range(4)}
        leaves = self.leaves(args)
        with use_backend(BACKEND), poison():
            stats = F.pair_stats(*args)[0]
            found = self.gradients(leaves, self.call(*leaves), upstream)
        test_pair_stats_accuracy.assert_columns(stats, args, torch.float32)
        self.assert_gradients(args, found, upstream)

    @pytest.mark.parametrize("kind", ["cdnv", "log_distance"])
    @pytest.mark.parametrize("cosine", [0.874, 0.876])
    def test_pairs_on_both_sides_of_the_threshold(self, cosine, kind, monkeypatch) -> None:
        # Of two vectors of length 1, 1 - cosine is the share at which a product loses digits.
        rounds = Rounds()
        monkeypatch.setattr(pairs, "range", rounds.count, raising=False)
        points = torch.tensor([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]])
        with use_backend(BACKEND):
            # Cosines are measured from the origin, and so are all then.
            stats = F.pair_stats(points, torch.ones(2), "none", (kind, "cosine"))[0]
        assert bool(rounds.most) == (1 - cosine <= 0.125)  # row_by_differences went round
        square = 2 - 2 * cosine
        exact = 1 / square if kind == "cdnv" else -math.log(math.sqrt(square))
        assert abs(abs(stats[0, 1].item()) - abs(exact)) <= 1e-5

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
        points = (test_pair_stats_accuracy.close_points("spread")[:70] + distance).to(dtype)
        points[1] = points[0]
        args = (points, torch.ones(70), points.float().mean(0), test_pair_stats.KINDS)
        leaves = self.leaves(args)
        with use_backend(BACKEND), poison():
            stats = F.pair_stats(*args)[0]
            out = self.call(*leaves)
            upstream = self.upstream(out)
            found = self.gradients(leaves, out, upstream)
        as_stored = distance == 0.25
        assert set(worked) == {("_visit_pairs", as_stored), ("_pair_weights", as_stored)}
        test_pair_stats_accuracy.assert_columns(stats, args, torch.float32)
        self.assert_gradients(args, found, upstream)

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

    def test_options_of_the_loss(self) -> None:
        losses.test_every_option_in_float32(BACKEND)
        check_that_a_step_is_skipped(BACKEND)

"""pair_stats: distances that a Gram matrix cannot give, column by column; histograms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

import ncfast.functional as F
from ncfast import use_backend
from ncfast.testing import rounding_floor, tiny_tokens

from . import test_pair_stats as definition
from .contract import threads

KINDS = definition.KINDS


def assert_columns(found: Tensor, args: tuple, dtype: torch.dtype) -> None:
    """Apply the two-reference rule to each function and each column, to the column's own scale."""
    args = (*args, *(None,) * (8 - len(args)))
    exact, plain = (definition.Pairs(precision, *args) for precision in (torch.float64, dtype))
    for p, kind in enumerate(args[3]):
        columns = []
        for pairs in (exact, plain):
            value, has = pairs.values(kind, pairs.powers[p])
            value = (value if kind == "cosine" else value[has]).double()
            away = (value - pairs.targets[p]).abs()
            sums = [value.sum(), value.square().sum(), value.min(), value.max(), away.sum()]
            columns.append(torch.stack(sums))
            scales = [value.abs().sum(), *columns[-1][1:]]
        truth, baseline = columns
        for c, (a, b, e, scale) in enumerate(
            zip(found[p, 1:], truth, baseline, scales, strict=True)
        ):
            allowed = 2 * (e - b).abs() + rounding_floor(
                b, dtype, torch.float64, float(scale.abs())
            )
            assert (a - b).abs() <= allowed, f"{kind}, column {c + 1}: {a} for {b}, plain {e}"


CLOSE = ["spread", "clusters", "all near", "far from the origin", "near a line"]


def close_points(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(613, 24, generator=generator, dtype=torch.float64)
    if name == "clusters":  # ten, of radius 1e-3 and 1e-6
        size = torch.where(torch.arange(613) % 2 == 0, 1e-3, 1e-6)
        x = x[torch.arange(613) % 10] + x * size[:, None]
    elif name == "all near":
        x = x * 1e-4 + 1
    elif name == "far from the origin":
        x = x + 1000
    elif name == "near a line":
        x = x[:1] * torch.rand(613, 1, generator=generator) + 1e-3 * x
    return x


@pytest.mark.parametrize("name", CLOSE)
def test_close_pairs_are_as_accurate_as_differences(name):
    points = close_points(name).float()
    center = points.double().mean(0).float()
    kinds, powers = ("cdnv", *KINDS), (2, 1, 1, 1, 1)
    for middle in (center, "none"):
        args = (points, points.new_ones(613), middle, kinds, powers, (0.0, 0.1, 0.0, 0.0, -1.0))
        with use_backend("cpu"):
            stats, _, coincident = F.pair_stats(*args)
        assert coincident.tolist() == [0] * 5
        assert_columns(stats, args, torch.float32)


@pytest.mark.parametrize("name", CLOSE)
def test_gradients_of_close_pairs(name):
    points = close_points(name).float()
    upstream = {2 + 2 * p: torch.tensor([0.3, -0.2]) for p in range(4)}
    args = (points, points.new_ones(613), points.mean(0), KINDS)
    contract = definition.TestPairStats()
    with use_backend("cpu"):
        leaves = contract.leaves(args)
        found = contract.gradients(leaves, contract.call(*leaves), upstream)
    contract.assert_gradients(args, found, upstream)


def test_logarithms_of_subnormal_squared_distances():
    """Whole multiples of 2^-70: float32 holds every square and product of theirs exactly."""
    places = torch.tensor([0, 1, 2, 3, 5, 9, 17, 40, 100, 127, 200, 400, 1000, 1000])
    points = (places.double() * 2.0**-70)[:, None]
    squares = (places[:, None] - places).square().double() * 2.0**-140
    subnormal = (squares > 0) & (squares < torch.finfo(torch.float32).tiny)
    assert (subnormal.sum(), ((squares > 0) & ~subnormal).sum()) == (94, 86)
    found = {}
    for backend, dtype in (("cpu", torch.float32), ("reference", torch.float64)):
        with use_backend(backend):
            stats, _, coincident = F.pair_stats(
                points.to(dtype), None, "none", ("log_distance_raw",)
            )
        assert coincident.tolist() == [1]
        found[backend] = stats[0, :5]
    torch.testing.assert_close(found["cpu"], found["reference"], rtol=3e-7, atol=0)


@pytest.mark.parametrize("place", [7, 39])
def test_a_point_all_but_at_the_center(backend, place):
    """Products of 16-bit points as they are would keep no digit of its cosines."""
    generator = torch.Generator().manual_seed(5)
    points = (torch.randn(40, 64, generator=generator) + 0.4).bfloat16()
    points[place] = points.double().mean(0).bfloat16()
    center = points[place].float() + 1e-4 * points[0].float()
    args = (points, None, center, ("cosine", "log_distance"), None, (0.0, 0.0))
    with use_backend(backend):
        assert_columns(F.pair_stats(*args)[0], args, torch.float32)


# -- histograms


def test_histogram_is_numpys_on_exact_values(backend):
    # Squared distances are powers of two: values lie on edges, and on the last one.
    points = torch.tensor([[0.0], [1.0], [3.0], [5.0], [1.0], [9.0]])
    variances = torch.tensor([2.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    for count in (8, 4, 1):
        cut = torch.stack([torch.linspace(0, high, count + 1) for high in (0.5, 2.0, 1.0)]).double()
        with use_backend(backend):
            stats, histogram, coincident = F.pair_stats(
                points, variances, "none", ("cdnv", "cdnv", "cosine"), (1, 2, 1), edges=cut
            )
        values = [
            2 / (points[a] - points[b]).item() ** 2
            for a, b in itertools.combinations(range(6), 2)
            if points[a] != points[b]
        ]
        halves = [v * v / 2 for v in values]
        for row, list_, edge in zip(histogram, (values, halves), cut, strict=False):
            assert row.tolist() == np.histogram(list_, edge.numpy())[0].tolist()
        assert histogram[2, -1] == (10 if count > 1 else 15)  # cosines of 1, at the last edge
        assert histogram[2].sum() == 15
        assert coincident.tolist() == [1, 1, 5]
        assert stats[:, 0].tolist() == [14, 14, 15]


def test_every_pair_of_many_tiles_falls_into_one_bin(backend):
    count = {"cpu": 1103, "cuda-host": 137}.get(backend, 103)  # of two tiles at least
    points, _ = tiny_tokens(count, 7, 3)
    pairs = len(points) * (len(points) - 1) // 2
    edges = torch.tensor([[-1.0, 1.0], [-50.0, 50.0]], dtype=torch.float64)
    fine = torch.stack([torch.linspace(-1, 1, 1001), torch.linspace(-20, 20, 1001)]).double()
    for cut in (edges, fine):
        counts = []
        for count in (1, 3):
            with use_backend(backend), threads(count):
                stats, histogram, _ = F.pair_stats(
                    points, None, kinds=("cosine", "log_distance_raw"), edges=cut
                )
            counts.append(histogram)
        assert histogram.sum(1).tolist() == stats[:, 0].tolist() == [pairs, pairs]
        assert torch.equal(*counts)

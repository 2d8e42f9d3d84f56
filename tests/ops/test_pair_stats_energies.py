"""pair_stats of Riesz energies: by hand, where they leave every float, ties, what is left out."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch

import ncfast.functional as F
from ncfast import use_backend
from ncfast.testing import tiny_tokens

from . import test_pair_stats as definition
from .backends import in_float64

EPS = torch.finfo(torch.float32).eps


def energies(points, power=None, center="none", **options):
    """Return the stats [6] and the coincident pairs of riesz alone."""
    stats, _, same = F.pair_stats(points, None, center, ("riesz",), (power,), **options)
    return stats[0], same.item()


# -- the definition


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_energies_of_small_integers(backend, dtype):
    # Squared distances of the unit vectors are 2, 4 and 2: energies of s = 4 are 1/4, 1/16, 1/4.
    points = torch.tensor([[3, 0], [0, 7], [-2, 0]], dtype=dtype)
    exact = [Fraction(1, 4), Fraction(1, 16), Fraction(1, 4)]
    with use_backend(backend):
        stats, same = energies(points, 4)
    total, squares = sum(exact), sum(e * e for e in exact)
    logs = [math.log(e) for e in exact]
    expected = [3, math.log(total), math.log(squares), min(logs), max(logs), -sum(logs)]
    assert stats.tolist() == pytest.approx(expected, rel=4 * EPS)
    assert same == 0


@in_float64
@pytest.mark.parametrize("power", [1, 2, 3, 11])
def test_energies_by_loops(backend, power):
    points = tiny_tokens(13, 5, 3, torch.float64)[0]
    with use_backend(backend):
        stats, _ = energies(points, power, "classes")
    rows = points - points.mean(0)
    rows = [row / row.norm() for row in rows]
    each = [float((a - b).norm()) ** -power for a, b in itertools.combinations(rows, 2)]
    assert stats[1].exp().item() == pytest.approx(math.fsum(each), rel=1e-13)
    assert stats[2].exp().item() == pytest.approx(math.fsum(e * e for e in each), rel=1e-13)


def test_the_power_is_two_less_than_the_width_unless_given(backend):
    points = tiny_tokens(11, 7, 3)[0]
    with use_backend(backend):
        kinds = ("log_distance", "riesz", "riesz")
        stats = F.pair_stats(points, None, "classes", kinds)[0]
        given = F.pair_stats(points, None, "classes", kinds, (None, 5, 3))[0]
    assert torch.equal(stats[:2], given[:2])
    assert not torch.equal(stats[2], given[2])
    # s times the logarithm of a distance.
    assert stats[1, 3:5].tolist() == pytest.approx((5 * stats[0, 3:5]).tolist(), rel=2 * EPS)


@pytest.mark.parametrize(
    ("width", "power", "message"),
    [
        (2, None, r"the power of riesz is 0, D - 2 of points \[V, 2\]; expected an integer from 1"),
        (1, None, r"the power of riesz is -1, D - 2 of points \[V, 1\]"),
        (9, 0, r"the power of riesz is 0; expected an integer from 1 to 16777216"),
        (9, 2.0, r"the power of riesz is 2\.0; expected an integer"),
        (9, 2**24 + 1, r"the power of riesz is 16777217; expected an integer"),
    ],
)
def test_powers_that_are_none(width, power, message):
    with pytest.raises(ValueError, match=f"pair_stats: {message}"):
        energies(torch.eye(width), power)


# -- what no float holds


@pytest.mark.parametrize("power", [3, 766, 4094, 2**24])
def test_energies_beyond_every_float(backend, power):
    # Eight directions in pairs 1e-3 apart: of 28 pairs four decide, with energies up to e^1.1e8.
    angles = torch.arange(4, dtype=torch.float64)[:, None] + torch.tensor([0.0, 1e-3]).double()
    angles = angles.flatten()
    points = torch.stack([angles.cos(), angles.sin()], 1).float()
    pairs = definition.Pairs(
        torch.float64, points, None, "none", ("riesz",), (power,), None, None, None
    )
    _, total, squares = pairs.sums(0)
    with use_backend(backend):
        stats, _ = energies(points, power)
    assert stats.isfinite().all()
    # What rounding leaves of a distance, a share of it, is s times as much of its energy.
    room = power * 1e-4
    assert stats[1].item() == pytest.approx(total.item(), abs=room)
    assert stats[2].item() == pytest.approx(squares.item(), abs=2 * room)


@pytest.mark.parametrize("scale", [1e-36, 1e-18, 1e-6, 1.0, 1e6, 1e18, 1e36])
def test_energies_are_of_directions_at_any_scale(backend, scale):
    # |a|^2 has to be a float: a loss or a metric scales what is not (ncfast.geometry, unit_scale).
    points = torch.tensor([[3.0, 0.0], [0.0, 4.0], [-5.0, 0.0], [1.0, 1.0]])
    room = math.sqrt(torch.finfo(torch.float32).max)
    wide = backend == "reference"
    if not (wide or 1 / room < scale < room / 8):
        pytest.skip("the squared norm is no float32: see tests/losses/test_extremes.py")
    with use_backend(backend):
        found, same = energies((points * scale).double() if wide else points * scale, 2)
        expected, _ = energies(points.double() if wide else points, 2)
    assert same == 0
    assert found.tolist() == pytest.approx(expected.tolist(), rel=8 * EPS)


# -- pairs that are none, and ties


def test_coincident_points_have_no_energy(backend):
    points = torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    points.requires_grad_()
    with use_backend(backend):
        stats, same = energies(points, 2)
        gradient = torch.autograd.grad(stats[1], points)[0]
    # Two have one direction, and three pairs a point at the center.
    assert (stats[0].item(), same) == (2, 4)
    assert stats[1].item() == pytest.approx(0.0, abs=2 * EPS)  # twice an energy of 1/2
    assert gradient.isfinite().all()
    assert not gradient[3].any()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_without_a_pair_the_sums_are_logarithms_of_zero(backend, count):
    points = torch.ones(count, 5, requires_grad=True)
    with use_backend(backend):
        stats, same = energies(points)
        gradient = torch.autograd.grad(stats[1], points)[0]
    assert stats[[0, 1, 2, 5]].tolist() == [0.0, -math.inf, -math.inf, 0.0]
    assert stats[3:5].isnan().all()
    assert same == (count == 2)
    assert not gradient.any()


def test_ties_share_the_gradient(backend):
    # All pairs of a simplex are as near: each is one in six of the sum.
    points = torch.eye(4, requires_grad=True)
    with use_backend(backend):
        total = energies(points, 6)[0][1]
        gradient = torch.autograd.grad(total, points)[0]
    # d/da of -s log |a - b|, along a circle: -s/2 (a - b)/|a - b|^2, three times, of six.
    expected = 6 / 6 * 0.5 * (torch.ones(4, 4) - torch.eye(4))
    assert (gradient - expected).abs().max() <= 8 * EPS


@in_float64
def test_a_step_against_the_gradient_spreads_the_points(backend):
    points = tiny_tokens(17, 9, 5, torch.float64)[0].requires_grad_()
    with use_backend(backend):
        before = energies(points, None, "classes")[0][1]
        gradient = torch.autograd.grad(before, points)[0]
        after = energies((points - 1e-3 * gradient).detach(), None, "classes")[0][1]
    assert after < before


def test_gradients_where_energies_leave_every_float(backend):
    points = tiny_tokens(12, 9, 5)[0]
    args = (points, None, "none", ("riesz",), (700,), None)
    upstream = {2: torch.tensor([0.3, -0.2])}
    contract = definition.TestPairStats()
    leaves = contract.leaves(args)
    with use_backend(backend):
        found = contract.gradients(leaves, contract.call(*leaves), upstream)
    assert found[0].any()
    contract.assert_gradients(args, found, upstream)


def test_histograms_are_of_logarithms(backend):
    points = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    edges = torch.tensor([[-3.0, -2.0, -1.0, 0.0]]).double()
    with use_backend(backend):
        # -s/2 log 2 twice, -s/2 log 4 once
        counts = F.pair_stats(points, None, "none", ("riesz",), (4,), edges=edges)[1]
    assert counts.tolist() == [[1, 2, 0]]

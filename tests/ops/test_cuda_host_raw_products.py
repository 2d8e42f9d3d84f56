"""Products of 16-bit rows as they are, or less their center: which of the two the device chooses.

Rows with columns apart cannot be copied as 16-byte words and are always multiplied less their
center, by the kernel that 16-bit rows fall back on: what that kernel made has the same bits.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import ncfast.functional as F
from ncfast import use_backend
from ncfast.testing import Sample

from . import test_nearest_center as centers
from . import test_pair_stats as pairs
from .test_pair_stats_accuracy import assert_columns

pytestmark = pytest.mark.usefixtures("cuda_host")
NARROW = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


def spread(count: int, width: int, away: float, dtype: torch.dtype, seed: int = 5) -> Tensor:
    """Return points around a center whose square is ``away`` times their mean squared distance."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, width, generator=generator)
    center = torch.randn(width, generator=generator)
    points += center / center.norm() * (away * width) ** 0.5
    return points.to(dtype)


def columns_apart(points: Tensor) -> Tensor:
    return points.repeat_interleave(2, 1)[:, ::2]


def arguments(points: Tensor) -> tuple:
    center = points.double().mean(0).float()
    variances = torch.linspace(0.5, 1.5, len(points))
    return points, variances, center, pairs.KINDS, None, (0.0, 0.1, 0.0, 0.0)


def outputs(args: tuple) -> list[Tensor]:
    """Return outputs and gradients, the latter compared with those of plain torch."""
    contract = pairs.TestPairStats()
    leaves = contract.leaves(args)
    with use_backend("cuda-host"):
        out = list(contract.call(*leaves))
        upstream = contract.upstream(out)
        gradients = contract.gradients(leaves, out, upstream)
    contract.assert_gradients(args, gradients, upstream)
    return [*out, *gradients.values()]


@NARROW
@pytest.mark.parametrize(("away", "raw"), [(0.2, True), (30.0, False)])
def test_a_center_that_dominates_is_subtracted_first(away, raw, dtype):
    args = arguments(spread(150, 136, away, dtype))
    with use_backend("cuda-host"):
        assert_columns(F.pair_stats(*args)[0], args, torch.float32)
    found = outputs(args)
    centred = outputs((columns_apart(args[0]), *args[1:]))
    same = [torch.equal(a, b) for a, b in zip(found, centred, strict=True)]
    # Among them sums of cosines, and the gradient of the center: one made of products by each pass.
    assert (same[6], same[12], all(same)) == (not raw, not raw, not raw)


@NARROW
@pytest.mark.parametrize(("width", "away"), [(256, 0.6), (1024, 0.3)])
def test_error_of_raw_products_near_the_limit(width, away, dtype):
    args = arguments(spread(130, width, away, dtype))
    with use_backend("cuda-host"):
        found = F.pair_stats(*args)[0]
        centred = F.pair_stats(columns_apart(args[0]), *args[1:])[0]
    assert not torch.equal(found, centred)
    assert_columns(found, args, torch.float32)


@pytest.mark.parametrize(("width", "away", "raw"), [(256, 0.5, True), (1024, 0.7, False)])
def test_longer_rows_allow_less_of_a_center(width, away, raw):
    """A cosine is about 1/sqrt(D), and so must be its error."""
    args = arguments(spread(40, width, away, torch.bfloat16))
    with use_backend("cuda-host"):
        found = F.pair_stats(*args)[0]
        centred = F.pair_stats(columns_apart(args[0]), *args[1:])[0]
    assert torch.equal(found, centred) != raw


@pytest.mark.parametrize(("inner", "raw"), [(1, True), (2, False)])
def test_pairs_of_few_points_near_the_center_are_found_from_differences(inner, raw):
    """One of 1,024 may be there; 1,030 points make squares of tiles on and off the diagonal."""
    points = spread(1030, 64, 0.2, torch.bfloat16)
    center = points.double().mean(0).float()
    points[7 : 7 + inner] = (center + 1e-2 * points[:inner].float()).bfloat16()
    args = (points, None, center, ("cosine", "log_distance"), None, (0.0, 0.0))
    with use_backend("cuda-host"):
        found = F.pair_stats(*args)[0]
        centred = F.pair_stats(columns_apart(points), *args[1:])[0]
    assert torch.equal(found, centred) != raw
    assert_columns(found, args, torch.float32)


@pytest.mark.parametrize("place", [7, 1029])
def test_a_point_all_but_at_the_center_comes_first_or_second(place):
    """Of pairs (i, j > i) one point is mostly i, the last always j: either may be far off."""
    points = spread(1030, 64, 0.2, torch.bfloat16)
    points[place] = points.double().mean(0).bfloat16()
    center = points[place].float() + 1e-4 * points[0].float()
    args = (points, None, center, ("cosine", "log_distance"), None, (0.0, 0.0))
    with use_backend("cuda-host"):
        assert_columns(F.pair_stats(*args)[0], args, torch.float32)


@NARROW
@pytest.mark.parametrize(("away", "raw"), [(0.3, True), (30.0, False)])
def test_nearest_center(away, raw, dtype):
    x, means = spread(61, 136, away, dtype, seed=6), spread(150, 136, away, dtype, seed=6)
    centers.TestNearestCenter().test_agreement("cuda-host", Sample("narrow", (x, means, None)))
    with use_backend("cuda-host"):
        found = F.nearest_center(x, means)
        centred = F.nearest_center(columns_apart(x), columns_apart(means))
    assert torch.equal(found[0], centred[0])
    assert torch.equal(found[1], centred[1]) != raw

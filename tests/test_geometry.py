"""geometry: exact forms against the pairs themselves, on both sides of where they cancel."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ncfast import geometry
from ncfast.geometry import Rows, cosine_moments, mean_squared_distance, simplex_error
from ncfast.spectrum import spectrum


def simplex(classes: int, width: int, noise: float = 0.0, seed: int = 0) -> Tensor:
    """Return [K, D] vertices of a rotated regular simplex, K <= D + 1, moved by noise."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.eye(classes, dtype=torch.float64) - 1 / classes
    basis = torch.linalg.svd(corners).U[:, : classes - 1]
    rotation = torch.linalg.qr(torch.randn(width, width, generator=generator).double())[0]
    points = corners @ basis @ rotation[: classes - 1]
    shift = torch.randn(classes, width, generator=generator).double()
    return points + noise * shift


def rows_of(points: Tensor, center: Tensor | None = None) -> Rows:
    return Rows(points, torch.arange(points.shape[0]), center)


def directly(points: Tensor) -> tuple[float, float, float]:
    """Return mean and std of cosines, and the simplex error, from K x K matrices.

    Gaps are taken before they are squared, which is good to rounding on both sides.
    """
    count = points.shape[0]
    unit = points / points.norm(dim=1, keepdim=True)
    i, j = torch.triu_indices(count, count, 1)
    cosines = (unit[i] * unit[j]).sum(1)
    gram = points @ points.T
    ideal = (torch.eye(count).double() - 1 / count) / math.sqrt(count - 1)
    std = float(cosines.std()) if cosines.numel() > 1 else math.nan
    return float(cosines.mean()), std, float((gram / gram.norm() - ideal).norm())


@pytest.mark.parametrize("noise", [1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-8, 1e-12])
@pytest.mark.parametrize(("classes", "width"), [(9, 8), (5, 8), (3, 40)])
def test_near_collapse(noise, classes, width):
    points = simplex(classes, width, noise)
    mean, std, error = directly(points)
    rows = rows_of(points)
    gram = rows.gram()
    assert cosine_moments(rows) == pytest.approx((mean, std), rel=1e-8, abs=1e-15)
    assert simplex_error(rows, rows, gram, gram) == pytest.approx(error, rel=1e-8, abs=1e-15)


@pytest.mark.parametrize("noise", [3e-1, 1e-2, 3e-3])
def test_both_forms_agree_where_both_are_good(noise, monkeypatch):
    rows = rows_of(simplex(9, 8, noise))
    gram = rows.gram()

    def both() -> tuple[float, float]:
        return cosine_moments(rows)[1], simplex_error(rows, rows, gram, gram)

    visited = []
    real = geometry._squared_simplex_error
    monkeypatch.setattr(
        geometry, "_squared_simplex_error", lambda *a: visited.append(1) or real(*a)
    )
    closed = both()
    assert not visited
    monkeypatch.setattr(geometry, "CANCELS", math.inf)
    assert both() == pytest.approx(closed, rel=1e-8)
    assert visited == [1]


def test_what_the_closed_form_alone_would_say(monkeypatch):
    """At noise 1e-9 it is off by more than the value: the switch has its reason."""
    points = simplex(9, 8, 1e-9)
    rows, error = rows_of(points), directly(points)[2]
    gram = rows.gram()
    monkeypatch.setattr(geometry, "CANCELS", 0.0)
    monkeypatch.setattr(geometry, "_squared_simplex_error", lambda *a: 0.0)
    closed = simplex_error(rows, rows, gram, gram)
    assert abs(closed - error) > error / 2


def test_more_classes_than_a_tile(monkeypatch):
    monkeypatch.setattr(geometry, "TILE", 7)
    monkeypatch.setattr(geometry, "ROWS", 5)
    test_near_collapse(1e-6, 33, 40)


@pytest.mark.parametrize(("classes", "width"), [(200, 6), (50, 40), (7, 40), (3, 3), (2, 5)])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_general_points(classes, width, offset):
    """An offset of 1e4 makes all directions nearly one: cosines are 1 to eight digits."""
    generator = torch.Generator().manual_seed(classes)
    points = torch.randn(classes, width, generator=generator, dtype=torch.float64) + offset
    mean, std, error = directly(points)
    rows = rows_of(points)
    gram = rows.gram()
    found_mean, found_std = cosine_moments(rows)
    assert found_mean == pytest.approx(mean, rel=1e-12)
    # The direct std loses digits at 1 - 1e-8 itself: its cosines are rounded to 1e-16.
    assert found_std == pytest.approx(std, rel=1e-6, abs=1e-15, nan_ok=True)
    assert simplex_error(rows, rows, gram, gram) == pytest.approx(error, rel=1e-9)
    i, j = torch.triu_indices(classes, classes, 1)
    squared = float((points[i] - points[j]).square().sum(1).mean())
    centred = rows_of(points, points.mean(0))
    assert mean_squared_distance(centred, centred.gram()) == pytest.approx(squared, rel=1e-9)


def test_one_direction_needs_no_visit(monkeypatch):
    """Rounding is all that differs: at 30,522 classes a visit would take half a minute for it."""
    monkeypatch.setattr(geometry, "_variance_of_cosines", lambda *a: pytest.fail("visited"))
    points = torch.tensor([[1.0, 3.0, -7.0]]).repeat(999, 1) * torch.arange(1, 1000)[:, None]
    assert cosine_moments(rows_of(points)) == pytest.approx((1, 0), abs=1e-13)


def test_zero_rows_have_no_direction():
    points = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    cosines = torch.tensor([0, 0, 0, 0, 0.5**0.5, 0.5**0.5], dtype=torch.float64)
    expected = (float(cosines.mean()), float(cosines.std()))
    assert cosine_moments(rows_of(points)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("classes", [0, 1])
def test_too_few_rows(classes):
    rows = rows_of(torch.ones(classes, 3))
    gram = rows.gram()
    assert all(map(math.isnan, cosine_moments(rows)))
    assert math.isnan(simplex_error(rows, rows, gram, gram))
    assert math.isnan(mean_squared_distance(rows, gram))


@pytest.mark.parametrize(
    ("classes", "width", "rank"), [(50, 6, 6), (7, 6, 6), (6, 6, 5), (4, 9, 3)]
)
def test_spectrum_against_the_pseudo_inverse(classes, width, rank):
    """K > D + 1, K = D + 1 (both full rank) and K <= D, from float32 means."""
    generator = torch.Generator().manual_seed(3)
    points = torch.randn(classes, width, generator=generator) + 5
    centred = points.double() - points.double().mean(0)
    rows = rows_of(points, points.double().mean(0))
    gram = rows.gram()
    found = spectrum(rows, gram)
    assert found.rank == rank
    inverse = (found.vectors / found.values) @ found.vectors.T
    expected = torch.linalg.pinv(centred.T @ centred / classes, hermitian=True, rtol=1e-12)
    assert torch.allclose(inverse, expected, rtol=1e-9, atol=1e-12)

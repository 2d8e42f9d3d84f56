"""UniformityRegularizer by its definition."""

from __future__ import annotations

import pytest
import torch

import ncfast.functional as F
from ncfast.losses import (
    UniformityRegularizer,
)
from tests.losses.test_terms import UNIFORMITY, D, V, data


@pytest.mark.parametrize("of", ["means", "head"])
@pytest.mark.parametrize("kind", UNIFORMITY)
def test_uniformity_by_its_definition(of, kind):
    x, y, w = data()
    points = F.class_moments(x, y, V)[1][:-1] if of == "means" else w
    if kind != "log_distance_raw":
        points = torch.nn.functional.normalize(points - points.mean(0))
    values = []
    for a in range(len(points)):
        for b in range(a + 1, len(points)):
            if kind == "equiangular":
                values.append((points[a] @ points[b] + 1 / (len(points) - 1)) ** 2)
            else:
                values.append(-(points[a] - points[b]).norm().log())
    expected = torch.stack(values).mean().item()
    if kind == "riesz":  # the logarithm of the mean of d^-(D - 2)
        expected = ((D - 2) * torch.stack(values)).exp().mean().log().item()
    term = UniformityRegularizer(V, D, None, of=of, kind=kind)
    found = term(*((x, y) if of == "means" else (None, None)), w)
    assert found.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert term.last["pairs"] == len(values)

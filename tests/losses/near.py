"""Class means and head rows that lie within their rounding, and terms of them by loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from ncfast.losses import UniformityRegularizer, WithinClassRegularizer

D, V = 24, 9

DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def twins(dtype: torch.dtype, offset: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return tokens of 8 classes and of a ninth: the first one's in another order.

    In half precision a tenth of their values are another by one step, as a model in it may give.
    """
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(80) % 8
    x = torch.randn(80, D, generator=g, dtype=torch.float64)
    x = (x + 2 * torch.randn(8, D, generator=g, dtype=torch.float64)[y] + offset).to(dtype)
    again = torch.randperm(10, generator=g)
    x, y = torch.cat([x, x[y == 0][again]]), torch.cat([y, torch.full((10,), 8)])
    if dtype == torch.bfloat16:
        step = torch.rand(10, D, generator=g) < 0.1
        x[80:] = torch.where(step, x[80:] * (1 + torch.finfo(dtype).eps), x[80:])
    order = torch.randperm(90, generator=g)
    return x[order], y[order]


def units(points: Tensor) -> Tensor:
    return torch.nn.functional.normalize(points - points.mean(0))


def by_loops(kind: str, means: Tensor, variances: Tensor, without: set[tuple[int, int]]) -> Tensor:
    """Return the definition of a term over all pairs but those."""
    directions, values = units(means), []
    for a, b in itertools.combinations(range(len(means)), 2):
        if (a, b) in without:
            continue
        if kind.startswith("cdnv"):
            square = (means[a] - means[b]).square().sum() ** int(kind[-1])
            values.append((variances[a] + variances[b]) / 2 / square)
        elif kind == "log_distance_raw":
            values.append(-(means[a] - means[b]).norm().log())
        else:
            values.append(-(directions[a] - directions[b]).norm().log())
    found = torch.stack(values)
    if kind == "riesz":
        return ((D - 2) * found).logsumexp(0) - math.log(len(values))
    return found.mean()


def moments(x: Tensor, y: Tensor, classes: int = V) -> tuple[Tensor, Tensor]:
    means = torch.stack([x[y == c].mean(0) for c in range(classes)])
    spread = torch.stack([(x[y == c] - means[c]).square().sum(1).mean() for c in range(classes)])
    return means, spread


def term_of(kind: str, **settings) -> WithinClassRegularizer | UniformityRegularizer:
    if kind.startswith("cdnv"):
        return WithinClassRegularizer(V, D, kind="cdnv", power=int(kind[-1]), **settings)
    return UniformityRegularizer(V, D, kind=kind, **settings)


def agree(found: Tensor, leaf: Tensor, expected: Tensor, exact: Tensor, tolerance: float) -> None:
    """Compare values, and gradients by their largest."""
    (grad,), (slope,) = (
        torch.autograd.grad(value, to) for value, to in ((found, leaf), (expected, exact))
    )
    assert float(found.detach()) == pytest.approx(
        float(expected.detach()), rel=tolerance, abs=tolerance
    )
    assert (grad.double() - slope).abs().max() <= 2 * tolerance * slope.abs().max()


KINDS = ("cdnv1", "cdnv2", "log_distance", "log_distance_raw", "riesz")

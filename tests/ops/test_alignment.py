"""alignment: the definition, directions that do not exist, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import ncfast.functional as F
from ncfast import DataError, use_backend
from ncfast.testing import tiny_tokens

from .backends import in_float64, said
from .contract import GradientContract


class TestAlignment(GradientContract):
    """The contract of every op."""

    op = "alignment"
    outputs = ("cosines",)
    differentiable = (0, 1, 2)
    deciding = (0, 1)

    @staticmethod
    def plain(
        dtype: torch.dtype,
        head_weight: Tensor,
        points: Tensor,
        center: Tensor | str,
        index: Tensor | None,
    ) -> tuple[Tensor]:
        w, p = (t.to(dtype) if index is None else t.to(dtype)[index] for t in (head_weight, points))
        if isinstance(center, str):
            origin = p.sum(0) / max(len(p), 1) if center == "classes" else 0.0
        else:
            origin = center.to(dtype)
        q = p - origin
        squares = w.square().sum(1) * q.square().sum(1)
        defined = squares > 0
        scale = torch.where(defined, squares, 1).sqrt()
        return (torch.where(defined, (w * q).sum(1) / scale, 0),)

    @classmethod
    def gradient_scale(cls, args, upstream, position):
        # A row's gradient is the difference of two vectors of length |g| / |row|, which cancel
        # where a point and its head row are parallel, as they always are at width 1.
        rows = [a.double() if args[3] is None else a.double()[args[3]] for a in args[:2]]
        if isinstance(args[2], Tensor):
            rows[1] = rows[1] - args[2].double()
        elif args[2] == "classes":
            rows[1] = rows[1] - rows[1].mean(0)
        norms = rows[min(position, 1)].norm(dim=1)
        reach = torch.where(norms > 0, upstream[0].double().abs() / norms, 0)
        if not len(reach):
            return 0.0
        return float(reach.sum() if position == 2 else reach.max())

    @staticmethod
    def sized(n: int) -> tuple[Tensor, Tensor, str, None]:
        return tiny_tokens(n, 13, 7)[0], tiny_tokens(n, 13, 7, seed=1)[0], "classes", None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_definition_on_integers(backend, dtype):
    # Products and squared norms are whole: a root and a division are all that may round.
    head = [[3, 4, 12], [12, 3, 4], [1, 0, 0], [0, -4, 3]]
    points = [[4, 5, 13], [-2, -1, 0], [4, -11, -2], [1, 1, 1]]
    center, index = [1, 1, 1], [2, 0, 3, 1]
    expected = []
    for k in index:
        dot = head_square = point_square = 0
        for d in range(3):
            q = points[k][d] - center[d]
            dot += head[k][d] * q
            head_square += head[k][d] ** 2
            point_square += q**2
        norms = math.sqrt(head_square * point_square)
        expected.append(dot / norms if norms else 0.0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    with use_backend(backend):
        found = F.alignment(
            torch.tensor(head, dtype=dtype),
            torch.tensor(points, dtype=dtype),
            torch.tensor(center, dtype=wide),
            torch.tensor(index),
        )
    assert found.dtype == wide
    assert found[2] == 0.0  # the point at the center has no direction
    exact = torch.tensor(expected, dtype=torch.float64)
    assert (found.double() - exact).abs().max() <= 2 * torch.finfo(wide).eps


@in_float64
def test_invariances(backend):
    w = tiny_tokens(53, 13, 7, torch.float64)[0]
    p = tiny_tokens(53, 13, 7, torch.float64, seed=1)[0]
    order = torch.randperm(53)
    rotation = torch.linalg.qr(torch.randn(13, 13, dtype=torch.float64))[0]
    scales = torch.rand(53, 1, dtype=torch.float64) + 0.1
    with use_backend(backend):
        cosines = F.alignment(w, p)
        same = [
            F.alignment(w[order], p[order])[torch.argsort(order)],
            F.alignment(w, p, index=order)[torch.argsort(order)],
            F.alignment(w * scales, p * 3 + 2.5),
            F.alignment(w @ rotation, p @ rotation),
            F.alignment(w, p, p.mean(0)),
            -F.alignment(-w, p),
        ]
    for other in same:
        assert (other - cosines).abs().max() <= 1e-13


def test_a_direction_that_does_not_exist(backend):
    w, p = tiny_tokens(5, 3, 5)[0], tiny_tokens(5, 3, 5, seed=1)[0]
    w[1], p[3] = 0, 0.5
    leaves = w.requires_grad_(), p.requires_grad_(), torch.full((3,), 0.5, requires_grad=True)
    with use_backend(backend):
        cosines = F.alignment(*leaves)
        gradients = torch.autograd.grad(cosines.sum(), leaves)
    assert cosines[[1, 3]].tolist() == [0.0, 0.0]
    for gradient in gradients[:2]:
        assert gradient[[1, 3]].tolist() == [[0.0] * 3] * 2
        assert gradient[[0, 2, 4]].all()


@in_float64
def test_gradient_is_orthogonal_to_its_row(backend):
    w = tiny_tokens(23, 13, 7, torch.float64)[0].requires_grad_()
    p = tiny_tokens(23, 13, 7, torch.float64, seed=1)[0]
    index = torch.tensor([4, 20, 1])
    with use_backend(backend):
        gradient = torch.autograd.grad(F.alignment(w, p, index=index).std(), w)[0]
    assert (gradient * w).sum(1).abs().max() <= 1e-15
    outside = torch.ones(23, dtype=torch.bool)
    outside[index] = False
    assert not gradient[outside].any()
    assert gradient[index].any(1).all()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([0, 2, 0], r"index\[2\] is 0 for the second time; expected distinct rows"),
        ([1, 1, 3], r"index\[1\] is 1 for the second time; expected distinct rows"),
        ([0, 3], r"index\[1\] is 3; expected a row in \[0, 3\)"),
        ([1, -1], r"index\[1\] is -1; expected a row in \[0, 3\)"),
    ],
)
@pytest.mark.parametrize("center", ["none", "classes"])
def test_refuses_values(backend, center, index, message):
    with (
        use_backend(backend),
        pytest.raises(DataError, match=f"alignment: {said(backend, message)}"),
    ):
        F.alignment(torch.ones(3, 2), torch.ones(3, 2), center, torch.tensor(index))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"points": torch.ones(3)}, ValueError, r"points is .*\(3,\)"),
        ({"points": torch.ones(3, 2).long()}, TypeError, "points is torch.int64"),
        ({"head_weight": torch.ones(4, 2)}, ValueError, r"head_weight is .*\(4, 2\).*\[3, 2\]"),
        ({"head_weight": torch.ones(3, 2, device="meta")}, ValueError, "head_weight is .* meta"),
        ({"head_weight": 3}, TypeError, "head_weight is a int"),
        ({"index": torch.ones(3)}, TypeError, "index is torch.float32"),
        ({"index": torch.ones(1, device="meta").long()}, ValueError, "index is .* meta"),
        ({"center": "mean"}, ValueError, "center is 'mean'; expected 'classes', 'none'"),
        ({"center": torch.zeros(3)}, ValueError, r"center is .*\(3,\)"),
        ({"center": torch.zeros(2).double()}, TypeError, "center is torch.float64"),
    ],
)
def test_refuses_shapes_dtypes_and_devices(arguments, error, message):
    good = {"head_weight": torch.ones(3, 2), "points": torch.ones(3, 2)}
    with pytest.raises(error, match=f"alignment: {message}"):
        F.alignment(**{**good, **arguments})

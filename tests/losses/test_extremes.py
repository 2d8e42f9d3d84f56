"""Features and heads whose squares no float32 holds: cosines, gradients, terms and choices."""

from __future__ import annotations

import math

import pytest
import torch

import ncfast.functional as F
from ncfast import DataError, use_backend
from ncfast.losses import DualityRegularizer, UniformityRegularizer, WithinClassRegularizer
from ncfast.testing import tiny_tokens

from ..ops.backends import EVERY, said

V, D = 7, 5
SCALES = [1e-36, 1e-30, 1e-20, 1e20, 1e30, 1e36]


@pytest.fixture(params=EVERY)
def backend(request) -> str:
    """Name a backend; the kernels of GPUs are among them."""
    if request.param == "cuda-host":
        request.getfixturevalue("cuda_host")
    return request.param


def check_cosines(backend: str, scale: float) -> None:
    w, p = tiny_tokens(V, D, V)[0], tiny_tokens(V, D, V, seed=1)[0]
    exact = [t.double().requires_grad_() for t in (w, p)]
    with use_backend("reference"):
        expected = F.alignment(*exact, center="none")
        slopes = torch.autograd.grad(expected.sum(), exact)
    for a, b in ((scale, 1.0), (1.0, scale), (scale, scale), (scale, 1 / scale)):
        leaves = [(w * a).requires_grad_(), (p * b).requires_grad_()]
        with use_backend(backend):
            found = F.alignment(*leaves, center="none")
            grads = torch.autograd.grad(found.sum(), leaves)
        assert (found - expected).abs().max() <= 1e-6
        for grad, slope, by in zip(grads, slopes, (a, b), strict=True):
            error = (grad.double() * by - slope).abs().max()
            assert error <= 1e-5 * slope.abs().max(), (a, b)


@pytest.mark.parametrize("scale", SCALES)
def test_cosines_depend_on_no_scale(backend, scale):
    check_cosines(backend, scale)


def test_a_cosine_keeps_its_bits_beside_rows_that_are_scaled(backend):
    w, p = tiny_tokens(8, 300, V)[0], tiny_tokens(8, 300, V, seed=1)[0]
    with use_backend(backend):
        plain = F.alignment(w, p, center="none")
        w[5] *= 1e-30
        beside = F.alignment(w, p, center="none")
    others = torch.arange(8) != 5
    assert torch.equal(beside[others], plain[others])
    assert float(beside[5]) == pytest.approx(float(plain[5]), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_to_the_center_depend_on_its_scale_alone(backend, dtype):
    # Powers of two: what is scaled holds the same digits, and so do the gradients.
    w, p = tiny_tokens(V, D, V, dtype)[0], tiny_tokens(V, D, V, dtype, seed=1)[0]
    c = tiny_tokens(1, D, 1, seed=2)[0][0]
    results = []
    for a, b in ((1.0, 1.0), (2.0**100, 2.0**-90), (2.0**-100, 2.0**90)):
        leaves = [(w * a).requires_grad_(), (p * b).requires_grad_(), (c * b).requires_grad_()]
        with use_backend(backend):
            found = F.alignment(*leaves)
            grads = torch.autograd.grad(found.sum(), leaves)
        results.append(
            [found.detach(), *(g.float() * by for g, by in zip(grads, (a, b, b), strict=True))]
        )
    for other in results[1:]:
        for same, one in zip(other, results[0], strict=True):
            assert (same - one).abs().max() <= 1e-6 * max(1.0, float(one.detach().abs().max()))


def test_cosines_of_the_largest_and_the_smallest_values(backend):
    most, least = torch.finfo(torch.float32).max, 2.0**-149
    for a, b in ((most, most), (most, least), (least, most), (least, least), (most, 1.0)):
        w, p = torch.tensor([[a, a, -a, a]]), torch.tensor([[b, b, b, b]])
        with use_backend(backend):
            assert F.alignment(w, p, "none").tolist() == pytest.approx([0.5], abs=1e-6)
            assert F.alignment(w, p * 0, "none").tolist() == [0.0]


def test_alignment_rejects_differences_that_overflow(backend):
    w, p, c = torch.ones(3, 2), torch.zeros(3, 2), torch.zeros(2)
    p[1, 0], c[0] = 3e38, -3e38
    with use_backend(backend):
        with pytest.raises(DataError, match=r"alignment: .*overflow"):
            F.alignment(w, p, c)
        assert F.alignment(w, p, c, torch.tensor([2, 0])).isfinite().all()


def check_nonfinite(backend: str) -> None:
    for name, place in (
        ("head_weight", r"\[2, 1\]"),
        ("points", r"\[2, 1\]"),
        ("center", r"\[1\]"),
    ):
        for value in (math.nan, math.inf):
            w, p, c = torch.randn(V, D), torch.randn(V, D), torch.randn(D)
            {"head_weight": w[2], "points": p[2], "center": c}[name][1] = value
            with use_backend(backend):
                message = rf"alignment: {name}{place} is (nan|inf)"
                with pytest.raises(
                    DataError, match=f"^{said(backend, message)}[^;]*; expected[^;]*$"
                ):
                    F.alignment(w, p, c, torch.tensor([4, 2]))
                if name != "center":  # the row is not visited
                    assert F.alignment(w, p, c, torch.tensor([4, 3])).isfinite().all()


def test_alignment_rejects_what_is_not_finite(backend):
    check_nonfinite(backend)


def check_overflow(backend: str) -> None:
    x, w = torch.full((2, 2), 1e20), torch.tensor([[1e19, 1e19], [2e19, 2e19]])
    for function, name in ((F.linear_argmax, "linear_argmax"), (F.nearest_center, "nearest")):
        with use_backend(backend), pytest.raises(DataError, match=rf"{name}.*overflow"):
            function(x, w)
    with use_backend(backend):
        assert F.linear_argmax(x * 1e-3, w)[0].tolist() == [1, 1]


def test_scores_that_overflow_choose_nothing(backend):
    check_overflow(backend)


TERMS = {
    "nc3": (DualityRegularizer, {}, 0),
    "quotient": (WithinClassRegularizer, {"kind": "quotient"}, 0),
    "cdnv": (WithinClassRegularizer, {"kind": "cdnv"}, 0),
    "trace": (WithinClassRegularizer, {"kind": "trace"}, 2),
    "log_distance": (UniformityRegularizer, {}, 0),
    "equiangular": (UniformityRegularizer, {"kind": "equiangular"}, 0),
    "riesz": (UniformityRegularizer, {"kind": "riesz"}, 0),
}


@pytest.mark.parametrize("means", ["batch", "ema"])
@pytest.mark.parametrize("name", TERMS)
def test_terms_of_small_and_large_features(backend, name, means):
    kind, settings, degree = TERMS[name]
    x, y, w = tiny_tokens(60, D, V)[0], torch.arange(60) % V, tiny_tokens(V, D, V, seed=1)[0]
    for scale in (2.0**-66, 1.0, 2.0**50):
        results = []
        for by in (1.0, scale):
            leaf = (x * by).requires_grad_()
            with use_backend(backend):
                value = kind(V, D, means=means, **settings)(leaf, y, w)
                results.append((value, *torch.autograd.grad(value, leaf)))
        (plain, slope), (found, grad) = results
        # Squares of 1e-20 keep some four digits in float32.
        tolerance = 1e-3 if scale < 1 else 1e-5
        expected = float(plain) * scale**degree
        assert float(found) == pytest.approx(expected, rel=tolerance)
        error = (grad.double() / scale ** (degree - 1) - slope).abs().max()
        assert error <= tolerance * slope.abs().max()


@pytest.mark.parametrize(
    "kind", [WithinClassRegularizer, UniformityRegularizer, DualityRegularizer]
)
def test_features_that_are_all_alike_or_zero(kind):
    y, w = torch.arange(12) % 4, torch.randn(4, 3)
    for x in (torch.zeros(12, 3), torch.full((12, 3), 1e-20), torch.full((12, 3), 1e-45)):
        leaf = x.clone().requires_grad_()
        value = kind(4, 3)(leaf, y, w)
        (grad,) = torch.autograd.grad(value, leaf)
        assert value.isfinite()
        assert grad.isfinite().all()


@pytest.mark.parametrize("scale", SCALES)
def test_energies_depend_on_no_scale(backend, scale):
    head = tiny_tokens(V, D, V)[0]
    results = []
    for by in (1.0, scale):
        leaf = (head * by).requires_grad_()
        with use_backend(backend):
            value = UniformityRegularizer(V, D, of="head", kind="riesz")(None, None, leaf)
            results.append((value, *torch.autograd.grad(value, leaf)))
    (plain, slope), (found, grad) = results
    assert float(found) == pytest.approx(float(plain), rel=1e-5)
    assert (grad.double() * scale - slope).abs().max() <= 1e-5 * slope.abs().max()


@pytest.mark.parametrize("means", ["batch", "ema"])
@pytest.mark.parametrize("name", [name for name in TERMS if name != "trace"])
def test_small_features_of_float16(name, means):
    """Their scale would be 2^17, which float16 does not hold."""
    kind, settings, _ = TERMS[name]
    x, y, w = tiny_tokens(60, D, V)[0], torch.arange(60) % V, tiny_tokens(V, D, V, seed=1)[0]
    x = (x * 3e-6).half()
    values = []
    for features in (x, x.float()):
        leaf = features.clone().requires_grad_()
        value = kind(V, D, means=means, **settings)(leaf, y, w)
        (grad,) = torch.autograd.grad(value * 2.0**-10, leaf)  # slopes of 1e6 are Inf in float16
        values.append((float(value.detach()), grad))
    assert values[0][0] == pytest.approx(values[1][0], rel=1e-3)
    assert values[0][1].isfinite().all()
    assert (values[0][1].float() - values[1][1]).abs().max() <= 2e-3 * values[1][1].abs().max()


@pytest.mark.parametrize("kind", ["log_distance", "log_distance_raw", "equiangular", "riesz"])
def test_small_heads_of_float16(kind):
    """Rows of a few least steps are known to half a step: 2^-25 on every axis."""
    head = torch.randn(V, D, generator=torch.Generator().manual_seed(0)) * 3e-6
    head[0] = head[1]
    head[0, 0] += 2.0**-24
    head = head.half()
    term = UniformityRegularizer(V, D, of="head", kind=kind)
    leaf = head.clone().requires_grad_()
    value = term(None, None, leaf)
    (grad,) = torch.autograd.grad(value * 2.0**-10, leaf)
    assert value.isfinite()
    assert grad.isfinite().all()
    if kind == "log_distance_raw":
        rows, half = head.double(), math.sqrt(D) * 2.0**-25
        reach = ((rows.norm(dim=1) * 2**-11).square() + half**2).sqrt()
        gaps = torch.pdist(rows)
        i, j = torch.triu_indices(V, V, 1)
        far = gaps > reach[i] + reach[j]
        assert not far[0]
        assert term.last["pairs"] == far.sum()
        assert float(value.detach()) == pytest.approx(float(-gaps[far].log().mean()), rel=1e-5)


@pytest.mark.parametrize("half_life", [1e16, math.inf])
def test_a_half_life_that_forgets_nothing(half_life):
    x, y = tiny_tokens(60, D, V)[0], torch.arange(60) % V
    found = []
    for settings in ({"means": "ema", "half_life": half_life}, {"means": "running"}):
        term = UniformityRegularizer(V, D, **settings)
        found.append([term(part, y[:30]) for part in x.split(30)])
    assert found[0] == found[1]

"""linear_cross_entropy: the definition, shards, stored logits, tiles."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import ncfast.functional as F
from ncfast import use_backend
from ncfast.ops import linear_cross_entropy as op
from ncfast.testing import assert_matches, poison, rounding_floor, tiny_tokens

from .backends import in_float64
from .contract import GradientContract, threads


def pieces(dtype: torch.dtype, args) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits, and which labels are where (a row of False: ignored or elsewhere)."""
    x, head_weight, y, head_bias, softcap, vocab_start, _, _, vocab_size = args
    classes = min(len(head_weight), (vocab_size or vocab_start + len(head_weight)) - vocab_start)
    kept = y != -100
    x = torch.where(kept[:, None], x.to(dtype), 0)
    z = x @ head_weight[:classes].to(dtype).T
    if head_bias is not None:
        z = z + head_bias[:classes].to(dtype)
    if softcap:
        z = softcap * torch.tanh(z / softcap)
    return z, (y - vocab_start)[:, None] == torch.arange(classes), kept


class TestLinearCrossEntropy(GradientContract):
    """The contract of every op."""

    op = "linear_cross_entropy"
    outputs = ("nll", "lse")
    differentiable = (0, 1, 3)
    deciding = (0, 1)

    @staticmethod
    def plain(dtype: torch.dtype, *args) -> tuple[Tensor, Tensor]:
        z, own, kept = pieces(dtype, args)
        smoothing, size = args[6], args[8] or args[5] + len(args[1])
        lse = torch.where(kept, torch.logsumexp(z, 1), 0)
        target = (1 - smoothing) * torch.where(own, z, 0).sum(1) + smoothing / size * z.sum(1)
        return torch.where(kept, lse - target, 0), lse

    @classmethod
    def gradient_scale(cls, args, upstream, position):
        # p - onehot cancels where the label is all but certain, as it always is of one class.
        z, own, kept = pieces(
            torch.float64, [a.detach() if isinstance(a, Tensor) else a for a in args]
        )
        g = [upstream[k].double().abs() if k in upstream else 0.0 for k in (0, 1)]
        reach = torch.softmax(z, 1) * (g[0] + g[1])[:, None] + own * (g[0] + 0 * kept)[:, None]
        reach = reach * kept[:, None]
        x = torch.where(kept[:, None], args[0].double(), 0)
        terms = {
            0: lambda: reach @ args[1][: z.shape[1]].double().abs(),
            1: lambda: reach.T @ x.abs(),
        }
        sums = terms.get(position, lambda: reach.sum(0))()
        return float(sums.max()) if sums.numel() else 0.0

    @staticmethod
    def sized(n: int):
        x, y = tiny_tokens(n, 13, 23)
        return x, tiny_tokens(23, 13, 7, seed=1)[0], y, tiny_tokens(23, 1, 7, seed=2)[0][:, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_definition_on_integers(backend, dtype):
    x, head, bias = [[1, 2], [0, -1], [3, 1]], [[1, 0], [0, 1], [-1, 1]], [0, 1, -2]
    y, found, expected = [2, -100, 0], [], []
    for i in (0, 1, 2):
        z = [sum(x[i][d] * head[j][d] for d in range(2)) + bias[j] for j in range(3)]
        lse = math.log(sum(math.exp(value) for value in z))
        expected.append([0.0, 0.0] if y[i] < 0 else [lse - z[y[i]], lse])
    tensors = (torch.tensor(t, dtype=dtype) for t in (x, head))
    with use_backend(backend):
        nll, lse = F.linear_nll_lse(*tensors, torch.tensor(y), torch.tensor(bias, dtype=dtype))
    found = torch.stack([nll, lse], 1)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    error = (found.double() - torch.tensor(expected, dtype=torch.float64)).abs().max()
    assert error <= 4 * torch.finfo(found.dtype).eps * 4
    assert found[1].tolist() == [0, 0]


@in_float64
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_torch(backend, smoothing):
    x, y = tiny_tokens(131, 17, 61, torch.float64)
    head, bias = tiny_tokens(61, 17, 5, torch.float64, seed=3)[0], torch.randn(61).double()
    leaves = [t.requires_grad_() for t in (x, head, bias)]
    with use_backend(backend):
        nll, lse = F.linear_nll_lse(x, head, y, bias, label_smoothing=smoothing)
        # A z-loss: the gradient of lse is its own.
        ours = torch.autograd.grad(nll.sum() + 0.3 * lse.square().sum(), leaves)
    z = x @ head.T + bias
    loss = cross_entropy(z, y, reduction="sum", label_smoothing=smoothing)
    theirs = torch.autograd.grad(loss + 0.3 * (z.logsumexp(1) ** 2)[y >= 0].sum(), leaves)
    assert abs(float((nll.sum() - loss).detach())) <= 1e-11
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= 1e-11


@in_float64
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_shards_combine_to_the_whole(backend, smoothing):
    x, y = tiny_tokens(97, 11, 1103, torch.float64)
    head = tiny_tokens(1103, 11, 5, torch.float64, seed=3)[0]
    leaves = [t.requires_grad_() for t in (x, head)]
    with use_backend(backend):
        whole = F.linear_nll_lse(x, head, y, label_smoothing=smoothing)
        parts = [
            F.linear_nll_lse(
                x, rows, y, vocab_start=start, vocab_size=1103, label_smoothing=smoothing
            )
            for start, rows in ((0, head[:600]), (600, head[600:]))
        ]
        lse = torch.logsumexp(torch.stack([part[1] for part in parts]), 0)
        lse = torch.where(y >= 0, lse, 0)
        nll = lse - sum(part[1] - part[0] for part in parts)
        assert (nll - whole[0]).abs().max() <= 1e-12
        assert (lse - whole[1]).abs().max() <= 1e-12
        weights = torch.randn(2, 97, dtype=torch.float64)
        one = torch.autograd.grad((whole[0] * weights[0] + whole[1] * weights[1]).sum(), leaves)
        two = torch.autograd.grad((nll * weights[0] + lse * weights[1]).sum(), leaves)
    for a, b in zip(one, two, strict=True):
        assert (a - b).abs().max() <= 1e-11


def test_rows_that_pad_the_vocabulary_are_never_read(backend):
    x, y = tiny_tokens(61, 13, 523)
    head = tiny_tokens(640, 13, 5, seed=3)[0]
    head[523:] = math.nan
    head.requires_grad_()
    with use_backend(backend):
        padded = F.linear_nll_lse(x, head, y, vocab_size=523)
        plain = F.linear_nll_lse(x, head.detach()[:523], y)
        gradient = torch.autograd.grad(padded[0].sum(), head)[0]
    assert all(torch.equal(a, b) for a, b in zip(padded, plain, strict=True))
    assert not gradient[523:].any()
    assert gradient[:523].any(1).all()


def test_nothing_to_do_is_not_nan(backend):
    for tokens in (0, 7):
        x, head = torch.randn(tokens, 3), torch.randn(5, 3)
        leaves = [t.requires_grad_() for t in (x, head)]
        with use_backend(backend):
            nll, lse = F.linear_nll_lse(x, head, torch.full((tokens,), -100))
            gradients = torch.autograd.grad(nll.sum() + lse.sum(), leaves)
        assert not nll.any()
        assert not lse.any()
        assert not any(g.any() for g in gradients)


def test_classes_excluded_by_their_bias(backend):
    x, y = tiny_tokens(61, 13, 5)
    head, bias = tiny_tokens(1300, 13, 5, seed=3)[0], torch.zeros(1300)
    bias[5:] = -math.inf  # whole tiles of classes
    head.requires_grad_()
    with use_backend(backend):
        nll, lse = F.linear_nll_lse(x, head, y, bias)
        gradient = torch.autograd.grad(nll.sum(), head)[0]
        few = F.linear_nll_lse(x, head[:5], y)
    assert (nll - few[0]).abs().max() <= 1e-5
    assert torch.isfinite(lse).all()
    assert not gradient[5:].any()


def test_the_size_of_a_panel_changes_nothing_but_rounding(monkeypatch):
    x, y = tiny_tokens(1103, 7, 1303)
    head = tiny_tokens(1303, 7, 5, seed=3)[0]
    for dtype in (torch.float32, torch.bfloat16):
        leaves = [t.to(dtype).requires_grad_() for t in (x, head, torch.zeros(1303))]
        upstream = torch.randn(2, 1103)

        def gradients(budget: int, leaves=leaves, upstream=upstream) -> tuple[Tensor, ...]:
            nll, lse = F.linear_nll_lse(leaves[0], leaves[1], y, leaves[2], memory_budget=budget)
            return torch.autograd.grad([nll, lse], leaves, list(upstream))

        with use_backend("cpu"):
            whole = gradients(0)
            monkeypatch.setattr(op, "PANEL", (256, 512))
            panels = [gradients(0), gradients(3 << 20), gradients(1 << 30)]
            monkeypatch.undo()
        with use_backend("reference"):
            wide = [t.detach().double().requires_grad_() for t in leaves]
            truth = gradients(0, wide, upstream.double())
        for found in panels:
            for a, b, exact in zip(found, whole, truth, strict=True):
                floor = rounding_floor(exact, torch.float32, a.dtype)
                assert_matches(a, exact, b, floor=floor)


def test_memory_budget_is_kept(backend):
    x, y = tiny_tokens(61, 13, 1103)
    head = tiny_tokens(1103, 13, 5, seed=3)[0].requires_grad_()
    kept = int((y >= 0).sum())
    for budget, columns in (
        (0, 0),
        (4 * kept * 512 - 4, 0),
        (4 * kept * 700, 512),
        (1 << 30, 1103),
    ):
        with use_backend(backend), poison():
            logits = torch.ops.ncfast.linear_cross_entropy(
                x, head, y, None, 0.0, 0, 1103, 0.0, budget, True
            )[2]
        assert logits.numel() * 4 <= budget
        assert (
            logits.numel() * 4
            == F.linear_cross_entropy_bytes(61, 1103, 13, memory_budget=budget)["stored"]
        )
        z = (x @ head.T)[y >= 0][:, :columns].flatten()
        assert torch.allclose(logits[: z.numel()], z, atol=1e-5)
        assert not logits[z.numel() :].any()


@pytest.mark.parametrize(
    ("stored", "size"),
    [(torch.float32, (701, 67, 2003)), (torch.bfloat16, (333, 601, 1001))],
)
def test_tiles_of_full_size(stored, size):
    """Sizes at which one of the CPU's libraries is chosen: as exact, and the same bits."""
    tokens, width, classes = size
    x, y = tiny_tokens(tokens, width, classes)
    head, bias = tiny_tokens(classes, width, 5, seed=3)[0], torch.zeros(classes)
    leaves = [t.to(stored) for t in (x / width**0.5, head, bias)]
    upstream = torch.randn(2, tokens)

    def run(dtype: torch.dtype, loss, budget: int = 0) -> list[Tensor]:
        inputs = [t.to(dtype).requires_grad_() for t in leaves]
        settings = (0.0, 0, 0.0, budget, None)
        out = loss(inputs[0], inputs[1], y, inputs[2], *settings)
        given = list(upstream.to(out[0].dtype))
        return [*out, *torch.autograd.grad(list(out), inputs, given)]

    def plain(dtype: torch.dtype):
        return lambda *args: TestLinearCrossEntropy.plain(dtype, *args)

    truth, baseline = (run(t, plain(t)) for t in (torch.float64, torch.float32))
    baseline = [*baseline[:2], *(gradient.to(stored) for gradient in baseline[2:])]
    for budget in (0, 1 << 20, 1 << 30):
        results = []
        for count in (1, 2, 3):
            with threads(count), use_backend("cpu"):
                results.append(run(stored, F.linear_nll_lse, budget))
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
        for found, exact, base in zip(results[0], truth, baseline, strict=True):
            assert_matches(found.detach(), exact.detach(), base.detach())


def test_kept_logits_are_no_output_to_differentiate():
    x, y = tiny_tokens(5, 3, 4)
    head = torch.eye(4, 3, requires_grad=True)
    args = (x, head, y, None, 0.0, 0, 4, 0.0, 1 << 20, True)
    nll, lse, logits = torch.ops.ncfast.linear_cross_entropy(*args)
    assert nll.requires_grad
    assert lse.requires_grad
    assert not logits.requires_grad

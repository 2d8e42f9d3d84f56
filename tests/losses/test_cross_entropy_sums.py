"""Cross-entropy is of the tokens that count: its mean, its sums, and those of micro-batches."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from ncfast.losses import (
    cross_entropy_sums,
    linear_cross_entropy,
)
from tests.losses.test_terms import D, V, data


def test_cross_entropy_is_a_mean_over_what_counts():
    x, y, w = data()
    b = torch.randn(V, dtype=torch.float64)
    z = x @ w.T + b
    loss = linear_cross_entropy(x.view(4, 50, D), w, y.view(4, 50), linear_bias=b, z_loss=0.1)
    expected = cross_entropy(z, y) + 0.1 * z.logsumexp(1)[y >= 0].square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    sums = cross_entropy_sums(x, w, y, linear_bias=b, with_z=True)
    assert sums.tokens == (y >= 0).sum()
    assert ((sums.nll + 0.1 * sums.z) / sums.tokens).item() == pytest.approx(loss.item())
    assert linear_cross_entropy(x, w, torch.full_like(y, -100)).item() == 0
    with pytest.raises(ValueError, match="z_loss is -1"):
        linear_cross_entropy(x, w, y, z_loss=-1)


def test_cross_entropy_of_micro_batches_adds_up():
    x, y, w = data()
    count, w = (y >= 0).sum(), w.requires_grad_()
    whole = linear_cross_entropy(x, w, y)
    parts = [
        linear_cross_entropy(a, w, b, num_tokens=count)
        for a, b in zip(x.chunk(3), y.chunk(3), strict=True)
    ]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-12)
    one, many = (torch.autograd.grad(loss, w)[0] for loss in (whole, sum(parts)))
    assert (one - many).abs().max() <= 1e-14


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32])
def test_a_number_of_tokens_may_be_a_tensor(dtype):
    """Told where it is on the CPU; elsewhere, and while compiling, it is not waited for."""
    x, w, target = torch.ones(2, 3), torch.arange(12.0).reshape(4, 3), torch.tensor([0, 3])
    number = torch.tensor(5, dtype=dtype)
    expected = linear_cross_entropy(x, w, target, num_tokens=5)
    assert torch.equal(linear_cross_entropy(x, w, target, num_tokens=number), expected)
    on_meta = [tensor.to("meta") for tensor in (x, w, target)]
    assert linear_cross_entropy(*on_meta, num_tokens=number.to("meta")).shape == ()
    mapped = torch.func.vmap(lambda n: linear_cross_entropy(x, w, target, num_tokens=n))
    assert torch.equal(mapped(number[None])[0], expected)
    compiled = torch.compile(linear_cross_entropy, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x, w, target, num_tokens=number), expected)

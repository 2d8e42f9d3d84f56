"""Class means on compact slots: batch, exponential average, running sum; state and schedules."""

from __future__ import annotations

import warnings

import pytest
import torch

import ncfast.functional as F
from ncfast.losses import (
    ClassMeans,
    DualityRegularizer,
    LambdaSchedule,
    NoClassesWarning,
    WithinClassRegularizer,
)
from ncfast.testing import tiny_tokens

V, D, N = 11, 5, 240
IDS = [7, 2, 9, 4]


def batches(count: int, dtype: torch.dtype = torch.float64):
    x, y = tiny_tokens(N, D, V, dtype)
    return list(zip(x.chunk(count), y.chunk(count), strict=True))


def test_running_means_are_those_of_all_tokens():
    estimate = ClassMeans(V, D, IDS, means="running").double()
    for x, y in batches(6):
        moments = estimate(x, y)
    counts, means, _ = F.class_moments(*batches(1)[0], V)
    assert torch.equal(moments.counts, counts[IDS].double())
    assert (moments.means - means[IDS]).abs().max() <= 1e-14
    assert torch.equal(estimate.seen, counts[IDS])
    estimate.reset()
    x, y = batches(6)[2]
    assert torch.equal(estimate(x, y).means, ClassMeans(V, D, IDS)(x, y).means)


def test_exponential_average():
    estimate = ClassMeans(V, D, IDS, means="ema", half_life=2.0).double()
    totals, counts = torch.zeros(V, D, dtype=torch.float64), torch.zeros(V).double()
    for x, y in batches(6):
        moments = estimate(x, y)
        kept = y >= 0
        totals = totals * 0.5**0.5
        totals = totals.index_add(0, y[kept], x[kept])
        counts = counts * 0.5**0.5 + torch.bincount(y[kept], minlength=V)
    assert (moments.counts - counts[IDS]).abs().max() <= 1e-12
    assert (moments.means - (totals / counts[:, None])[IDS]).abs().max() <= 1e-13


def test_gradient_reaches_the_batchs_own_features_only():
    first, (x, y) = batches(2)
    for through, scale in (("full", 1.0), ("share", None)):
        estimate = ClassMeans(V, D, IDS, means="running", through=through).double()
        estimate(*first)
        x = x.detach().requires_grad_()
        moments = estimate(x, y)
        gradient = torch.autograd.grad(moments.means[1].sum(), x)[0]
        own = y == IDS[1]
        share = 1 / int(own.sum()) if scale else 1 / moments.counts[1].item()
        assert not gradient[~own].any()
        assert (gradient[own] - share).abs().max() <= 1e-15


def test_micro_batches_equal_one_batch():
    """With running sums, after the last of k micro-batches: state, value, and gradients.

    The last call's value and its gradient to the head are those of the one big batch; with
    ``through="share"`` so is its gradient to the last micro-batch's features. The sum over the
    calls is not: the earlier ones saw less.
    """
    w = tiny_tokens(V, D, 2, torch.float64, seed=3)[0].requires_grad_()
    results = []
    for parts in (1, 4):
        term = DualityRegularizer(V, D, IDS, means="running", through="share").double()
        for x, y in batches(parts):
            x = x.clone().requires_grad_()
            value = term(x, y, w)
        grads = torch.autograd.grad(value, (w, x))
        results.append([value.detach(), grads[0], grads[1][-N // 4 :], term.class_means.means])
    for one, many in zip(*results, strict=True):
        assert (one - many).abs().max() <= 1e-14


@pytest.mark.parametrize("means", ["batch", "ema", "running"])
def test_state_goes_through_a_checkpoint(means):
    w = tiny_tokens(V, D, 2, torch.float64, seed=3)[0]
    weight = LambdaSchedule(ramp=10)
    term = DualityRegularizer(V, D, IDS, means=means, weight=weight).double()
    *past, last = batches(4)
    for x, y in past:
        term(x, y, w)
    other = DualityRegularizer(V, D, IDS, means=means, weight=weight).double()
    other.load_state_dict(term.state_dict())
    assert torch.equal(other(*last, w), term(*last, w))
    assert other.report() == term.report()
    elsewhere = DualityRegularizer(V, D, [7, 2, 9, 4, 1], means=means).double()
    with pytest.raises(RuntimeError, match="the state is of 4 other classes"):
        elsewhere.load_state_dict(term.state_dict())
    other_kind = DualityRegularizer(V, D, IDS, means="ema" if means == "batch" else "batch")
    with pytest.raises(RuntimeError, match=r"the state keeps means of \d classes, this term, of"):
        other_kind.load_state_dict(term.state_dict())


def test_evaluation_changes_no_state():
    w = tiny_tokens(V, D, 2, torch.float64, seed=3)[0]
    term = DualityRegularizer(V, D, IDS, means="running").double()
    first, second = batches(2)
    term(*first, w)
    before = {name: t.clone() for name, t in term.state_dict().items()}
    value = term.eval()(*second, w)
    for name, tensor in term.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert torch.equal(term.train()(*second, w), value)


def test_min_count_leaves_rare_classes_out():
    x, y = batches(1)[0]
    counts = F.class_moments(x, y, V)[0]
    least = int(counts[IDS].sort().values[1]) + 1
    term = DualityRegularizer(V, D, IDS, min_count=least)
    term(x, y, tiny_tokens(V, D, 2, torch.float64)[0])
    assert term.last["classes"] == int((counts[IDS] >= least).sum()) < len(IDS)


def test_schedule():
    weight = LambdaSchedule(2.0, warmup=2, ramp=4, hold=3, decay=4, final=0.5)
    found = [weight.at(torch.tensor(call)).item() for call in range(14)]
    assert found == [0, 0, 0, 0.5, 1, 1.5, 2, 2, 2, 2, 1.625, 1.25, 0.875, 0.5]
    cosine = LambdaSchedule(2.0, hold=0, decay=4, shape="cosine")
    assert cosine.at(torch.tensor(2)).item() == pytest.approx(1.0)
    w = tiny_tokens(V, D, 2, torch.float64)[0].requires_grad_()
    term = DualityRegularizer(V, D, IDS, weight=LambdaSchedule(3.0, warmup=1))
    x, y = batches(1)[0]
    assert term(x, y, w).item() == 0
    assert term.last["value"] > 0
    assert term(x, y, w).item() == pytest.approx(3 * term.last["value"].item())
    for bad in ({"warmup": -1}, {"final": -1.0}, {"shape": "step"}):
        with pytest.raises(ValueError, match=f"LambdaSchedule: {next(iter(bad))} is"):
            LambdaSchedule(**bad)


def test_warns_once_when_its_classes_never_occur():
    x, y = batches(1)[0]
    y = torch.where(y == 2, 2, 0)
    w = tiny_tokens(V, D, 2, torch.float64)[0]
    term = DualityRegularizer(V, D, IDS, warn_after=3)
    count = int((y == 2).sum())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            term(x, y, w)
    message = rf"nothing in 3 calls: 1 of its 4 classes occurred, in {3 * count} tokens; it needs 2"
    with pytest.warns(NoClassesWarning, match=message):
        term(x, y, w)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        term(x, y, w)
        # One class is enough to have a spread within.
        other = WithinClassRegularizer(V, D, IDS, warn_after=1)
        other(x, y)
    with pytest.warns(NoClassesWarning):
        assert term.warn_if_idle()


def test_nothing_is_read_from_the_device(monkeypatch):
    """No ``.item()``, no data-dependent shape: what would be a host sync on a GPU."""
    monkeypatch.setattr("ncfast.losses.nan_gradient._at_hand", lambda finite: False)  # as there
    from torch.utils._python_dispatch import TorchDispatchMode

    class NoReads(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func.__name__
            assert not name.startswith(
                ("_local_scalar_dense", "nonzero", "unique", "masked_select")
            )
            return func(*args, **(kwargs or {}))

    x, y = batches(1)[0]
    w = tiny_tokens(V, D, 2, torch.float64)[0].requires_grad_()
    terms = [
        DualityRegularizer(V, D, IDS, means="ema", pairs=[(7, 2)], weight=LambdaSchedule(ramp=3)),
        WithinClassRegularizer(V, D, IDS, kind="quotient"),
    ]
    with NoReads():
        for term in terms:
            term(x.requires_grad_(), y, w).backward()


@pytest.mark.parametrize("means", ["running", "ema"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_over_batches_stay_wide_in_a_model_of_16_bits(means, dtype):
    """A count of 65,536 is infinite in float16, and a mean of many batches stands still."""
    x, y = torch.randn(200, D), torch.arange(200) % V
    wide, narrow = (ClassMeans(V, D, means=means).train() for _ in range(2))
    narrow = torch.nn.ModuleList([narrow]).to(dtype)[0]
    for part in range(4):
        wide.counts, narrow.counts = wide.counts + 1e5, narrow.counts + 1e5
        if part == 2:
            narrow.to(dtype)
        a, b = (m(x[part * 50 :][:50], y[part * 50 :][:50]).means for m in (wide, narrow))
    torch.testing.assert_close(b, a, rtol=0, atol=0)
    assert (narrow.counts.dtype, narrow.means.dtype) == (torch.float64, torch.float32)
    assert narrow.double().means.dtype == torch.float64
    assert narrow.float().means.dtype == torch.float32
    assert narrow.counts.dtype == torch.float64  # float32 would stop counting at 2^24


def test_a_state_of_other_classes_is_rejected():
    """Its ids would come along, and the table from label to slot would stay the old one."""
    saved = ClassMeans(V, D, [1, 2, 3], means="ema").state_dict()
    other = ClassMeans(V, D, [2, 3, 4], means="ema")
    with pytest.raises(RuntimeError, match="the state is of 3 other classes"):
        other.load_state_dict(saved)
    assert other.ids.tolist() == [2, 3, 4]
    with pytest.raises(RuntimeError, match="the state is of 3 other classes"):
        ClassMeans(V, D, [3, 2, 1], means="ema").load_state_dict(saved)
    ClassMeans(V, D, [1, 2, 3], means="ema").load_state_dict(saved)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_batch_is_not_counted_twice_by_checkpointing(reentrant):
    from torch.utils.checkpoint import checkpoint

    means = ClassMeans(V, D, means="running").train()
    x = torch.randn(8, D, requires_grad=True)
    y = torch.arange(8) % V
    loss = checkpoint(lambda x: means(x, y).means.sum(), x, use_reentrant=reentrant)
    with pytest.raises(RuntimeError, match=r"within a backward pass, .* counted twice"):
        loss.backward()
    means.eval()  # which keeps nothing
    checkpoint(lambda x: means(x, y).means.sum(), x, use_reentrant=reentrant).backward()
    assert x.grad is not None


@pytest.mark.parametrize("size", [0, -1, 2.0, True])
def test_sizes_are_whole_numbers(size):
    with pytest.raises(ValueError, match=f"num_classes is {size}; expected a whole number"):
        ClassMeans(num_classes=size, dim=D)
    with pytest.raises(ValueError, match=f"dim is {size}; expected a whole number"):
        ClassMeans(num_classes=V, dim=size)

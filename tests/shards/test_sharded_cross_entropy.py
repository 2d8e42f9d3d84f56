"""Cross-entropy of a head on two and four ranks equals that of one process, and so do gradients."""

from __future__ import annotations

import math

import pytest
import torch

from ncfast.losses import linear_cross_entropy
from ncfast.testing import assert_matches, tiny_tokens
from tests.shards.layouts import SPLITS, Layout, V, Wire, layouts, random_layouts

D, N = 5, 24
LARGE = 20_011  # classes

# What differs from a mean over tokens, a bias and float32.
CASES = {
    "plain": {"bias": False},
    "bias": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "softcap": {"softcap": 2.0, "bias": False},
    "softcap and bias": {"softcap": 3.0},
    "smoothed": {"label_smoothing": 0.2},
    "smoothed, padded": {"label_smoothing": 0.2, "vocab_size": V - 4},
    "z-loss": {"z_loss": 0.1},
    "weights": {"weight": True},
    "weights, smoothed": {"weight": True, "label_smoothing": 0.3},
    "weights, smoothed, padded": {"weight": True, "label_smoothing": 0.3, "vocab_size": V - 4},
    "ignored": {"ignore_index": 3},
    "kept logits": {"memory_budget": 1 << 20, "softcap": 2.0},
    "some ranks without tokens": {"empty": "some"},
    "all without tokens": {"empty": "all"},
    "bfloat16": {"dtype": torch.bfloat16},
    "bfloat16, smoothed": {"dtype": torch.bfloat16, "label_smoothing": 0.2, "softcap": 0.0},
    "large logits": {"scale": 300.0},
    "classes left out by a bias": {"minus_infinity": True},
}


def tensors(case: dict, layout: Layout):
    """Return the tokens of every part, the head, its bias and the class weights."""
    dtype = case.get("dtype", torch.float32)
    size = case.get("vocab_size", V)
    parts = []
    for part in range(layout.parts):
        tokens = N - 3 * part  # ragged
        if case.get("empty") and (case["empty"] == "all" or part % 2 == 0):
            tokens = 0
        x, y = tiny_tokens(tokens, D, size, dtype, seed=7 + part)
        y = torch.where(y < 0, case.get("ignore_index", -100), y)
        parts.append((x * case.get("scale", 1.0), y))
    head = tiny_tokens(V, D, 2, dtype, seed=1)[0]
    bias = tiny_tokens(V, 1, 2, dtype, seed=2)[0][:, 0] if case.get("bias", True) else None
    if case.get("minus_infinity"):
        bias[: V // 2] = -math.inf
        parts = [(x, torch.where(y < 0, y, y.clamp(min=V // 2))) for x, y in parts]
    weight = torch.rand(size, generator=torch.Generator().manual_seed(3)) + 0.1
    return parts, head, bias, weight


AT_RANDOM = ("bias", "weights, smoothed, padded", "z-loss", "some ranks without tokens")
OPTIONS = ("reduction", "softcap", "label_smoothing", "z_loss", "ignore_index")
OURS = (*OPTIONS, "memory_budget", "vocab_size")


def run_case(case: dict, layout: Layout, rank: int):
    parts, head, bias, weight = tensors(case, layout)
    x, y = parts[layout.part(rank)]
    x.requires_grad_()
    own = layout.shard(head, rank)
    rows = (own if hasattr(own, "device_mesh") else own.weight).requires_grad_()
    shard = rows if rows is own else own
    own_bias = None
    if bias is not None:
        own_bias = layout.shard(bias[:, None], rank)
        if rows is own:
            own_bias = own_bias[:, 0].detach().requires_grad_()
        else:
            own_bias = own_bias.weight[:, 0].detach().requires_grad_()
    options = {name: case[name] for name in OURS if name in case}
    if case.get("weight"):
        options["weight"] = weight
    loss, lse = linear_cross_entropy(x, shard, y, linear_bias=own_bias, return_lse=True, **options)
    # A different share of every token, the same on every rank that has it.
    shares = torch.linspace(1, 2, loss.numel(), dtype=loss.dtype).view_as(loss)
    (loss * shares).sum().backward()
    plain = [
        g if g is None else getattr(g, "to_local", lambda g=g: g)()
        for g in (x.grad, rows.grad, None if own_bias is None else own_bias.grad)
    ]
    return [loss.detach(), lse.detach(), *plain]


def plain_loss(x, head, y, bias, weight, case):
    """Return loss and log-sum-exp in plain torch."""
    size = case.get("vocab_size", V)
    z = x @ head[:size].T + (0 if bias is None else bias[:size])
    if case.get("softcap"):
        z = case["softcap"] * torch.tanh(z / case["softcap"])
    ignored = case.get("ignore_index", -100)
    valid = y != ignored
    target = torch.where(valid, y, 0)
    weight = weight.to(z.dtype) if case.get("weight") else torch.ones(size, dtype=z.dtype)
    lse = torch.logsumexp(z, 1)
    shares = torch.where(valid, weight[target], 0)
    smoothing = case.get("label_smoothing", 0.0)
    nll = lse - z.gather(1, target[:, None])[:, 0]
    loss = shares * ((1 - smoothing) * nll + case.get("z_loss", 0.0) * lse.square())
    if smoothing:
        smooth = (weight * (lse[:, None] - z)).sum(1) * smoothing / size
        loss = loss + torch.where(valid, smooth, 0)
    loss = torch.where(valid, loss, 0)
    lse = torch.where(valid, lse, 0)
    reduction = case.get("reduction", "mean")
    if reduction == "none":
        return loss, lse
    total = loss.sum()
    return (
        (total / torch.where(shares.sum() == 0, 1, shares.sum()), lse)
        if (reduction == "mean")
        else (total, lse)
    )


def expected(case: dict, layout: Layout, dtype: torch.dtype):
    """Return what one process finds in plain torch: of every part, then the means of gradients."""
    parts, head, bias, weight = tensors(case, layout)
    of_parts, head_grads, bias_grads = [], [], []
    for x, y in parts:
        narrow = x.dtype
        x, w = (t.detach().to(dtype, copy=True).requires_grad_() for t in (x, head))
        b = None if bias is None else bias.to(dtype, copy=True).requires_grad_()
        loss, lse = plain_loss(x, w, y, b, weight.to(dtype), case)
        shares = torch.linspace(1, 2, loss.numel(), dtype=loss.dtype).view_as(loss)
        (loss * shares).sum().backward()
        of_parts.append((loss.detach(), lse.detach(), x.grad))
        head_grads.append(w.grad)
        bias_grads.append(None if b is None else b.grad)
    grad = torch.stack(head_grads).mean(0)
    bias_grad = None if bias is None else torch.stack(bias_grads).mean(0)
    if dtype != torch.float64:
        of_parts = [(a, b, g.to(narrow)) for a, b, g in of_parts]
        grad = grad.to(narrow)
        bias_grad = None if bias is None else bias_grad.to(narrow)
    return of_parts, grad, bias_grad


def rows_of(layout: Layout, whole: torch.Tensor, found: list) -> list[torch.Tensor]:
    """Return the rows of each rank, in the order of ranks; a mesh divides 23 into 12 and 11."""
    if layout.split in SPLITS:
        return list(whole.split(SPLITS[layout.split][layout.ranks]))
    sizes = [len(one) for one in found]
    assert sum(sizes) == len(whole)
    return list(whole.split(sizes))


def check_case(name: str, layout: Layout, results: list) -> None:
    case = CASES[name]
    truth = expected(case, layout, torch.float64)
    baseline = expected(case, layout, torch.float32)
    for rank, (loss, lse, grad_x, *_) in enumerate(results):
        part = layout.part(rank)
        for what, out, i in (("loss", loss, 0), ("lse", lse, 1), ("grad x", grad_x, 2)):
            label = f"{layout.name}, {name}, rank {rank}: {what}"
            true, plain = truth[0][part][i], baseline[0][part][i]
            assert_matches(out, true, plain, name=label)
    for what, i, whole in (("grad head", 3, 1), ("grad bias", 4, 2)):
        found = [result[i] for result in results]
        if truth[whole] is None:
            assert found == [None] * layout.ranks
            continue
        label = f"{layout.name}, {name}: {what}"
        out = torch.cat(found)
        assert [len(f) for f in found] == [len(r) for r in rows_of(layout, truth[whole], found)]
        assert_matches(out, truth[whole], baseline[whole], name=label)


def cases_of_rank(rank: int, ranks: int) -> dict:
    """Run the whole table on this rank, and count what it sends of a head that is large."""
    found = {}
    for layout in layouts(ranks):
        for name, case in CASES.items():
            found[layout.name, name] = run_case(case, layout, rank)
    for layout in random_layouts(ranks):
        for name in AT_RANDOM:
            found[layout.name, name] = run_case(CASES[name], layout, rank)
    found["autocast"], found["replicated"] = under_autocast(rank, ranks), replicated_x(rank, ranks)
    head, tokens = torch.ones(LARGE, 4), 6
    for layout in layouts(ranks):
        if layout.split not in SPLITS:
            x = torch.randn(tokens, 4, generator=torch.Generator().manual_seed(layout.part(rank)))
            rows = layout.shard(head, rank).requires_grad_()
            with Wire() as wire:
                linear_cross_entropy(x.requires_grad_(), rows, torch.arange(tokens)).backward()
            found["bytes", layout.name] = wire.bytes
    return found


def loss_and_gradients(x, rows, y):
    x, rows = x.detach().requires_grad_(), rows.detach().requires_grad_()
    loss = linear_cross_entropy(x, rows, y)
    loss.backward()
    grads = [getattr(t.grad, "to_local", lambda t=t: t.grad)() for t in (x, rows)]
    return [loss.detach(), *grads]


def under_autocast(rank, ranks):
    """Return the loss and gradients under autocast, and of what autocast should cast."""
    (x, y), head = tiny_tokens(N, D, V, seed=7), tiny_tokens(V, D, 2, seed=1)[0]
    rows = layouts(ranks)[0].shard(head, rank)
    with torch.autocast("cpu", torch.bfloat16):
        cast = loss_and_gradients(x, rows, y)
    by_hand = loss_and_gradients(x.bfloat16(), rows.detach().bfloat16(), y)
    return cast, [t.to(c.dtype) for t, c in zip(by_hand, cast, strict=True)]


def replicated_x(rank, ranks):
    """Return the same of features that are a replicated DTensor, and plain."""
    from torch.distributed.tensor import Replicate, distribute_tensor

    (x, y), head = tiny_tokens(N, D, V, seed=7), tiny_tokens(V, D, 2, seed=1)[0]
    rows = layouts(ranks)[0].shard(head, rank)
    spread = distribute_tensor(x, rows.device_mesh, [Replicate()])
    return loss_and_gradients(spread, rows, y), loss_and_gradients(x, rows, y)


@pytest.mark.parametrize("kind", ["autocast", "replicated"])
def test_the_same_bits(kind, ranks):
    for found in ranks(2):
        for out, expected in zip(*found[kind], strict=True):
            assert out.dtype == expected.dtype
            assert torch.equal(out, expected)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("layout", layouts(2), ids=lambda layout: layout.name)
def test_two_ranks_equal_one_process(layout, name, ranks):
    check_case(name, layout, [found[layout.name, name] for found in ranks(2)])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("layout", layouts(4), ids=lambda layout: layout.name)
def test_four_ranks_equal_one_process(layout, name, ranks):
    check_case(name, layout, [found[layout.name, name] for found in ranks(4)])


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_any_split_equals_one_process(count, ranks):
    for layout in random_layouts(count):
        for name in AT_RANDOM:
            check_case(name, layout, [found[layout.name, name] for found in ranks(count)])


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_head_does_not_travel(count, ranks):
    layouts_of_meshes = [layout for layout in layouts(count) if layout.split not in SPLITS]
    assert layouts_of_meshes
    for layout in layouts_of_meshes:
        for found in ranks(count):
            sent = found["bytes", layout.name]
            assert {"allreduce_", "_allgather_base_"} <= set(sent), sent
            assert 200 < sum(sent.values()) < LARGE * 4 * 4 / 50, (layout.name, sent)


def test_the_comparison_can_fail():
    layout = layouts(2)[3]
    truth = expected(CASES["plain"], layout, torch.float64)
    rows = zip(truth[0], (2 * truth[1]).split([12, 11]), strict=True)
    wrong = [[*(t.float() for t in (*of, grad)), None] for of, grad in rows]
    with pytest.raises(AssertionError, match="grad head"):
        check_case("plain", layout, wrong)

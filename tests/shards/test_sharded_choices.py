"""Argmax and cosines of a head on several ranks equal those of one process."""

from __future__ import annotations

import pytest
import torch

import ncfast
import ncfast.functional as F
from ncfast.testing import assert_matches, tiny_tokens
from tests.shards.layouts import Layout, V, layouts
from tests.shards.test_sharded_terms import COUNTS, D, N, local, rows_and_head

CHOICES = {
    "plain": {"bias": False},
    "bias": {},
    "some classes": {"index": [22, 1, 7, 15, 3, 11]},
    "one class": {"index": [13]},
    "ties between ranks": {"whole": True, "bias": False},
    "bfloat16": {"dtype": torch.bfloat16},
    "no tokens": {"tokens": 0},
}


def choice_inputs(case, part=0):
    dtype = case.get("dtype", torch.float32)
    x = tiny_tokens(max(0, case.get("tokens", N) - 3 * part), D, 2, dtype, seed=part)[0]
    head = tiny_tokens(V, D, 2, dtype, seed=50)[0]
    if case.get("whole"):
        x, head = x.round(), head.round()
        head[-5:] = head[:5]
    bias = tiny_tokens(V, 1, 2, dtype, seed=51)[0][:, 0] if case.get("bias", True) else None
    index = torch.tensor(case["index"]) if "index" in case else None
    return x, head, bias, index


def run_choice(case, layout, rank):
    x, head, bias, index = choice_inputs(case, layout.part(rank))
    own = layout.shard(head, rank)
    if bias is not None:
        bias = layout.shard(bias[:, None], rank)
        bias = bias[:, 0] if own.__class__ is not ncfast.VocabularyShard else bias.weight[:, 0]
    return F.linear_argmax(x, own, bias, index)


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("count", COUNTS)
def test_choices_equal_those_of_one_process(name, count, ranks):
    for layout in layouts(count):
        for rank, found in enumerate(ranks(count)):
            x, head, bias, index = choice_inputs(CHOICES[name], layout.part(rank))
            classes, margins = found["choice", layout.name, name]
            label = f"{layout.name}, rank {rank}"
            if name == "ties between ranks":
                assert torch.equal(classes, F.linear_argmax(x, head, bias, index)[0]), label
                assert torch.equal(margins, F.linear_argmax(x, head, bias, index)[1]), label
                assert (margins == 0).any()
                continue
            truth, baseline = (top_two(x, head, bias, index, t) for t in (torch.float64, None))
            assert torch.equal(classes, truth[0]), label
            if name == "one class":
                assert torch.isinf(margins).all()
            else:
                assert_matches(margins, truth[1], baseline[1], name=label)


def top_two(x, head, bias, index, dtype):
    dtype = dtype or torch.float32
    z = x.to(dtype) @ head.to(dtype).T + (0 if bias is None else bias.to(dtype))
    index = torch.arange(V) if index is None else index.sort()[0]
    found = z[:, index].topk(min(2, len(index)), dim=1)
    margin = found.values[:, 0] - found.values[:, -1]
    return index[found.indices[:, 0]], margin


CENTERS = ("classes", "none", "tensor", "some rows")


def alignment_inputs(center, dtype=torch.float32):
    head, points = (tiny_tokens(V, D, 2, dtype, seed=60 + i)[0] for i in range(2))
    head[3] = 0  # no direction: cosine and gradients are 0
    middle = tiny_tokens(1, D, 2, dtype, seed=62)[0][0]
    index = torch.tensor([20, 2, 9, 14, 0]) if center == "some rows" else None
    return head, points, middle if center == "tensor" else center, index


def run_alignment(center, layout, rank):
    head, points, middle, index = alignment_inputs(center)
    middle = "classes" if center == "some rows" else middle
    rows, own = rows_and_head(layout.shard(head, rank))
    points.requires_grad_()
    if center == "tensor":
        middle.requires_grad_()
    cosines = F.alignment(own, points, middle, index)
    (cosines * torch.linspace(1, 2, len(cosines))).sum().backward()
    grads = [points.grad, middle.grad if center == "tensor" else None, local(rows.grad)]
    return [cosines.detach(), *grads]


def unit(rows):
    norms = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(norms > 0, norms, 1)


def plain_alignment(center, dtype):
    head, points, middle, index = alignment_inputs(center)
    head, points = (t.to(dtype, copy=True).requires_grad_() for t in (head, points))
    own = slice(None) if index is None else index
    if center == "tensor":
        middle = middle.to(dtype, copy=True).requires_grad_()
    elif center == "none":
        middle = torch.zeros(D, dtype=dtype)
    else:
        middle = points[own].mean(0)
    cosines = (unit(head[own]) * unit(points[own] - middle)).sum(1)
    (cosines * torch.linspace(1, 2, len(cosines)).to(dtype)).sum().backward()
    grad = torch.where(head.any(1)[:, None], head.grad, 0)
    return [cosines.detach(), points.grad, middle.grad if center == "tensor" else None, grad]


@pytest.mark.parametrize("center", CENTERS)
@pytest.mark.parametrize("count", COUNTS)
def test_cosines_equal_those_of_one_process(center, count, ranks):
    truth, baseline = (plain_alignment(center, t) for t in (torch.float64, torch.float32))
    for layout in layouts(count):
        if layout.parts > 1:
            continue
        results = [found["cosines", layout.name, center] for found in ranks(count)]
        head = torch.cat([result[3] for result in results])
        for rank, result in enumerate(results):
            for i, out in enumerate([*result[:3], head]):
                label = f"{layout.name}, rank {rank}, {i}"
                if truth[i] is None:
                    assert out is None
                else:
                    scale = float(truth[1].abs().max())
                    floor = 16 * torch.finfo(torch.float32).eps * max(1.0, scale)
                    assert_matches(out, truth[i], baseline[i], name=label, floor=floor)


def cases_of_rank(rank: int, ranks: int) -> dict:
    """Return what this rank finds in every case."""
    found: dict = {"compiled": compiled_calls(rank, ranks)}
    for layout in layouts(ranks):
        for name, case in CHOICES.items():
            found["choice", layout.name, name] = run_choice(case, layout, rank)
        if layout.parts == 1:
            for center in CENTERS:
                found["cosines", layout.name, center] = run_alignment(center, layout, rank)
    return found


def compiled_calls(rank: int, ranks: int) -> dict:
    """Return loss and gradients of a compiled loop with a sharded head, eager ones, and graphs."""
    graphs, head = [], torch.randn(V, D, generator=torch.Generator().manual_seed(3))

    def backend(graph, _):
        graphs.append(graph.print_readable(print_output=False))
        return graph.forward

    def loss_of(x, weight, y):
        return 2 * ncfast.losses.linear_cross_entropy(x.relu(), weight, y)

    found = []
    for function in (torch.compile(loss_of, backend=backend), loss_of):
        rows = Layout("", ranks, "dtensor").shard(head.clone(), rank).requires_grad_()
        x = torch.randn(4, D, generator=torch.Generator().manual_seed(rank)).requires_grad_()
        loss = function(x, rows, torch.arange(4))
        loss.backward()
        found.append([loss.detach(), x.grad, rows.grad.to_local()])
    torch.compiler.reset()
    return {"found": found, "graphs": graphs}


@pytest.mark.parametrize("count", COUNTS)
def test_a_compiled_loop_meets_the_others_outside_of_its_graphs(count, ranks):
    """Traced, four ranks met in another order on some of them, and waited until the timeout."""
    for found in ranks(count):
        graphs = found["compiled"]["graphs"]
        assert any("relu" in graph for graph in graphs)
        assert not any("c10d" in graph or "all_reduce" in graph for graph in graphs)
        for compiled, eager in zip(*found["compiled"]["found"], strict=True):
            assert torch.equal(compiled, eager)

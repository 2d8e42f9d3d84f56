"""(U)NC3 of a head on several ranks equals that of one process."""

from __future__ import annotations

import re

import pytest
import torch
from torch import distributed

import ncfast
import ncfast.functional as F
from ncfast.losses import DualityRegularizer, PairWeights
from ncfast.testing import tiny_tokens
from tests.shards.layouts import V, Wire, layouts, told

D, N, LARGE = 5, 40, 20_011
COUNTS = [2, pytest.param(4, marks=pytest.mark.slow)]


def rows_and_head(own):
    """Return the leaf of this rank's rows, and what stands for the head."""
    if hasattr(own, "device_mesh"):
        rows = own.detach().requires_grad_()
        return rows, rows
    rows = own.weight.detach().requires_grad_()
    return rows, ncfast.VocabularyShard(rows, own.vocab_start, V)


def local(tensor):
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


SOME = [4, 22, 7, 12, 3, 11, 0, 18]
TERMS = {
    "every class": {},
    "some classes": {"classes": SOME, "weight": 0.5},
    "cov, alignment": {"classes": SOME, "spread": "cov", "alignment_weight": 0.7},
    "running": {"classes": SOME, "means": "running", "spread": "var"},
    "ema, tokens": {"means": "ema", "half_life": 2.0, "center": "tokens"},
    "head alone": {"classes": SOME, "grad": "head"},
    "features alone": {"classes": SOME, "grad": "features"},
    "pairs": {
        "classes": SOME,
        "pairs": [(4, 22), (7, 0)],
        "pair_weights": PairWeights(cosine=1.0, norm=0.3, bias=0.2),
    },
    "four tokens": {"min_count": 4, "spread": "var"},
}


def term_tokens(step, part):
    """Return tokens of a part; the first part has none at the second step."""
    tokens = 0 if (step, part) == (1, 0) else N + 20 - 7 * part
    return tiny_tokens(tokens, D, V, torch.float64, seed=70 + 10 * step + part)


def head_and_bias():
    head, bias = (tiny_tokens(V, width, 2, torch.float64, seed=90)[0] for width in (D, 1))
    return head, bias[:, 0]


def run_term(settings, layout, rank):
    """Return values, gradients and state after two steps."""
    term = DualityRegularizer(V, D, **settings).double()
    head, bias = head_and_bias()
    rows, own = rows_and_head(layout.shard(head, rank))
    own_bias = layout.shard(bias[:, None], rank)
    own_bias = own_bias[:, 0] if rows is own else own_bias.weight[:, 0]
    own_bias = own_bias.detach().requires_grad_()
    found = []
    for step in range(2):
        x, y = term_tokens(step, layout.part(rank))
        x.requires_grad_()
        value = term(x, y, own, own_bias)
        value.backward()
        found.append((value.detach(), x.grad, {k: float(v) for k, v in term.last.items()}))
    biases = None if own_bias.grad is None else local(own_bias.grad)
    grad = None if rows.grad is None else local(rows.grad)
    return found, grad, biases, dict(term.named_buffers())


def one_process(settings, parts):
    """Return the same of all parts at once; gradients of features are to be averaged over parts."""
    term = DualityRegularizer(V, D, **settings).double()
    head, bias = (t.requires_grad_() for t in head_and_bias())
    found = []
    for step in range(2):
        pieces = [term_tokens(step, part) for part in range(parts)]
        x = torch.cat([x for x, _ in pieces]).requires_grad_()
        value = term(x, torch.cat([y for _, y in pieces]), head, bias)
        value.backward()
        grads = [None] * parts
        if x.grad is not None:
            grads = (parts * x.grad).split([len(x) for x, _ in pieces])
        found.append((value.detach(), grads, {k: float(v) for k, v in term.last.items()}))
    return found, head.grad, bias.grad, dict(term.named_buffers())


def close(out, expected, label):
    if expected is None:
        assert out is None or not out.any(), label
        return
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-12, msg=lambda m: f"{label}: {m}")


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("count", COUNTS)
def test_the_term_equals_that_of_one_process(name, count, ranks):
    for layout in layouts(count):
        expected, head, bias, buffers = one_process(TERMS[name], layout.parts)
        results = [found["term", layout.name, name] for found in ranks(count)]
        for rank, (found, _, _, state) in enumerate(results):
            for step, ((value, grad, last), (value_, grads, last_)) in enumerate(
                zip(found, expected, strict=True)
            ):
                label = f"{layout.name}, rank {rank}, step {step}"
                close(value, value_, label)
                close(grad, grads[layout.part(rank)], f"{label}: x")
                assert last == pytest.approx(last_, rel=1e-9, abs=1e-12), label
            for key, tensor in buffers.items():
                close(state[key].to(tensor.dtype), tensor, f"{layout.name}, rank {rank}: {key}")
        for i, whole in ((1, head), (2, bias)):
            parts = [result[i] for result in results]
            out = None if parts[0] is None else torch.cat(parts)
            close(out, whole, f"{layout.name}: {('', 'head', 'bias')[i]}")


def cases_of_rank(rank: int, ranks: int) -> dict:
    """Return what this rank finds in every case."""
    found: dict = {}
    for layout in layouts(ranks):
        for name, settings in TERMS.items():
            found["term", layout.name, name] = run_term(settings, layout, rank)
    found["sent"] = sent(rank, ranks)
    found["disagreement"] = {name: told(f) for name, f in disagreements(rank, ranks).items()}
    return found


def sent(rank: int, ranks: int) -> dict[str, int]:
    """Return the bytes that collectives were given with a head that is large."""
    layout, counts = layouts(ranks)[3], {}
    head = layout.shard(torch.ones(LARGE, 4), rank)
    x, y = torch.randn(6, 4, generator=torch.Generator().manual_seed(rank)), torch.arange(6)
    term = DualityRegularizer(LARGE, 4, [0, 1, 2, LARGE - 1])
    calls = {
        "linear_argmax": lambda: F.linear_argmax(x, head),
        "DualityRegularizer": lambda: term(
            x.requires_grad_(), y, head.detach().requires_grad_()
        ).backward(),
    }
    for name, call in calls.items():
        with Wire() as wire:
            call()
        counts[name] = sum(wire.bytes.values())
    return counts


def disagreements(rank: int, ranks: int) -> dict:
    layout, last = layouts(ranks)[0], rank == ranks - 1
    head = layout.shard(head_and_bias()[0], rank)
    x, y = term_tokens(0, 0)
    mean = torch.full((V, D), 2.0 if last else 1.0).double()
    spread = "var" if last else "std"
    nan = head.detach().clone()
    if last:
        nan.to_local()[0, 0] = torch.nan
    index = torch.tensor([1, V if last else 2])
    alone = [distributed.new_group([r]) for r in range(ranks)][rank]
    apart = DualityRegularizer(V, D, SOME, process_group=alone).double()
    other = term_tokens(0, rank)
    return {
        "points": lambda: F.alignment(head, mean),
        "spread": lambda: DualityRegularizer(V, D, spread=spread).double()(x, y, head),
        "nan": lambda: F.linear_argmax(x, nan),
        "index": lambda: F.linear_argmax(x, head, index=index),
        "functions": lambda: F.alignment(head, mean) if last else F.linear_argmax(x, head),
        "means": lambda: apart(*other, head),
        "shape": lambda: DualityRegularizer(V - last, D).double()(x, y, head),
    }


SENTENCES = {
    "points": "ValueError: alignment: points differ between ranks; expected the same on each",
    "spread": "ranks disagree: spread, center and grad is",
    "nan": "DataError: linear_argmax: head_weight.* is nan; expected finite values",
    "index": r"DataError: linear_argmax: index\[1\] is 23; expected a row in \[0, 23\)",
    "functions": "ranks disagree: the function is linear_argmax on rank 0 and alignment on rank",
    "means": "class means differ between ranks; expected a process_group that holds every rank",
    "shape": r"head_weight is \(23, 5\) on all ranks; expected \(22, 5\)",
}


@pytest.mark.parametrize("name", SENTENCES)
@pytest.mark.parametrize("count", COUNTS)
def test_every_rank_is_told_the_same(name, count, ranks):
    sentences = [found["disagreement"][name] for found in ranks(count)]
    sentences = [text.removesuffix(f" (on rank {count - 1})") for text in sentences]
    assert len(set(sentences)) == 1, sentences
    assert re.search(SENTENCES[name], sentences[0]), sentences[0]
    assert "\n" not in sentences[0]


@pytest.mark.parametrize("count", COUNTS)
def test_the_head_does_not_travel(count, ranks):
    for found in ranks(count):
        assert all(100 < sent < LARGE * 4 * 4 / 50 for sent in found["sent"].values()), found[
            "sent"
        ]

"""The report of a head on several ranks equals that of one process."""

from __future__ import annotations

import math
import re

import pytest
import torch

import ncfast
from ncfast.metrics import split_pairs
from ncfast.metrics.bootstrap import bootstrap_intervals
from ncfast.testing import tiny_tokens
from tests.shards.layouts import V, Wire, layouts, told

D, LARGE, MANY = 5, 20_011, 1024
COUNTS = [2, pytest.param(4, marks=pytest.mark.slow)]
PAIRS_OF_ROWS = ("nc1w_mean", "nc1w2_mean", "gnc2w_mean", "gnc2w_unit_mean")
CASES = {
    "all": {},
    "some": {"classes": [3, 22, 8, 1, 14, 12]},
    "tokens": {"center": "tokens"},
    "official": {"preset": "official"},
    "drawn pairs": {"pairs": 100, "seed": 3},
    "simplex": {"simplex": True},  # so near that the error is taken entry by entry
    "zero row": {"zero": True},
    "twins": {"twins": True},
    "twins but for rounding": {"twins": 1 + 2**-52},
    "twins among drawn pairs": {"twins": 1 + 2**-52, "pairs": 200, "seed": 1},
    "kept classes": {"keep": [0, 2, 5, 13, 21, 22, 9]},
}


def inputs(case):
    keep = case.get("keep")
    stats = ncfast.ClassStatistics(V, V if case.get("simplex") else D, keep, dtype=torch.float64)
    x, y = tiny_tokens(300, D, V - 1, torch.float64, seed=1)  # class 22 does not occur
    head = tiny_tokens(V, D, 2, torch.float64, seed=2)[0]
    if case.get("simplex"):
        simplex = torch.eye(V, dtype=torch.float64) - 1 / V
        x, y, head = simplex.repeat(2, 1), torch.arange(V).repeat(2), 3 * simplex
        head = head + 1e-6 * tiny_tokens(V, V, 2, torch.float64, seed=3)[0]
    if case.get("zero"):
        head[20] = 0
    if case.get("twins"):  # on two ranks, and on one
        head[21] = head[1] * case["twins"]
        head[20] = head[19] * case["twins"]
    stats.update(x, y)
    options = {
        k: v for k, v in case.items() if k in ("classes", "center", "preset", "pairs", "seed")
    }
    return stats, head, options


def measure(case, layout, rank):
    stats, head, options = inputs(case)
    report = ncfast.neural_collapse(stats, layout.shard(head, rank), **options)
    return dict(report), dict(report.notes), report.per_class


def cases_of_rank(rank: int, ranks: int) -> dict:
    """Return the reports of every layout, what is sent, and what is told."""
    found: dict = {}
    split_pairs.BYTES = 8 * ranks * D * 2  # tiles of two rows, of one where V columns are wide
    for layout in layouts(ranks):
        if layout.parts == 1:
            for name, case in CASES.items():
                found["report", layout.name, name] = measure(case, layout, rank)
    layout, last = layouts(ranks)[0], rank == ranks - 1
    stats = ncfast.ClassStatistics(LARGE, 4)
    stats.update(torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), torch.arange(30))
    with Wire() as wire:
        ncfast.neural_collapse(stats, layout.shard(torch.ones(LARGE, 4), rank))
    found["sent by neural_collapse"] = sum(wire.bytes.values())
    found["sent of rows"] = sent_of_rows(layout, rank)
    found["told by metrics"] = {n: told(f) for n, f in mistakes(layout, rank, last).items()}
    return found


def sent_of_rows(layout, rank) -> tuple[int, int]:
    """Return the bytes of all messages, and of the largest, where every row is measured."""
    stats = ncfast.ClassStatistics(MANY, 64, scatter=False)
    stats.update(torch.eye(MANY, 64) + torch.arange(MANY)[:, None], torch.arange(MANY))
    head = torch.randn(MANY, 64, generator=torch.Generator().manual_seed(1))
    split_pairs.BYTES = MANY * 64  # an eighth of the head's float64 values
    with Wire() as wire:
        ncfast.neural_collapse(stats, layout.shard(head, rank))
    return wire.bytes["_allgather_base_"], wire.largest["_allgather_base_"]


def mistakes(layout, rank, last) -> dict:
    stats, head, _ = inputs({})
    own = layout.shard(head, rank)
    other, _, _ = inputs({})
    other.m2 = other.m2 * (2 if last else 1)
    apart, _, _ = inputs({})
    apart.update(torch.full((1, D), float(rank)).double(), torch.tensor([2]))
    nan = own.detach().clone()
    if last:
        nan.to_local()[0, 0] = torch.nan
    wide = ncfast.ClassStatistics(V, D + 1)
    return {
        "statistics": lambda: ncfast.neural_collapse(apart, own),
        "spreads": lambda: ncfast.neural_collapse(other, own),
        "options": lambda: ncfast.neural_collapse(
            stats, own, center="tokens" if last else "classes"
        ),
        "ood": lambda: ncfast.neural_collapse(
            stats, own, ood_mean=torch.arange(1.0, D + 1).double().roll(int(last))
        ),
        "nan": lambda: ncfast.neural_collapse(stats, nan),
        "shape": lambda: ncfast.neural_collapse(wide if last else stats, own),
        "center": lambda: ncfast.neural_collapse(stats, own, center="no" if last else "classes"),
        "bootstrap": lambda: bootstrap_intervals(stats, own),
        "agreement": lambda: ncfast.NearestCenterAgreement(stats, own),
    }


SENTENCES = {
    "statistics": "statistics differ between ranks; expected the same on each: call stats.all_red",
    "spreads": "spreads of statistics differ between ranks; expected stats.all_reduce",
    "options": "neural_collapse: ranks disagree: options is ",
    "ood": "neural_collapse: ranks disagree: options is ",
    "nan": r"DataError: alignment: head_weight\[.*\] is nan; expected finite values",
    "shape": r"head_weight is \(23, 5\) on all ranks, on cpu; expected \(23, 6\) on cpu",
    "center": "center is 'no'; expected one of",
    "bootstrap": "TypeError: neural_collapse: head_weight is a DTensor sharded over ranks",
    "agreement": "TypeError: NearestCenterAgreement: head_weight is a DTensor sharded over ranks",
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("count", COUNTS)
def test_the_report_equals_that_of_one_process(name, count, ranks):
    stats, head, options = inputs(CASES[name])
    expected = ncfast.neural_collapse(stats, head, **options)
    assert not any(math.isnan(expected[key]) for key in ("self_duality_error", *PAIRS_OF_ROWS))
    assert (expected["self_duality_error"] < 1e-3) == (name == "simplex")
    for layout in layouts(count):
        if layout.parts > 1:
            continue
        for rank, found in enumerate(ranks(count)):
            report, notes, per_class = found["report", layout.name, name]
            assert list(report) == list(expected)
            for key, value in expected.items():
                label = f"{layout.name}, rank {rank}: {key}"
                assert report[key] == pytest.approx(value, rel=1e-10, abs=1e-12, nan_ok=True), label
                assert notes.get(key) == expected.notes.get(key), label
            assert per_class.keys() == expected.per_class.keys()
            for key, column in expected.per_class.items():
                torch.testing.assert_close(per_class[key], column, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("count", COUNTS)
def test_the_head_does_not_travel(count, ranks):
    assert all(100 < f["sent by neural_collapse"] < LARGE * 4 * 4 / 50 for f in ranks(count))


@pytest.mark.parametrize("count", COUNTS)
def test_rows_travel_once_and_never_all_at_a_time(count, ranks):
    whole = MANY * 64 * 4
    for total, largest in (found["sent of rows"] for found in ranks(count)):
        assert whole < total < 1.1 * whole
        assert largest <= whole / 8


@pytest.mark.parametrize("name", SENTENCES)
@pytest.mark.parametrize("count", COUNTS)
def test_every_rank_is_told_the_same(name, count, ranks):
    sentences = [found["told by metrics"][name] for found in ranks(count)]
    sentences = [text.removesuffix(f" (on rank {count - 1})") for text in sentences]
    assert len(set(sentences)) == 1, sentences
    assert re.search(SENTENCES[name], sentences[0]), sentences[0]
    assert "\n" not in sentences[0]

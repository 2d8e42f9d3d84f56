"""What ranks that disagree are told: the same sentence on each, and nothing hangs."""

from __future__ import annotations

import datetime
import re
import time
from functools import partial

import pytest
import torch
from torch import distributed

import ncfast
from ncfast.losses import NC3Regularizer, cross_entropy_sums, linear_cross_entropy
from ncfast.shards.fingerprints import fingerprint
from tests.shards.layouts import told

V, D, N = 11, 3, 6


def shard(rank: int, ranks: int, group=None) -> ncfast.VocabularyShard:
    """Return three rows on every rank but the last."""
    start = 2 * rank
    end = V if rank == ranks - 1 else start + 2
    head = torch.randn(V, D, generator=torch.Generator().manual_seed(5))
    return ncfast.VocabularyShard(head[start:end].requires_grad_(), start, V, group)


def tokens(part: int = 0):
    generator = torch.Generator().manual_seed(part)
    return torch.randn(N, D, generator=generator), torch.arange(N)


# name: what differs on the last rank, and what every rank is told
DISAGREE = {
    "softcap": ({"softcap": 2.0}, "ranks disagree: softcap is 0.0 on rank 0 and 2.0 on rank"),
    "reduction": ({"reduction": "sum"}, "ranks disagree: reduction is mean on rank 0 and sum"),
    "z_loss": ({"z_loss": 0.5}, "ranks disagree: z_loss is 0.0 on rank 0 and 0.5"),
    "smoothing": ({"label_smoothing": 0.5}, "ranks disagree: label_smoothing is 0.0 on rank 0"),
    "ignore_index": ({"ignore_index": 7}, "ranks disagree: ignore_index is -100 on rank 0 and 7"),
    "vocab_size": ({"vocab_size": 9}, "ranks disagree: vocab_size is 11 on rank 0 and 9 on rank"),
    "weight": ({"weight": torch.ones(V)}, "the sum of weight is None on rank 0 and 11.0 on rank"),
    "check_finite": ({"check_finite": True}, "ranks disagree: check_finite is False on rank 0"),
    "wrong option": ({"reduction": "men"}, "reduction is 'men'; expected one of"),
    "bias": ({"linear_bias": torch.ones(V)}, r"linear_bias is .*; expected float \[.*"),
    "width": ({"x": torch.ones(N, D + 1)}, r"linear_weight is .*; expected float \[V, 4\]"),
    "dtype": ({"x": torch.ones(N, D).double()}, "the dtype of x is torch.float32 on rank 0 and"),
    "labels": ({"y": torch.full((N,), V)}, r"target\[0\] of rank . is 11; expected a class in"),
    "probabilities": ({"y": torch.ones(N)}, "target is torch.float32 .* class probabilities"),
    "gradients": ({"frozen": True}, "whether gradients are needed is True on rank 0 and False"),
}


def one_call(name: str, rank: int, ranks: int) -> None:
    own, options = shard(rank, ranks), dict(DISAGREE[name][0]) if rank == ranks - 1 else {}
    x, y = tokens()
    x, y = options.pop("x", x), options.pop("y", y)
    if options.pop("frozen", False):
        own = ncfast.VocabularyShard(own.weight.detach(), own.vocab_start, V)
    linear_cross_entropy(x, own, y, **options)


def cases_of_rank(rank: int, ranks: int) -> dict:
    """Return the sentence of every case."""
    last, found = rank == ranks - 1, {}
    for name in DISAGREE:
        found["told", name] = told(lambda name=name: one_call(name, rank, ranks))
    x, y = tokens()
    nan = torch.full((N, D), torch.nan) if last else x
    found["nan"] = told(lambda: linear_cross_entropy(nan, shard(rank, ranks), y, check_finite=True))
    found["functions"] = told(
        lambda: (cross_entropy_sums if last else linear_cross_entropy)(x, shard(rank, ranks), y)
    )

    def gap():
        own = shard(rank, ranks)
        start = own.vocab_start + (1 if last else 0)
        linear_cross_entropy(x, ncfast.VocabularyShard(own.weight[:1], start, V), y)

    found["gap"] = told(gap)

    def another_loss():
        loss = linear_cross_entropy(x, shard(rank, ranks), y)
        (loss * (2 if last else 1)).backward()

    found["another loss"] = told(another_loss)
    for name, call in other_ids(rank, ranks).items():
        found["ids", name] = told(call)
    found["layouts"] = {name: told(f) for name, f in layouts_not_read(ranks).items()}
    found["outside"] = outside(rank, ranks)
    # After all that, a call is as good as before.
    found["after"] = float(linear_cross_entropy(x, shard(rank, ranks), y).detach())
    found["late"], found["seconds"] = late(rank, ranks)
    return found


IDS = {"of the same sum": ([0, 3], [1, 2]), "in another order": ([0, 3], [3, 0])}


def other_ids(rank: int, ranks: int) -> dict:
    """Return calls that every rank but the last makes of other ids, as many and of one sum."""
    (x, y), own, found = tokens(), shard(rank, ranks), {}
    F = ncfast.functional
    for name, both in IDS.items():
        ids = torch.tensor(both[rank == ranks - 1])
        found["index of linear_argmax", name] = partial(F.linear_argmax, x, own, index=ids)
        points = torch.randn(V, D, generator=torch.Generator().manual_seed(1))
        found["index of alignment", name] = partial(F.alignment, own, points, index=ids)
        term = NC3Regularizer(V, D, ids)
        found["classes", name] = partial(term, x, y, own)
        paired = NC3Regularizer(V, D, pairs=ids[None])
        found["pairs", name] = partial(paired, x, y, own)
        weight = torch.ones(V).index_copy(0, ids, torch.tensor([2.0, 3.0]))
        found["weight", name] = partial(linear_cross_entropy, x, own, y, weight=weight)
    wrong = torch.full((N,), V + 7) if rank == ranks - 1 else y
    found["a label", ""] = partial(NC3Regularizer(V, D), x, wrong, own)
    return found


def layouts_not_read(ranks: int) -> dict:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

    mesh, (x, y) = init_device_mesh("cpu", (ranks,)), tokens()
    head = torch.ones(V, 4 * D)
    whole = distribute_tensor(torch.ones(V, D), mesh, [Shard(0)])
    heads = {
        "width": distribute_tensor(head, mesh, [Shard(1)]),
        "replicated": distribute_tensor(head, mesh, [Replicate()]),
        "partial": DTensor.from_local(head, mesh, [Partial()]),
    }
    # As FSDP2 lays it on a mesh of replicas (HSDP): a term would see the tokens of one of them.
    replicas = init_device_mesh("cpu", (2, ranks // 2))
    placements = [Replicate(), Shard(0)]
    heads["replicas"] = distribute_tensor(torch.ones(V, D), replicas, placements)
    found = {name: lambda w=w: linear_cross_entropy(x, w, y) for name, w in heads.items()}
    spread = distribute_tensor(torch.ones(8, D), mesh, [Shard(0)])
    found["x"] = lambda: linear_cross_entropy(spread, whole, torch.arange(8 // ranks))
    bias = distribute_tensor(torch.ones(V + 1), mesh, [Shard(0)])
    found["bias"] = lambda: linear_cross_entropy(x, whole, y, linear_bias=bias)
    found["flat"] = lambda: linear_cross_entropy(x, bias, y)
    return found


def outside(rank: int, ranks: int) -> list[str]:
    """Let the last rank give a head that others hold."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh, group = DeviceMesh("cpu", range(ranks - 1)), distributed.new_group(range(ranks - 1))
    head, (x, y) = torch.ones(V, D), tokens()
    spread = distribute_tensor(head, mesh, [Shard(0)], src_data_rank=None)
    found = [told(lambda: linear_cross_entropy(x, spread, y))]
    if rank == ranks - 1:
        found.append(told(lambda: ncfast.VocabularyShard(head, 0, V, group)))
    return found


def late(rank: int, ranks: int) -> tuple[str, float]:
    """Let the last rank not come to a call."""
    group = distributed.new_group(timeout=datetime.timedelta(seconds=3))
    x, y = tokens()
    begin = time.monotonic()
    sentence = ""
    if rank < ranks - 1:
        sentence = told(lambda: linear_cross_entropy(x, shard(rank, ranks, group), y))
    seconds = time.monotonic() - begin
    distributed.barrier()
    return sentence, seconds


def sentence_after_a_death(rank: int, ranks: int) -> str:
    x, y = tokens()
    return told(lambda: linear_cross_entropy(x, shard(rank, ranks), y))


COUNTS = [2, pytest.param(4, marks=pytest.mark.slow)]


def told_to_all(found: list[dict], *key) -> list[str]:
    """Return the sentences of all ranks, less the rank that was at fault."""
    for step in key:
        found = [one[step] for one in found]
    assert all("\n" not in text for text in found), found
    last = len(found) - 1
    return [text.removesuffix(f" (on rank {last})") for text in found]


@pytest.mark.parametrize("name", DISAGREE)
@pytest.mark.parametrize("count", COUNTS)
def test_every_rank_is_told_the_same(name, count, ranks):
    sentences = told_to_all(ranks(count), ("told", name))
    assert len(set(sentences)) == 1, sentences
    assert re.search(DISAGREE[name][1], sentences[0]), sentences[0]


@pytest.mark.parametrize("count", COUNTS)
def test_what_one_rank_finds_is_told_to_all(count, ranks):
    messages = {
        "nan": rf"DataError: linear_cross_entropy: input\[0.*\] of rank {count - 1} is nan",
        "functions": "ranks disagree: reduction is mean on rank 0 and sums on rank",
        "gap": r"ValueError: .*: the ranks hold rows \[0, 1\).*; expected them to tile \[0, 11\)",
        "another loss": "brought different gradients of their loss; expected the same loss",
    }
    for name, message in messages.items():
        sentences = told_to_all(ranks(count), name)
        assert len(set(sentences)) == 1, sentences
        assert re.search(message, sentences[0]), sentences[0]


@pytest.mark.parametrize("count", COUNTS)
def test_ids_are_compared_by_content_and_order(count, ranks):
    found = ranks(count)
    keys = [key for key in found[0] if key[0] == "ids"]
    assert len(keys) == 11
    for key in keys:
        sentences = told_to_all(found, key)
        assert len(set(sentences)) == 1, (key, sentences)
        expected = "is 18; expected a class" if "a label" in key[1] else "ranks disagree"
        assert expected in sentences[0], (key, sentences)


@pytest.mark.parametrize("count", COUNTS)
def test_other_layouts_are_rejected(count, ranks):
    for name in ("width", "replicated", "replicas", "partial", "x", "bias", "flat"):
        for text in told_to_all(ranks(count), "layouts", name):
            assert re.search("ValueError|TypeError", text), text
            assert re.search("Shard|Replicate|expected those of the head's rows", text), text
            assert "linear_cross_entropy: " in text


@pytest.mark.parametrize("count", COUNTS)
def test_a_rank_that_does_not_come_ends_the_others(count, ranks):
    found = ranks(count)
    for one in found[:-1]:
        assert re.match("RankError: linear_cross_entropy: ranks .* did not meet", one["late"])
        assert one["seconds"] < 30
        assert re.match("RankError: .* did not meet to exchange", one["a rank died"])
        assert "\n" not in one["late"] + one["a rank died"]
    assert len({one["after"] for one in found}) == 1


def test_a_shard_needs_process_groups():
    with pytest.raises(ValueError, match=r"torch\.distributed is not set up"):
        ncfast.VocabularyShard(torch.ones(2, 3), 0, 4)
    with pytest.raises(ValueError, match=r"rows 3 to 4 of 4 classes; expected rows in \[0, 4\)"):
        ncfast.VocabularyShard(torch.ones(2, 3), 3, 4)
    with pytest.raises(ValueError, match=r"weight is a Tensor \(3,\); expected this rank's rows"):
        ncfast.VocabularyShard(torch.ones(3), 0, 4)


def test_other_labels_have_another_fingerprint():
    x = torch.ones(3, D)
    seen = {
        tuple(fingerprint(x, torch.tensor(y)).tolist())
        for y in ([0, 5, 1], [2, 4, 1], [5, 0, 1], [0, 5, -100], [1, 0, 5], [0, 5, 1])
    }
    assert len(seen) == 5


def test_other_features_have_another_fingerprint():
    """Those of one sum and norm, row by row, and those with a NaN, are told apart all the same."""
    signs = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1]])
    nan = torch.eye(4).index_fill(0, torch.tensor([3]), torch.nan)
    for x in (torch.eye(4), torch.eye(4).double(), torch.eye(4).bfloat16(), signs, nan):
        others = [x, x.roll(1, 1), x.flip(1), x.roll(1, 0), 2 * x]
        seen = {tuple(fingerprint(o, None).tolist()) for o in others}
        assert len(seen) == len({str(o.tolist()) for o in others}) > 3, x


def test_the_same_features_have_one_fingerprint_however_they_lie():
    x = torch.randn(70, 768, generator=torch.Generator().manual_seed(0))
    x[3] = 0.0
    lying = [x, x.T.contiguous().T, torch.stack([x, x], 2)[:, :, 0], torch.where(x == 0, -x, x)]
    assert len({tuple(fingerprint(one, None).tolist()) for one in lying}) == 1


@pytest.mark.parametrize("count", COUNTS)
def test_a_head_that_others_hold(count, ranks):
    found = [one["outside"] for one in ranks(count)]
    assert found[:-1] == [[""]] * (count - 1)
    assert len(found[-1]) == 2
    for text in found[-1]:
        assert re.match(r"ValueError: .* lies on .*; expected this rank, \d, to be one of", text)

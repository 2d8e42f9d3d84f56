"""The torchmetrics metric equals the statistics it adapts, alone, in a collection, over ranks."""

from __future__ import annotations

import pytest
import torch

import ncfast
from ncfast.testing import end_rank

torchmetrics = pytest.importorskip("torchmetrics")
V, D = 7, 5


def _tokens():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, D, generator=generator)
    return (
        x,
        torch.randint(0, V, (60,), generator=generator),
        torch.randn(V, D, generator=generator),
    )


def _wanted(x, y, head):
    stats = ncfast.ClassStatistics(V, D, scatter=False)
    stats.update(x, y)
    return ncfast.neural_collapse(stats, head_weight=head)


def test_equals_one_pass_and_resets():
    from ncfast.integrations.torchmetrics import NeuralCollapse

    x, y, head = _tokens()
    metric = NeuralCollapse(V, D, keys=None).set_head(lambda: head)
    collection = torchmetrics.MetricCollection({"nc": metric})
    for part in range(3):
        collection.update(x[part::3], y[part::3])
    found, wanted = collection.compute(), _wanted(x, y, head)
    for key in ("unc3_std", "nc3_mean", "trace_within", "tokens"):
        assert float(found[key]) == pytest.approx(wanted[key], rel=1e-5)
    metric.reset()
    metric.update(x[:30], y[:30])
    assert float(metric.compute()["tokens"]) == 30


def _rank(rank, folder):
    from ncfast.integrations.torchmetrics import NeuralCollapse

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    x, y, head = _tokens()
    metric = NeuralCollapse(V, D).set_head(head)
    metric.update(x[rank::2], y[rank::2])
    torch.save({k: v.item() for k, v in metric.compute().items()}, f"{folder}/{rank}.pt")
    end_rank()


def test_two_ranks_equal_one(tmp_path):
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    x, y, head = _tokens()
    wanted = _wanted(x, y, head)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert results[0] == results[1]
    for key, value in results[0].items():
        assert value == pytest.approx(wanted[key], rel=1e-5)

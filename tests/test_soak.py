"""Ten thousand updates of every object that streams take no memory that they do not give back."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

import pytest
import torch

import ncfast
from ncfast.losses import NC3Regularizer, UniformityRegularizer, WithinClassRegularizer

UPDATES, WARM = 10_000, 500
ROOM = 6 * 2**20  # what allocators keep and give back from time to time
V, D, N = 50, 8, 32


def resident() -> int:
    """Return the memory of this process that is in the machine, in bytes, what is free given back.

    Else what earlier tests freed would hide what is kept.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features and labels."""
    generator = torch.Generator().manual_seed(step % 97)
    x = torch.randn(N, D, generator=generator)
    return x, torch.randint(0, V, (N,), generator=generator)


def statistics():
    stats = ncfast.ClassStatistics(num_classes=V, dim=D, scatter=True)
    return lambda step: stats.update(*batch(step))


def agreement():
    stats = ncfast.ClassStatistics(num_classes=V, dim=D)
    stats.update(torch.randn(200, D), torch.arange(200) % V)
    one = ncfast.NearestCenterAgreement(stats, torch.randn(V, D))
    return lambda step: one.update(*batch(step))


def torchmetric():
    module = pytest.importorskip("ncfast.integrations.torchmetrics")
    metric = module.NeuralCollapse(V, D, keys=["nc1_quotient", "unc3_std"], head=torch.randn(V, D))
    return lambda step: metric.update(*batch(step))


def forwarded_torchmetric():
    module = pytest.importorskip("ncfast.integrations.torchmetrics")
    metric = module.NeuralCollapse(V, D, keys="nc1_quotient")

    def update(step: int) -> None:
        if step % 10 == 0:  # a forward pass computes the batch's value too
            metric(*batch(step))

    return update


def term(kind, **settings):
    def make():
        one, head = kind(V, D, weight=0.1, means="ema", **settings), torch.randn(V, D)
        head.requires_grad_(True)

        def update(step: int) -> None:
            x, y = batch(step)
            one(x.requires_grad_(True), y, head).backward()
            head.grad = None

        return update

    return make


MAKERS = {
    "ClassStatistics": statistics,
    "NearestCenterAgreement": agreement,
    "torchmetrics": torchmetric,
    "torchmetrics, called": forwarded_torchmetric,
    "NC3Regularizer": term(NC3Regularizer),
    "WithinClassRegularizer": term(WithinClassRegularizer),
    "UniformityRegularizer": term(UniformityRegularizer),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_memory_stays_flat(name):
    update = MAKERS[name]()
    for step in range(WARM):
        update(step)
    before = resident()
    for step in range(UPDATES):
        update(step)
    assert resident() - before < ROOM


def test_the_measure_sees_what_is_kept():
    before, kept = resident(), []
    for _ in range(100):
        kept.append(torch.ones(N * 1_000))  # 12.8 MB in all
    assert resident() - before > ROOM

"""Two gloo ranks with half a batch each compute the losses, and the update, of one process."""

from __future__ import annotations

import os
import socket

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ncfast.losses import (
    DualityRegularizer,
    UniformityRegularizer,
    WithinClassRegularizer,
    linear_cross_entropy,
)
from ncfast.testing import end_rank, tiny_tokens
from tests.forked import run_ranks

V, D, N, STEPS = 13, 6, 160, 3


class Model(nn.Module):
    """A layer, a head, cross-entropy and every kind of term."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(D, D, dtype=torch.float64)
        self.head = nn.Parameter(tiny_tokens(V, D, 2, torch.float64, seed=1)[0])
        start = torch.randn(D, D, generator=torch.Generator().manual_seed(2)).double()
        self.layer.weight.data.copy_(start)
        self.layer.bias.data.zero_()
        # Class 4 occurs on the second rank only, class 12 nowhere.
        self.terms = nn.ModuleList(
            [
                DualityRegularizer(V, D, [4, 1, 7, 12, 3], means="running", weight=0.5),
                DualityRegularizer(V, D, None, means="ema", half_life=3.0, pairs=[(4, 1)]),
                WithinClassRegularizer(V, D, [4, 1, 7, 12, 3], kind="quotient"),
                UniformityRegularizer(V, D, [4, 1, 7, 12, 3]),
            ]
        ).double()

    def forward(self, x: torch.Tensor, y: torch.Tensor, tokens: float) -> list[torch.Tensor]:
        x = self.layer(x)
        losses = [term(x, y, self.head) for term in self.terms]
        return [linear_cross_entropy(x, self.head, y, num_tokens=tokens), *losses]


def batches():
    for seed in range(STEPS):
        x, y = tiny_tokens(N, D, V - 1, torch.float64, seed=10 + seed)
        y[: N // 2][y[: N // 2] == 4] = 5
        yield x, y


def train(model: nn.Module, half: slice, ranks: int) -> list[torch.Tensor]:
    optimizer, seen = torch.optim.SGD(model.parameters(), lr=0.1), []
    for x, y in batches():
        losses = model(x[half], y[half], float((y >= 0).sum()) / ranks)
        optimizer.zero_grad()
        sum(losses).backward()
        seen.append(torch.stack([loss.detach() for loss in losses[1:]]))
        optimizer.step()
    return [torch.stack(seen), *(p.detach() for p in model.parameters()), *model.buffers()]


def rank_main(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    half = slice(0, N // 2) if rank == 0 else slice(N // 2, N)
    # The terms keep the same state on every rank by themselves: nothing is to be broadcast.
    model = DistributedDataParallel(Model(), broadcast_buffers=False)
    torch.save(train(model, half, 2), f"{folder}/rank{rank}.pt")
    end_rank()


@pytest.mark.skipif(not distributed.is_gloo_available(), reason="torch was built without gloo")
def test_two_ranks_equal_one_process(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run_ranks(rank_main, (port, str(tmp_path)))
    alone = train(Model(), slice(None), 1)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    assert alone[0].all()
    assert len(alone) > 10
    for one, first, second in zip(alone, *ranks, strict=True):
        assert torch.equal(first, second)
        assert torch.allclose(first, one, rtol=1e-10, atol=1e-11)

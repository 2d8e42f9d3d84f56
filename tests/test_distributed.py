"""Two gloo ranks see what one process sees."""

from __future__ import annotations

import os
import socket

import pytest
import torch
from torch import distributed

from ncfast import ClassStatistics, NearestCenterAgreement
from ncfast.errors import DataError
from ncfast.testing import end_rank
from tests.forked import run_ranks

V, D, N = 13, 6, 400


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(N, D, generator=generator, dtype=torch.float64) + 3
    y = torch.randint(0, V, (N,), generator=generator)
    y[::11] = -100
    y[: N // 2][y[: N // 2] == 4] = 5  # class 4 occurs on rank 1 only
    return x, y


def head() -> torch.Tensor:
    return torch.randn(V, D, generator=torch.Generator().manual_seed(6), dtype=torch.float64)


def build() -> ClassStatistics:
    scatter = {"all": None, "few": [2, 4]}
    return ClassStatistics(
        V, D, classes=range(1, V), scatter=scatter, dtype=torch.float64, diagonal=True
    )


def rank_main(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    calls: list[str] = []
    real = distributed.all_reduce

    def counted(tensor: torch.Tensor, *args: object, **kwargs: object) -> object:
        calls.append(str(tuple(tensor.shape)))
        return real(tensor, *args, **kwargs)

    distributed.all_reduce = counted
    x, y = data()
    half = slice(0, N // 2) if rank == 0 else slice(N // 2, N)
    stats = build()
    stats.update(x[half], y[half])
    if rank:  # what was made in another order, as a file may hold it, is the same state
        swapped = {"few": [2, 4], "all": None}
        other = ClassStatistics(
            V, D, classes=range(1, V), scatter=swapped, dtype=torch.float64, diagonal=True
        )
        other.merge(stats)
        stats = other
    stats.all_reduce()
    stats.save(f"{folder}/rank{rank}.safetensors", {"calls": ";".join(calls)})
    stranger = ClassStatistics(V, D, scatter={"few": [2, 4 + rank]})
    stranger.update(torch.ones(1, D), torch.tensor([2]))
    with pytest.raises(DataError, match=r"all_reduce: the states of the ranks differ .* on every"):
        stranger.all_reduce()
    assert stranger.tokens == 1
    found = NearestCenterAgreement(stats, head())
    found.update(x[half], y[half])
    found.all_reduce()
    torch.save((found.hits, found.totals), f"{folder}/agreement{rank}.pt")
    end_rank()


@pytest.mark.parametrize("calls", range(9))
def test_a_peer_that_dies_leaves_the_state_as_it_was(calls, monkeypatch):
    """A ring of two where the other rank has the same, until it dies."""
    done = []

    def reduce(tensor: torch.Tensor, op: object = None, group: object = None) -> None:
        if len(done) == calls:
            raise RuntimeError("Connection closed by peer")
        done.append(tensor)
        if op is None:
            tensor *= 2

    monkeypatch.setattr(distributed, "all_reduce", reduce)
    stats = build()
    stats.update(*data())
    agreement = NearestCenterAgreement(stats, head())
    agreement.update(*data())
    before = {name: tensor.clone() for name, tensor in stats._tensors().items()}
    if calls < 8:
        with pytest.raises(RuntimeError, match="Connection closed"):
            stats.all_reduce()
        for name, tensor in stats._tensors().items():
            assert torch.equal(tensor, before[name]), name
    else:
        stats.all_reduce()
        assert torch.equal(stats.counts, 2 * before["counts"])
        assert torch.equal(stats.means, before["means"])
        assert stats.feature_roundoff == 2.0**-53
    if calls == 0:
        hits = agreement.hits.clone()
        with pytest.raises(RuntimeError, match="Connection closed"):
            agreement.all_reduce()
        assert torch.equal(agreement.hits, hits)


@pytest.mark.skipif(not distributed.is_gloo_available(), reason="torch was built without gloo")
def test_two_ranks_equal_one_process(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run_ranks(rank_main, (port, str(tmp_path)))
    alone = build()
    alone.update(*data())
    ranks = [ClassStatistics.load(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1)]
    for rank in ranks:
        assert torch.equal(rank.counts, alone.counts)
        assert rank.ignored == alone.ignored
        assert rank.outside == alone.outside
        pairs = [(rank.means, alone.means), (rank.m2, alone.m2)]
        pairs += [(rank.diagonal_m2, alone.diagonal_m2)]
        pairs += [(rank.scatter[name], alone.scatter[name]) for name in alone.scatter]
        for found, expected in pairs:
            assert (found - expected).abs().max() <= 1e-10 * expected.abs().max()
        # One all_reduce per state tensor (counts, means, m2, diagonal, two scatters, the tally),
        # and one of what features were stored in.
        assert len(rank.metadata["calls"].split(";")) == 8
    assert torch.equal(ranks[0].means, ranks[1].means)
    found = NearestCenterAgreement(alone, head())
    found.update(*data())
    for rank in (0, 1):
        hits, totals = torch.load(tmp_path / f"agreement{rank}.pt")
        assert torch.equal(hits, found.hits)
        assert torch.equal(totals, found.totals)

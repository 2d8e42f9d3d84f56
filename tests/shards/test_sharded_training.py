"""Steps of a model under tensor parallelism, FSDP2 and both equal those of one process."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ncfast.losses import linear_cross_entropy
from ncfast.testing import tiny_tokens

V, D, N, STEPS = 23, 4, 24, 3
# name: sizes of the mesh (data parallel, tensor parallel) of 2 and of 4 ranks
MESHES = {
    "tensor parallel": {2: (1, 2), 4: (1, 4)},
    "fsdp": {2: (2, 1), 4: (4, 1)},
    "2 x 2": {4: (2, 2)},
    "2 x 2, inside forward": {4: (2, 2)},
}
TIED = (True, False)


class Model(nn.Module):
    """An embedding, a layer, and a head that computes its own loss."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, D, dtype=torch.float64)
        self.layer = nn.Linear(D, D, dtype=torch.float64)
        self.head = Head(self.embedding if tied else None)
        for seed, parameter in enumerate(self.parameters()):
            generator = torch.Generator().manual_seed(seed)
            parameter.data = torch.randn(parameter.shape, generator=generator).double()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(self.embedding(ids)))


class Head(nn.Module):
    """A head of its own, or the embedding's rows."""

    def __init__(self, embedding: nn.Embedding | None) -> None:
        super().__init__()
        self.tied = [] if embedding is None else [embedding]  # in a list: no submodule
        if embedding is None:
            self.weight = nn.Parameter(torch.zeros(V, D, dtype=torch.float64))
            self.bias = nn.Parameter(torch.zeros(V, dtype=torch.float64))

    def forward(self, x: torch.Tensor, y: torch.Tensor, tokens: float) -> torch.Tensor:
        weight = self.tied[0].weight if self.tied else self.weight
        bias = None if self.tied else self.bias
        return linear_cross_entropy(
            x, weight, y, linear_bias=bias, num_tokens=tokens, z_loss=0.01, label_smoothing=0.1
        )


def batch(step: int, part: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and labels of a part of a step: ragged, and the first part has none at step 1."""
    tokens = 0 if (step, part) == (1, 0) else N - 5 * part
    ids = torch.randint(0, V, (tokens,), generator=torch.Generator().manual_seed(step + 10 * part))
    return ids, tiny_tokens(tokens, 1, V, seed=100 + step + 10 * part)[1]


def train(model: Model, loss_of, parts: list[int], all_parts: int) -> None:
    """Train on some of the parts; gradients are averaged over ``all_parts`` by what shards it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    for step in range(STEPS):
        count = max(1, sum(int((batch(step, p)[1] >= 0).sum()) for p in range(all_parts)))
        optimizer.zero_grad()
        for part in parts:
            ids, y = batch(step, part)
            (loss_of(model, model(ids), y, count / (all_parts / len(parts)))).backward()
        optimizer.step()


def outside(model: Model, x: torch.Tensor, y: torch.Tensor, tokens: float) -> torch.Tensor:
    """Compute the loss where no hook gathers the head."""
    return Head.forward(model.head, x, y, tokens)


def inside(model: Model, x: torch.Tensor, y: torch.Tensor, tokens: float) -> torch.Tensor:
    """Compute it in the head's own forward, where FSDP has gathered it over its axis."""
    return model.head(x, y, tokens)


def sharded(name: str, sizes: tuple[int, int], tied: bool) -> Model:
    """Return the model as users shard one."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor
    from torch.distributed.tensor.parallel import RowwiseParallel, parallelize_module

    model = Model(tied)
    mesh = init_device_mesh("cpu", sizes, mesh_dim_names=("dp", "tp"))
    if sizes[1] > 1:
        rows = RowwiseParallel(input_layouts=Replicate())
        parallelize_module(model, mesh["tp"], {"embedding": rows})
        for parameter in () if tied else ("weight", "bias"):
            whole = getattr(model.head, parameter).data
            part = nn.Parameter(distribute_tensor(whole, mesh["tp"], [Shard(0)]))
            setattr(model.head, parameter, part)
    if sizes[0] > 1:
        for module in (model.embedding, model.layer, *([] if tied else [model.head])):
            fully_shard(module, mesh=mesh["dp"])
        fully_shard(model, mesh=mesh["dp"])
    return model


def cases_of_rank(rank: int, ranks: int) -> dict:
    """Return the trained parameters of every way to shard, and how the head lay."""
    found = {}
    for name, meshes in MESHES.items():
        if ranks not in meshes:
            continue
        sizes = meshes[ranks]
        for tied in TIED:
            if tied and "inside" in name:
                continue
            model = sharded(name, sizes, tied)
            train(model, inside if "inside" in name else outside, [rank // sizes[1]], sizes[0])
            weight = (model.embedding if tied else model.head).weight
            parameters = {
                key: getattr(p, "full_tensor", lambda p=p: p)().detach()
                for key, p in model.named_parameters()
            }
            found["trained", name, tied] = parameters, len(weight.to_local())
    return found


def check(name: str, count: int, tied: bool, found: list[dict]) -> None:
    parts = MESHES[name][count][0]
    alone = Model(tied)
    train(alone, outside, list(range(parts)), parts)
    start = dict(Model(tied).named_parameters())
    for one in found:
        parameters, rows = one["trained", name, tied]
        assert rows < V
        assert {*parameters} == {key for key, _ in alone.named_parameters()}
        for key, parameter in alone.named_parameters():
            assert not torch.allclose(parameter, start[key], atol=0.05), key
            torch.testing.assert_close(parameters[key], parameter.detach(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("tied", TIED)
@pytest.mark.parametrize("name", [name for name in MESHES if 2 in MESHES[name]])
def test_two_ranks_train_as_one_process(name, tied, ranks):
    check(name, 2, tied, ranks(2))


@pytest.mark.slow
@pytest.mark.parametrize("tied", TIED)
@pytest.mark.parametrize("name", MESHES)
def test_four_ranks_train_as_one_process(name, tied, ranks):
    if tied and "inside" in name:
        pytest.skip("a tied head has no forward of its own")
    check(name, 4, tied, ranks(4))

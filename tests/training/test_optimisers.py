"""Optimisers by name: each follows the learning rate and decay it is given, or is refused."""

from __future__ import annotations

import inspect

import pytest
import torch

from ncfast.training import make_optimizer

NAMES = [
    name
    for name, found in vars(torch.optim).items()
    if inspect.isclass(found) and issubclass(found, torch.optim.Optimizer)
]


def trained(name: str, rate: float, decay: float) -> torch.Tensor:
    """Return a matrix after three steps, two at another rate (ASGD follows it a step late)."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 3, bias=False)
    optimizer = make_optimizer(layer, name, 0.01, decay)
    for lr in (0.01, rate, rate):
        optimizer.zero_grad()
        (layer(torch.eye(3)) + 1).square().sum().backward()  # no multiple of the weight
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    return layer.weight.detach()


@pytest.mark.parametrize("name", NAMES)
def test_rate_and_decay_are_followed(name):
    if name in ("Optimizer", "LBFGS", "SparseAdam", "Rprop"):
        with pytest.raises(ValueError, match=f"no optimizer '{name}'.*a learning rate and a decay"):
            trained(name, 0.01, 0.0)
        return
    plain = trained(name, 0.01, 0.0)
    assert not torch.equal(trained(name, 0.02, 0.0), plain)
    assert not torch.equal(trained(name, 0.01, 0.5), plain)

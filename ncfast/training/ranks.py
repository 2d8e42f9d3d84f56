"""The processes of one run: what they add up, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn


def gradient_norm(model: nn.Module) -> float:
    """Return the length of a model's whole gradient, in float64.

    Args:
        model: its parameters without a gradient count as 0.

    Returns:
        The Euclidean norm.

    Example:
        >>> gradient_norm(nn.Linear(2, 2))
        0.0
    """
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    # A float64 norm of a float32 tensor copies it whole; 4 MiB at a time is as exact.
    pieces = [piece for grad in grads for piece in grad.split(1 << 20)]
    squares = [torch.linalg.vector_norm(p, dtype=torch.float64).square() for p in pieces]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


@dataclass(frozen=True)
class Ranks:
    """Name this process among those that share every optimiser step.

    Gradients are averaged, as DistributedDataParallel does; a loss that is a sum over tokens is
    therefore divided by the tokens of all ranks over the number of ranks.

    Args:
        rank: this process.
        size: how many there are.

    Example:
        >>> Ranks().size
        1
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """Return the ranks of the process group that is set up, or one."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    def sum_of(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks.

        Args:
            value: any shape, the same on every rank; left as it is.

        Returns:
            The sum.

        Example:
            >>> Ranks().sum_of(torch.tensor(2))
            tensor(2)
        """
        if self.size == 1:
            return value
        total = value.clone()
        distributed.all_reduce(total)
        return total

    def any_of(self, flags: Tensor) -> list[bool]:
        """Return for each flag whether it is set on any rank: what one decides, all do.

        Args:
            flags: integers, as many on every rank, on the device the ranks talk through.

        Returns:
            As many.

        Example:
            >>> Ranks().any_of(torch.tensor([1, 0]))
            [True, False]
        """
        return [bool(count) for count in self.sum_of(flags)]

    def average_gradients(self, model: nn.Module) -> None:
        """Average the gradients of a model over all ranks, in one message.

        A parameter without a gradient on some rank counts as 0 there, so that all ranks agree.

        Args:
            model: the same on every rank.

        Example:
            >>> Ranks().average_gradients(nn.Linear(2, 2))
        """
        if self.size == 1:
            return
        trained = [p for p in model.parameters() if p.requires_grad]
        flat = torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained]
        )
        distributed.all_reduce(flat)
        flat /= self.size
        for parameter, grad in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
            parameter.grad = grad.view_as(parameter).clone()

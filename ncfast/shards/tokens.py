"""How the tokens of a call lie on the ranks that hold the head."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, distributed

from .collectives import all_gather, padded

__all__ = ["Tokens"]


@dataclass(frozen=True)
class Tokens:
    """Say how the tokens of a call lie on the ranks that hold the head."""

    # The groups along whose axis ranks bring different tokens, to be gathered
    apart: tuple[Any, ...]
    alike: tuple[Any, ...]  # The others: along them all ranks bring the same
    longest: int  # The tokens of the rank that brings most
    first: int  # Where this rank's own stand among the gathered ones
    own: int  # How many they are
    ranks: tuple[int, ...]  # The global ranks that bring the same as this one, itself included
    owners: tuple[int, ...]  # The global ranks whose tokens are gathered, in their order
    need_grad: bool  # Whether any rank asks for a gradient to its features

    @property
    def spread(self) -> int:
        """How many ranks bring different tokens."""
        return math.prod(distributed.get_world_size(group) for group in self.apart)

    def gather(self, op: str, tensor: Tensor, pad: float = 0, what: str = "tokens") -> Tensor:
        """Return a tensor of own tokens as that of all; what pads a rank's tokens is ``pad``."""
        if not self.apart:
            return tensor
        rows = padded(tensor, self.longest)
        if pad:
            rows[len(tensor) :] = pad
        return all_gather(op, rows, self.apart, what)

    def mine(self, tensor: Tensor) -> Tensor:
        """Return this rank's own of a tensor of all tokens."""
        return tensor[self.first : self.first + self.own]

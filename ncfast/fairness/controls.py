"""Controls: a model that finds all tokens alike, and head rows turned at random by as much."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from collections.abc import Sequence as Ordered
from typing import Any

import torch
from torch import Tensor

from ..language import LanguageModel, WordSet
from .errors import EvaluationError
from .requests import Masked, Sequence

__all__ = ["NoiseControl", "UniformScorer", "turn"]

DEGREES = 15.0


class NoiseControl:
    """Turn a model's gendered head rows at random, by as much as another model's differ.

    A rotation keeps each row's length. With a second model, row i turns by the angle between the
    two models' rows i, of every row that changed; without one, the rows of the word set ``gender``
    turn by 15 degrees. What a benchmark shows for these copies is what change of this size does by
    itself. The first model's head is restored afterwards.
    """

    def __init__(self, first: LanguageModel, second: LanguageModel | None = None) -> None:
        self._model, head = first, first.head_weight.detach()
        if second is None:
            self._ids = WordSet.load("gender").to_classes(first.tokenizer).ids.to(head.device)
            degrees = torch.full(
                (len(self._ids),), DEGREES, device=head.device, dtype=torch.float32
            )
            self._angles = degrees.deg2rad()
            self.description = f"{len(self._ids)} gendered head rows turned by {DEGREES:g} degrees"
            return
        other = second.head_weight.detach().to(head.device)
        if other.shape != head.shape:
            raise EvaluationError(
                f"noise control: head rows {tuple(head.shape)} and {tuple(other.shape)}; expected "
                "one shape"
            )
        cosine = torch.nn.functional.cosine_similarity(head.double(), other.double(), dim=1)
        angles = cosine.clamp(-1, 1).acos()
        # A row of zeros has no direction, as padding of a vocabulary has not.
        turned = (angles > 1e-6) & head.any(1) & other.any(1)
        self._ids = turned.nonzero()[:, 0]
        if not len(self._ids):
            raise EvaluationError("noise control: no head row differs between the two models")
        self._angles = angles[self._ids].to(head.dtype)
        middle = float(self._angles.float().median().rad2deg())
        self.description = (
            f"{len(self._ids)} head rows turned, by {middle:.3g} degrees in the median"
        )

    @contextlib.contextmanager
    def turned(self, seed: int) -> Iterator[str]:
        """Turn the rows within the block; the block gets a digest of the change."""
        head = self._model.head_weight
        if not isinstance(head, torch.nn.Parameter):
            raise EvaluationError("noise control: the head is made of adapters; merge them first")
        kept = head.detach()[self._ids].clone()
        with torch.no_grad():
            head[self._ids] = turn(kept, self._angles, seed)
            digest = hashlib.sha256(head[self._ids].float().cpu().numpy().tobytes()).hexdigest()
            try:
                yield digest
            finally:
                head[self._ids] = kept


def turn(rows: Tensor, angles: Tensor, seed: int) -> Tensor:
    """Turn each row [n, D] by its angle (radians) towards a random direction at right angles.

    >>> turned = turn(torch.eye(3)[:1], torch.tensor([torch.pi / 2]), seed=0)
    >>> round(turned.norm().item(), 5), abs(turned[0, 0].item()) < 1e-6
    (1.0, True)
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows.shape, generator=generator, dtype=torch.float64).to(rows.device)
    length = rows.double().norm(dim=1, keepdim=True)
    unit = rows.double() / length.clamp(min=1e-300)
    side = noise - (noise * unit).sum(1, keepdim=True) * unit
    side = side / side.norm(dim=1, keepdim=True)
    a = angles.double()[:, None]
    return (length * (a.cos() * unit + a.sin() * side)).to(rows.dtype)


class UniformScorer:
    """Answer as a model that finds every class equally likely: all ties, by construction.

    >>> scorer = UniformScorer(None, "causal", vocab_size=4)
    >>> sum(scorer.sequences([Sequence((0, 1, 2))])[0])  # 2 ln(1/4)
    -2.772588722239781
    """

    def __init__(self, tokenizer: Any, kind: str, vocab_size: int) -> None:
        self.tokenizer, self.kind = tokenizer, kind
        self._value = -float(torch.tensor(float(vocab_size), dtype=torch.float64).log())

    def masked(self, requests: Ordered[Masked]) -> list[tuple[float, ...]]:
        """Return -ln V for every candidate."""
        return [(self._value,) * len(request.candidates) for request in requests]

    def sequences(self, requests: Ordered[Sequence]) -> list[tuple[float, ...]]:
        """Return -ln V for every token after the first."""
        return [(self._value,) * (len(request.ids) - 1) for request in requests]

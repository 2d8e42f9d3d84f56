"""What to evaluate, and how."""

from __future__ import annotations

from dataclasses import dataclass

from .benchmarks import make
from .data import DEFAULT_DATA
from .errors import EvaluationError
from .resampling import RESAMPLES

__all__ = ["ATTRIBUTES", "Settings"]

ATTRIBUTES = ("gender", "race", "religion", "all")


@dataclass(frozen=True)
class Settings:
    """Say what to evaluate, and how.

    Attributes:
        on: benchmarks by name, or ``("all",)``: every one whose files are in the data, without
            those that take hours (they are named in ``skipped``, with the reason).
        data: folder, file, ``demo:fairness``, a ``pypi:`` spec or ``hf:NAME[:CONFIG]``.
        attribute: which bias: ``gender``, ``race``, ``religion`` or ``all``.
        uniform: also score a model that finds every token equally likely.
        noise: also score so many copies of the first model whose gendered head rows are turned at
            random, by as much as the second model's differ from them (15 degrees with one model).
        seed: of resamples and controls.
        resamples: of the bootstrap.
        batch_tokens: tokens of a forward pass, padding included; None: by the model's widths.
    """

    on: tuple[str, ...] = ("all",)
    data: str = DEFAULT_DATA
    attribute: str = "gender"
    uniform: bool = False
    noise: int = 0
    seed: int = 0
    resamples: int = RESAMPLES
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        """Reject settings that mean nothing."""
        if self.attribute not in ATTRIBUTES:
            expected = ", ".join(ATTRIBUTES)
            raise EvaluationError(f"attribute is {self.attribute!r}; expected one of {expected}")
        if not self.on:
            raise EvaluationError("on is empty; expected benchmarks or 'all'")
        tokens = 1 if self.batch_tokens is None else self.batch_tokens
        if self.noise < 0 or self.resamples < 2 or tokens < 1:
            raise EvaluationError(
                f"noise={self.noise}, resamples={self.resamples}, "
                f"batch_tokens={self.batch_tokens}; expected 0 or more, 2 or more, 1 or more"
            )
        for name in self.on:
            if name != "all":
                make(name)

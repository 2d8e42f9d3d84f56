"""What every group of metrics reads, and the reasons for which one is undefined."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from ..geometry import Rows
from ..presets import Preset
from ..statistics import ClassStatistics
from .rounding import Rounding, rounding_of_means
from .split_head import SplitHead

__all__ = ["EQUAL", "FEW", "FEW_PAIRS", "NO_CLASS", "NO_HEAD", "ROUNDED", "Measured"]

NO_CLASS, FEW, EQUAL = "no class occurred", "needs two classes", "all class means are equal"
ROUNDED = "all class means are equal up to their rounding"
FEW_PAIRS = "needs two pairs of classes"
NO_HEAD = "no head_weight was given"


@dataclass(frozen=True)
class Measured:
    """Hold what every group of metrics reads."""

    stats: ClassStatistics
    slots: Tensor
    center: Tensor
    head_weight: Tensor | None
    columns: dict[str, Tensor]
    conventions: Preset
    center_name: str = "classes"
    split_head: SplitHead | None = None

    @property
    def count(self) -> int:
        return self.slots.numel()

    @property
    def few(self) -> str:
        if self.count >= 2:
            return ""
        return FEW if self.count else NO_CLASS

    @cached_property
    def rounding(self) -> Rounding:
        return rounding_of_means(self.stats, self.slots, self.center_name)

    @cached_property
    def equal(self) -> str:
        """Why differences of means say nothing, if they do not."""
        lengths = self.columns["norms"]
        between = float(lengths.square().mean()) if self.count else 0.0
        if not bool(lengths.any()):
            return EQUAL
        return ROUNDED if between <= self.rounding.total else ""

    @cached_property
    def at_center(self) -> Tensor:
        """[K] bool, means so near the center that their direction is rounding."""
        return self.columns["norms"] <= self.rounding.reach + self.rounding.center

    @cached_property
    def directionless(self) -> str:
        """Say how many means those are."""
        count = int(self.at_center.sum())
        if not count:
            return ""
        return f"{count} class means equal the center up to rounding: their cosine counts as 0"

    @property
    def means(self) -> Rows:
        """The means less their center, zero for those that equal it up to rounding."""
        return Rows(self.stats.means, self.slots, self.center, self.at_center)

    @property
    def head(self) -> Rows | None:
        if self.head_weight is None:
            return None
        return Rows(self.head_weight, self.columns["class_ids"])

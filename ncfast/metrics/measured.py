"""What every group of metrics reads, and the reasons for which one is undefined."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..geometry import Rows
from ..presets import Preset
from ..statistics import ClassStatistics

__all__ = ["EQUAL", "FEW", "FEW_PAIRS", "NO_CLASS", "NO_HEAD", "Measured"]

NO_CLASS, FEW, EQUAL = "no class occurred", "needs two classes", "all class means are equal"
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

    @property
    def count(self) -> int:
        return self.slots.numel()

    @property
    def few(self) -> str:
        if self.count >= 2:
            return ""
        return FEW if self.count else NO_CLASS

    @property
    def means(self) -> Rows:
        return Rows(self.stats.means, self.slots, self.center)

    @property
    def head(self) -> Rows | None:
        if self.head_weight is None:
            return None
        return Rows(self.head_weight, self.columns["class_ids"])

"""The state itself: what it keeps, what it is made of, and what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from .class_ids import checked_ids, slot_table

__all__ = ["State"]

POOLED = "all"  # the scatter of every kept class


class State:
    """Hold counts, means, spreads and scatters of classes; ``ClassStatistics`` documents them."""

    def __init__(
        self,
        num_classes: int,
        dim: int,
        classes: Any = None,
        scatter: bool | Mapping[str, Any] = True,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        nan: str = "raise",
        diagonal: bool = False,
    ) -> None:
        for name, value in (("num_classes", num_classes), ("dim", dim)):
            if value < 1:
                raise ValueError(f"ClassStatistics: {name} is {value}; expected at least 1")
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(f"ClassStatistics: dtype is {dtype}; expected float32 or float64")
        if nan not in ("raise", "drop"):
            raise ValueError(f"ClassStatistics: nan is {nan!r}; expected 'raise' or 'drop'")
        self.num_classes, self.dim, self.dtype, self.nan = num_classes, dim, dtype, nan
        self.diagonal = bool(diagonal)
        self.device = torch.device(device)
        self.metadata: dict[str, str] = {}
        try:
            self._make(classes, scatter)
        except RuntimeError as error:
            raise self._too_large(error) from None

    def _make(self, classes: Any, scatter: bool | Mapping[str, Any]) -> None:
        """Allocate everything, all of it zero."""
        num_classes = self.num_classes
        self.classes: Tensor | None = None
        self._slots: Tensor | None = None
        if classes is not None:
            self.classes = checked_ids("classes", classes, num_classes).to(self.device)
            self._slots = slot_table(self.classes, num_classes)
        self.scatter_ids: dict[str, Tensor | None] = {}
        self._scatter_slots: dict[str, Tensor] = {}
        wanted: Mapping[str, Any] = (
            ({POOLED: None} if scatter else {}) if isinstance(scatter, bool) else scatter
        )
        for name, ids in wanted.items():
            self._add_scatter(name, ids)
        self.reset()

    def _too_large(self, error: RuntimeError) -> MemoryError:
        """Say in a sentence what torch's allocator says in several lines."""
        slots = self.num_classes if self.classes is None else self.classes.numel()
        size = slots * (self.dim * self.dtype.itemsize + 16) + 8 * self.num_classes
        return MemoryError(
            f"ClassStatistics: num_classes={self.num_classes} and dim={self.dim} with {slots} "
            f"classes kept need about {size / 2**30:,.0f} GiB and more for scatters, which "
            f"{self.device} does not have: {str(error).splitlines()[0]}"
        )

    def _add_scatter(self, name: str, ids: Any) -> None:
        if ids is None:
            self.scatter_ids[name] = None
            return
        chosen = checked_ids(f"scatter[{name!r}]", ids, self.num_classes).to(self.device)
        self.slots_of(chosen, f"scatter[{name!r}]")
        self.scatter_ids[name] = chosen
        self._scatter_slots[name] = slot_table(chosen, self.num_classes)

    def slots_of(self, ids: Tensor, name: str) -> Tensor:
        """Return the slots of class ids, or raise where one is not kept."""
        if self._slots is None:
            return ids
        slots = self._slots[ids]
        if bool((slots < 0).any()):
            missing = ids[slots < 0][:5].tolist()
            raise DataError(
                f"ClassStatistics: {name} names classes this state does not keep: {missing}"
            )
        return slots

    @property
    def class_ids(self) -> Tensor:
        """[K] int64, the class of every slot."""
        if self.classes is not None:
            return self.classes
        return torch.arange(self.num_classes, device=self.device)

    @property
    def tokens(self) -> int:
        """Tokens that entered a class."""
        return int(self.counts.sum())

    @property
    def ignored(self) -> int:
        """Tokens labelled -100."""
        return int(self._tally[0])

    @property
    def outside(self) -> int:
        """Tokens of classes that are not kept."""
        return int(self._tally[1])

    @property
    def dropped(self) -> int:
        """Tokens left out for NaN or Inf features (``nan="drop"``)."""
        return int(self._tally[2])

    def diagonal_variances(self) -> Tensor:
        """Return [K, D] float64, the variance of every class along every axis; 0 where unseen.

        Raises:
            ValueError: The state was not made with ``diagonal=True``.
        """
        if self.diagonal_m2 is None:
            raise ValueError(
                "ClassStatistics.diagonal_variances: diagonal is False; expected a state made "
                "with diagonal=True before the pass"
            )
        return self.diagonal_m2 / self.counts.clamp(min=1)[:, None]

    def reset(self) -> None:
        """Forget everything seen."""
        slots = self.num_classes if self.classes is None else self.classes.numel()
        device = self.device
        self.counts = torch.zeros(slots, dtype=torch.int64, device=device)
        self.means = torch.zeros(slots, self.dim, dtype=self.dtype, device=device)
        self.m2 = torch.zeros(slots, dtype=torch.float64, device=device)
        self.scatter = {
            name: torch.zeros(self.dim, self.dim, dtype=torch.float64, device=device)
            for name in self.scatter_ids
        }
        self.diagonal_m2 = (
            torch.zeros_like(self.means, dtype=torch.float64) if self.diagonal else None
        )
        self._tally = torch.zeros(3, dtype=torch.int64, device=device)
        self.feature_roundoff = 0.0

    def _arguments(self) -> dict[str, Any]:
        return {
            "num_classes": self.num_classes,
            "dim": self.dim,
            "classes": self.classes,
            "scatter": dict(self.scatter_ids),
            "dtype": self.dtype,
            "nan": self.nan,
            "diagonal": self.diagonal,
        }

    def _configuration(self) -> dict[str, Any]:
        return {
            "num_classes": self.num_classes,
            "dim": self.dim,
            "classes": None if self.classes is None else self.classes.numel(),
            "scatter": sorted(self.scatter_ids),
            "dtype": str(self.dtype).removeprefix("torch."),
            "diagonal": self.diagonal,
        }

    def _tensors(self) -> dict[str, Tensor]:
        state = {"counts": self.counts, "means": self.means, "m2": self.m2, "tally": self._tally}
        if self.diagonal_m2 is not None:
            state["diagonal_m2"] = self.diagonal_m2
        return state | {f"scatter/{name}": value for name, value in self.scatter.items()}

    def __repr__(self) -> str:
        kept = "all" if self.classes is None else self.classes.numel()
        return (
            f"ClassStatistics(num_classes={self.num_classes}, dim={self.dim}, classes={kept}, "
            f"tokens={self.tokens}, scatter={sorted(self.scatter)})"
        )

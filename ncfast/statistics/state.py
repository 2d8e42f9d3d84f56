"""The state itself: what it keeps, what it is made of, and what it says of itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from .class_ids import checked_ids, slot_table
from .storage import Storage

__all__ = ["State"]

POOLED = "all"  # the scatter of every kept class


class State:
    """Hold counts, means, spreads and scatters of classes; ``ClassStatistics`` documents them."""

    # What is made in inference mode could be written to nowhere else: a state goes on outside.
    @torch.inference_mode(False)
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
        storage: str | os.PathLike[str] | None = None,
    ) -> None:
        self._prepare(
            num_classes,
            dim,
            classes,
            scatter=scatter,
            dtype=dtype,
            device=device,
            nan=nan,
            diagonal=diagonal,
            stored=storage is not None,
        )
        if storage is not None:
            self._store(Path(storage))

    def _prepare(
        self,
        num_classes: int,
        dim: int,
        classes: Any,
        *,
        scatter: bool | Mapping[str, Any],
        dtype: torch.dtype,
        device: torch.device | str,
        nan: str,
        diagonal: bool,
        stored: bool,
    ) -> None:
        """Check the settings and make everything; of a state that is stored, all but its rows."""
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
        if stored and self.device.type != "cpu":
            raise ValueError(
                f"ClassStatistics: storage is given and device is {self.device}; expected cpu"
            )
        self.metadata: dict[str, str] = {}
        self._stored = stored
        self._storage: Storage | None = None
        try:
            self._make(classes, scatter)
        except RuntimeError as error:
            raise self._too_large(error) from None

    def _store(self, folder: Path) -> None:
        """Put the rows into files of a new folder."""
        raise NotImplementedError

    def _keep(self, slots: Tensor | None = None) -> None:
        """Make rows of the state safe that are about to change; None for all of them."""
        self._leave_inference_mode()
        if self._storage is None:
            return
        if slots is None:
            self._storage.keep_all()
        else:
            self._storage.keep(slots[(slots >= 0) & (slots < self.counts.numel())])

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
        sets: Mapping[str, Any] = (
            ({POOLED: None} if scatter else {}) if isinstance(scatter, bool) else scatter
        )
        for name, ids in sets.items():
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
        """Return [K, D] float64, the variance of every class along every axis; 0 where unseen."""
        if self.diagonal_m2 is None:
            raise ValueError(
                "ClassStatistics.diagonal_variances: diagonal is False; expected a state made "
                "with diagonal=True before the pass"
            )
        return self.diagonal_m2 / self.counts.clamp(min=1)[:, None]

    @torch.inference_mode(False)
    def reset(self) -> None:
        """Forget everything seen."""
        if self._storage is not None:
            self._storage.keep_all()
        slots = self.num_classes if self.classes is None else self.classes.numel()
        device = self.device
        self.counts = torch.zeros(slots, dtype=torch.int64, device=device)
        self._reset_rows(slots)
        self.m2 = torch.zeros(slots, dtype=torch.float64, device=device)
        self.scatter = {
            name: torch.zeros(self.dim, self.dim, dtype=torch.float64, device=device)
            for name in self.scatter_ids
        }
        self._tally = torch.zeros(3, dtype=torch.int64, device=device)
        self.feature_roundoff = 0.0

    def _reset_rows(self, slots: int) -> None:
        if self._storage is not None:
            for tensor in self._storage.rows.values():
                tensor.zero_()
            self._storage.release()  # all rows are mapped now
            return
        shape = (0 if self._stored else slots, self.dim)  # those of files come later
        self.means = torch.zeros(shape, dtype=self.dtype, device=self.device)
        self.diagonal_m2: Tensor | None = None
        if self.diagonal:
            self.diagonal_m2 = torch.zeros(shape, dtype=torch.float64, device=self.device)

    def _row_types(self) -> dict[str, torch.dtype]:
        """Return the dtype of everything that is [K, D]."""
        return {"means": self.dtype} | ({"diagonal_m2": torch.float64} if self.diagonal else {})

    def _use(self, storage: Storage) -> None:
        """Let the rows of files be those of this state."""
        self._storage = storage
        self.means = storage.rows["means"]
        self.diagonal_m2 = storage.rows.get("diagonal_m2")

    def _leave_inference_mode(self) -> None:
        """Clone what was copied in inference mode, which nothing may write to elsewhere."""
        if torch.is_inference_mode_enabled():
            return
        kept = {n: t.clone() if t.is_inference() else t for n, t in self._tensors().items()}
        self.counts, self.m2, self._tally = kept["counts"], kept["m2"], kept["tally"]
        self.means, self.diagonal_m2 = kept["means"], kept.get("diagonal_m2")
        self.scatter = {name: kept[f"scatter/{name}"] for name in self.scatter}

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

"""Class statistics: how batches, other states and files enter the state."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import functional as F
from ..arrays import as_labels, as_tensor
from ..device_errors import check_device_errors
from ..functional.checks import finite_rows
from . import file, merging, stored, subsets
from .class_ids import slots_of_labels
from .diagonal import add_batch, remember
from .state import State

__all__ = ["ClassStatistics"]


class ClassStatistics(State):
    r"""Accumulate the count, mean, spread and scatter of classes over any number of batches.

    One pass over the data is enough: moments are merged by Chan's formula, so batch sizes, their
    order, and how the data is divided among ranks or files change nothing beyond rounding.

    Args:
        num_classes: V, the number of classes labels may name.
        dim: D, the width of a feature.
        classes: ids of the classes to keep, on compact slots; None keeps all V.
        scatter: True keeps one pooled within-class scatter, named ``"all"``; a mapping
            ``{name: ids or None}`` keeps one per name, over that subset of the kept classes
            (None: all of them); False keeps none. A subset's scatter must be asked for before the
            pass: it cannot be had from the pooled one.
        dtype: of the running means, float32 or float64. Spreads and scatters are always float64.
        device: where the state lives; batches must live there too.
        nan: ``"raise"`` rejects a batch with NaN or Inf in a feature that counts; ``"drop"``
            leaves such tokens out and counts them.
        diagonal: keep ``diagonal_m2`` [K, D] float64, the sums of squared deviations of every class
            along every axis, for a diagonal covariance per class (``diagonal_variances``).
        storage: a folder to be made, in whose files the means (and ``diagonal_m2``) live instead of
            in memory; None keeps them in memory. What was seen is kept by :meth:`commit`: after a
            crash, :meth:`load` of the folder gives the last commit, whole, or raises. Its rows
            change through ``update``, ``merge`` and ``reset`` alone. Linux, device ``"cpu"``.

    Attributes:
        counts: [K] int64; means: [K, D] ``dtype``; m2: [K] float64, sums of squared distances to
            the mean; scatter: name -> [D, D] float64.
        feature_roundoff: the unit roundoff of the coarsest features seen, 2^-24 for float32; 0
            before the first. It says what differences of means can be told from rounding.
        metadata: strings that travel with the file.

    Memory: K (D + 2) numbers, where K is V or the number of classes kept, 8 D^2 bytes per scatter,
    and 8 K D bytes more with ``diagonal``: 179 MiB at K = 30,522, D = 768. With ``storage`` at most
    1 GiB of the rows stays mapped in memory between updates, and a commit writes the rest, 28
    bytes per class and the scatters.

    >>> stats = ClassStatistics(num_classes=3, dim=1)
    >>> stats.update(torch.tensor([[1.0], [3.0]]), torch.tensor([2, 2]))
    >>> stats.update(torch.tensor([[5.0]]), torch.tensor([2]))
    >>> stats.counts.tolist(), stats.means[2].item(), stats.m2[2].item()
    ([0, 0, 3], 3.0, 8.0)
    """

    def update(self, x: Tensor, y: Tensor) -> None:
        """Merge one batch; a batch that is rejected changes nothing.

        Args:
            x: [..., D] float features, of at most the precision of the state, of torch or NumPy.
            y: [...] whole numbers, classes in ``[0, num_classes)``, or -100 to ignore the token.

        Raises:
            ValueError, TypeError: A shape, dtype or device is wrong.
            ncfast.DataError: A label is out of range, or a feature that counts is NaN or Inf.
        """
        op = "ClassStatistics.update"
        x, y = as_tensor(op, "x", x), as_labels(op, y)
        if x.shape[-1:] != (self.dim,) or x.shape[:-1] != y.shape:
            raise ValueError(
                f"ClassStatistics.update: x is {tuple(x.shape)} and y is {tuple(y.shape)}; "
                f"expected [..., {self.dim}] and the same leading sizes"
            )
        if x.dtype == torch.float64 and self.means.dtype != torch.float64:
            raise TypeError(
                f"{op}: x is float64, of more precision than this state's float32 means; expected "
                "x.float(), or ClassStatistics(..., dtype=torch.float64)"
            )
        x, y = x.detach().reshape(-1, self.dim), y.reshape(-1)
        y, nonfinite = self._without_nonfinite(x, y) if self.nan == "drop" else (y, None)
        slots = slots_of_labels(self._slots, y, self.num_classes)
        self._keep(slots)
        of_subsets = subsets.remember(self)
        of_axes = remember(slots, self.counts, self.means) if self.diagonal else None
        pooled = [name for name, ids in self.scatter_ids.items() if ids is None]
        before = {name: self.scatter[name].clone() for name in pooled[:1] if len(pooled) > 1}
        F.accumulate_class_moments_(
            self.counts,
            self.means,
            self.m2,
            self.scatter[pooled[0]] if pooled else None,
            x,
            y=slots,
        )
        for name in pooled[1:]:
            self.scatter[name] += self.scatter[pooled[0]] - before[pooled[0]]
        subsets.add_batch(self, of_subsets, x, y)
        if self.diagonal_m2 is not None and of_axes is not None:
            add_batch(self.diagonal_m2, of_axes, x)
        ignored = (y == F.IGNORE_INDEX).sum()
        bad = ignored.new_zeros(()) if nonfinite is None else nonfinite
        outside = (slots == F.IGNORE_INDEX).sum() - ignored
        self._tally += torch.stack([ignored - bad, outside, bad])
        self.feature_roundoff = max(self.feature_roundoff, torch.finfo(x.dtype).eps / 2)

    def _without_nonfinite(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        bad = ~finite_rows(x) & (y != F.IGNORE_INDEX)
        return torch.where(bad, F.IGNORE_INDEX, y), bad.sum()

    def merge(self, other: ClassStatistics) -> None:
        """Add what another state has seen.

        Args:
            other: a state of the same shape, classes and scatters; it is left as it is.

        Raises:
            ncfast.DataError: The states do not match.
        """
        merging.merge(self, other)

    def all_reduce(self, group: Any = None) -> None:
        """Replace the state of every rank by the sum over ranks, with one all_reduce per tensor.

        Args:
            group: a torch.distributed process group; None is the default group.

        Raises:
            ncfast.DataError: The ranks' states keep different things; none of them changes.
        """
        merging.all_reduce(self, group)

    def to(self, device: torch.device | str) -> ClassStatistics:
        """Return the same state on another device."""
        moved = ClassStatistics(**self._arguments(), device=device)
        for name, tensor in self._tensors().items():
            moved._tensors()[name].copy_(tensor)
        moved.metadata = dict(self.metadata)
        moved.feature_roundoff = self.feature_roundoff
        return moved

    def commit(self, metadata: Mapping[str, str] | None = None) -> None:
        """Make what was seen so far last, of a state made with ``storage``.

        Args:
            metadata: strings to keep with it, in ``metadata`` after loading.

        Raises:
            ValueError: The state was made without ``storage``.
            OSError: The disk is full or fails; the commit before holds.

        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp()) / "statistics"
        >>> stats = ClassStatistics(3, 1, storage=folder)
        >>> stats.update(torch.tensor([[1.0], [3.0]]), torch.tensor([2, 2]))
        >>> stats.commit()
        >>> stats.update(torch.tensor([[5.0]]), torch.tensor([2]))
        >>> del stats  # or a crash
        >>> ClassStatistics.load(folder).means[2].item()
        2.0
        """
        check_device_errors()
        stored.commit(self, self.metadata if metadata is None else metadata)

    def _store(self, folder: Path) -> None:
        stored.create(self, folder)

    def save(self, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
        """Write the state to a safetensors file, atomically: whole, or not at all.

        Of a state with ``storage`` this is a copy, which takes as much memory as its rows.

        Args:
            path: the file; replaced if it exists.
            metadata: strings to keep with it, in ``metadata`` after loading.

        Raises:
            OSError: The disk is full or the folder cannot be written; nothing is left behind.
            ncfast.DataError: A GPU has met bad data since the last
                :func:`ncfast.check_device_errors`.
        """
        check_device_errors()
        file.save(self, Path(path), self.metadata if metadata is None else metadata)

    @classmethod
    @torch.inference_mode(False)
    def load(
        cls, path: str | os.PathLike[str], device: torch.device | str = "cpu"
    ) -> ClassStatistics:
        """Read a state written by :meth:`save`, or open the folder of one made with ``storage``.

        Args:
            path: the file, or the folder; what is opened there goes on where the last commit was.
            device: where the state should live; ``"cpu"`` for a folder.

        Raises:
            FileNotFoundError: There is no such file.
            ncfast.DataError: The file is damaged, or is not a state of this version; or the folder
                is open elsewhere.
        """
        if os.path.isdir(path):
            return stored.load(cls, Path(path), device)
        return file.load(cls, str(path), device)

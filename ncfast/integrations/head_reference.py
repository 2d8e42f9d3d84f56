"""Head rows that a metric reads and does not own."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from torch import Tensor

__all__ = ["HeadReference"]


class HeadReference:
    """Refer to a tensor of head rows, or to a function that returns them.

    A module that holds one does not register the tensor: no checkpoint carries it. A copy of the
    module refers to the same rows, unless these were copied along with it (a deep copy of the model
    that holds both): then to their copy. Pickled, it takes the tensor with it.

    Args:
        source: the tensor, or the function.

    >>> import copy, torch
    >>> rows = torch.eye(2)
    >>> copy.deepcopy(HeadReference(rows)).tensor().data_ptr() == rows.data_ptr()
    True
    >>> reference, copied = copy.deepcopy([HeadReference(rows), rows])
    >>> reference.tensor().data_ptr() == copied.data_ptr()
    True
    """

    def __init__(self, source: Tensor | Callable[[], Tensor]) -> None:
        self._source: Any = source
        # What one deep copy has copied. It is looked through when the rows are first asked for, as
        # only then the copy is whole: the rows may be copied after the reference to them.
        self._copied: dict[int, Any] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> HeadReference:
        copied = HeadReference(self._resolved())
        copied._copied = memo
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return {"_source": self._resolved(), "_copied": None}

    def _resolved(self) -> Any:
        if self._copied is not None:
            source, copied = self._source, self._copied
            if isinstance(source, types.MethodType):  # of a module that may have been copied
                owner = copied.get(id(source.__self__), source.__self__)
                self._source = types.MethodType(source.__func__, owner)
            else:
                self._source = copied.get(id(source), source)
            self._copied = None
        return self._source

    def tensor(self) -> Tensor:
        """Return the rows as they are now, detached.

        Returns:
            [V, D].

        >>> import torch
        >>> HeadReference(lambda: torch.eye(2)).tensor().shape
        torch.Size([2, 2])
        """
        source = self._resolved()
        rows: Tensor = source if isinstance(source, Tensor) else source()
        return rows.detach()

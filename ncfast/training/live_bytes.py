"""How many bytes of tensors are alive, and the most that ever were: real tensors or fake ones."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Count the bytes of storages that operations make, while they live.

    Storages made before are counted where :meth:`add` names them. Memory inside one native call
    is not seen; ``workspace`` says what an operation takes while it runs. Of fake tensors,
    ``nonzero`` finds every element: the most memory that its values could ask for.

    Attributes:
        now: bytes alive.
        peak: the most that were alive, workspace included.
        at_peak: ``now`` and workspace at that moment, and the name of the operation.

    Example:
        >>> with LiveBytes() as live:
        ...     x = torch.zeros(1000) + 1
        >>> live.now, live.peak
        (4000, 8000)
    """

    def __init__(self, workspace: Callable[[str, tuple], int] | None = None) -> None:
        """Start at zero.

        Args:
            workspace: name and arguments of an operation -> bytes it takes besides its results.
        """
        super().__init__()
        self.now = self.peak = 0
        self.at_peak: tuple[int, int, str] = (0, 0, "")
        self._workspace = workspace
        self._known: dict[int, Any] = {}

    def add(self, tensor: Tensor) -> None:
        """Count the storage of a tensor that is already there.

        Args:
            tensor: any tensor; a storage is counted once.

        Example:
            >>> live = LiveBytes()
            >>> x = torch.zeros(2)
            >>> live.add(x)
            >>> live.now
            8
        """
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()

        def gone(_: Any) -> None:
            self._known.pop(key, None)
            self.now -= size

        self._known[key] = weakref.ref(storage, gone)
        self.now += size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Run an operation and count what it made."""
        if func is torch.ops.aten.nonzero.default and isinstance(args[0], FakeTensor):
            # How many there are is a question of values, which fakes do not have: at most all.
            out = args[0].new_zeros((args[0].numel(), args[0].ndim), dtype=torch.int64)
        else:
            out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        extra = self._workspace(str(func), args) if self._workspace is not None else 0
        if self.now + extra > self.peak:
            self.peak, self.at_peak = self.now + extra, (self.now, extra, str(func))
        return out


def fake_copy(objects: Any, modules: list[nn.Module], fake_mode: Any, shared: list[Any]) -> Any:
    """Copy objects with every tensor of their modules replaced by a fake one: no data is copied.

    A tensor on the device ``meta`` becomes a fake one of the CPU.

    Args:
        objects: what to copy.
        modules: whose parameters and buffers are replaced; tied ones stay tied.
        fake_mode: a ``FakeTensorMode``.
        shared: parts that the copy keeps as they are.

    Returns:
        The copy.

    Example:
        >>> from torch._subclasses import FakeTensorMode
        >>> layer = nn.Linear(2, 2)
        >>> fake_copy(layer, [layer], FakeTensorMode(), []).weight.shape
        torch.Size([2, 2])
    """
    memo: dict[int, Any] = {id(part): part for part in shared}

    def fake(tensor: Tensor) -> Tensor:
        if not tensor.is_meta:
            return fake_mode.from_tensor(tensor.detach())
        with fake_mode:
            return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")

    for module in modules:
        for parameter in module.parameters():
            if id(parameter) not in memo:
                memo[id(parameter)] = nn.Parameter(fake(parameter), parameter.requires_grad)
        for buffer in module.buffers():
            memo.setdefault(id(buffer), fake(buffer))
    return copy.deepcopy(objects, memo)

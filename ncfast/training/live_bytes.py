"""How many bytes of tensors are alive, and the most that ever were: real tensors or fake ones."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Moment(NamedTuple):
    """Hold the bytes alive after an operation, and some of them by what made them."""

    now: int  # all of them
    workspace: int = 0  # what the operation took besides, while it ran
    gathered: int = 0  # made by FSDP: weights of other ranks, and what travels
    head: int = 0  # made by the cross-entropy, gradients of parameters left out
    terms: int = 0  # made by the ops of neural-collapse terms


_GATHERED, _HEAD, _TERMS = "gathered", "head", "terms"
_MADE_BY = {
    "fsdp.": _GATHERED,
    "c10d.": _GATHERED,
    "ncfast.linear_cross_entropy": _HEAD,
    "ncfast.alignment": _TERMS,
    "ncfast.class_moments": _TERMS,
    "ncfast.within_class_scatter": _TERMS,
}


class LiveBytes(TorchDispatchMode):
    """Count the bytes of storages that operations make, while they live.

    Storages made before are counted where :meth:`add` names them. Memory inside one native call
    is not seen; ``workspace`` says what an operation takes while it runs. Of fake tensors,
    ``nonzero`` finds every element: the most memory that its values could ask for; a bool that is
    read is False, which is what asks whether something rare has happened.

    Storages that are resized, as FSDP does with the weights it gathers, count with their new size.

    Attributes:
        now: bytes alive.
        peak: the most that were alive, workspace included.
        at_peak: ``now`` and workspace at that moment, and the name of the operation.
        timeline: after every operation a :class:`Moment`.

    >>> with LiveBytes() as live:
    ...     x = torch.zeros(1000) + 1
    >>> live.now, live.peak
    (4000, 8000)
    """

    def __init__(
        self,
        workspace: Callable[[str, tuple], int] | None = None,
        observe: Callable[[str, tuple], None] | None = None,
    ) -> None:
        """Start at zero.

        ``workspace`` takes name and arguments of an operation and returns the bytes it takes
        besides its results; ``observe`` sees them, too.
        """
        super().__init__()
        self.now = self.peak = 0
        self.at_peak: tuple[int, int, str] = (0, 0, "")
        self.timeline: list[Moment] = []
        self._workspace, self._observe = workspace, observe
        self._known: dict[int, Any] = {}
        self._sizes: dict[int, tuple[int, str]] = {}
        self._of = {_GATHERED: 0, _HEAD: 0, _TERMS: 0, "": 0}

    def add(self, tensor: Tensor, made_by: str = "") -> None:
        """Count the storage of a tensor that is there, once; ``made_by`` as in :class:`Moment`.

        >>> live = LiveBytes()
        >>> x = torch.zeros(2)
        >>> live.add(x)
        >>> live.now
        8
        """
        storage = local(tensor).untyped_storage()
        if self._know(storage):
            self._count(storage._cdata, storage.nbytes(), made_by)

    def _know(self, storage: torch.UntypedStorage) -> bool:
        """Follow a storage until it is gone; return whether it is new."""
        key = storage._cdata
        if key in self._known:
            return False

        def gone(_: Any) -> None:
            self._known.pop(key, None)
            self._count(key, 0, "")
            self._sizes.pop(key, None)

        self._known[key] = weakref.ref(storage, gone)
        return True

    def _count(self, key: int, size: int, made_by: str) -> None:
        before, made_before = self._sizes.get(key, (0, ""))
        self._of[made_before] -= before
        self._of[made_by] += size
        self.now += size - before
        self._sizes[key] = (size, made_by)

    def __enter__(self) -> LiveBytes:
        """Count from now on."""
        self._resize = torch.UntypedStorage.resize_
        watching = self

        def resize_(storage: torch.UntypedStorage, size: int) -> Any:
            done = watching._resize(storage, size)
            watching._know(storage)
            watching._count(storage._cdata, storage.nbytes(), _GATHERED)
            watching._note(0, "resize_")
            return done

        torch.UntypedStorage.resize_ = resize_  # type: ignore[assignment,method-assign]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop counting."""
        super().__exit__(*error)
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Run an operation and count what it made."""
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # what it does with its local tensors comes here instead
        name = str(func)
        if self._observe is not None:
            self._observe(name, args)
        if func is torch.ops.aten.nonzero.default and isinstance(args[0], FakeTensor):
            # How many there are is a question of values, which fakes do not have: at most all.
            out: Any = args[0].new_zeros((args[0].numel(), args[0].ndim), dtype=torch.int64)
        elif func is torch.ops.aten.index_add.default and _gradient_of_chosen_rows(args):
            out = torch.ops.aten.index_add_.default(*args, **(kwargs or {}))
        elif (
            func is torch.ops.aten._local_scalar_dense.default
            and isinstance(args[0], FakeTensor)
            and args[0].dtype == torch.bool
        ):
            out = False
        else:
            out = func(*args, **(kwargs or {}))
        made_by = next((what for start, what in _MADE_BY.items() if name.startswith(start)), "")
        for number, leaf in enumerate(tree_leaves(out)):
            if isinstance(leaf, Tensor):
                is_gradient = made_by == _HEAD and "backward" in name and number > 0
                self.add(leaf, "" if is_gradient else made_by)
        self._note(self._workspace(name, args) if self._workspace is not None else 0, name)
        return out

    def _note(self, workspace: int, name: str) -> None:
        of = self._of
        self.timeline.append(Moment(self.now, workspace, of[_GATHERED], of[_HEAD], of[_TERMS]))
        if self.now + workspace > self.peak:
            self.peak, self.at_peak = self.now + workspace, (self.now, workspace, name)


def _gradient_of_chosen_rows(args: tuple) -> bool:
    """Return whether this is the backward of ``index_select``, of fake tensors.

    Of real ones it adds to its zeros in place, and makes no other matrix of that size.
    """
    return torch._C._current_graph_task_id() != -1 and isinstance(args[2], FakeTensor)


def local(tensor: Tensor) -> Tensor:
    """Return what this rank holds of a tensor: the tensor itself, or its part of a DTensor.

    >>> local(torch.ones(2)).shape
    torch.Size([2])
    """
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def fake_copy(objects: Any, modules: list[nn.Module], fake_mode: Any, shared: list[Any]) -> Any:
    """Copy objects with every tensor of their modules replaced by a fake one: no data is copied.

    A tensor on the device ``meta`` becomes a fake one of the CPU. Tied ones stay tied; the copy
    keeps what is ``shared`` as it is.

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

"""Chooses the backend that runs an op, and can say why.

Every op has a few kernels, one per backend that implements it. A call goes to the first kernel, in
``AUTO_ORDER``, that serves the device and accepts the arguments; or to the one kernel that
:func:`use_backend` or ``NCFAST_BACKEND`` names, which either serves or raises.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from .errors import BackendError

__all__ = [
    "AUTO_ORDER",
    "BACKENDS",
    "Call",
    "Explanation",
    "Kernel",
    "call",
    "explain",
    "ops",
    "register",
    "requested",
    "trace",
    "use_backend",
]

AUTO_ORDER = ("cuda", "triton", "cpu", "reference")
BACKENDS = (*AUTO_ORDER, "triton-interpret", "cuda-host")

_log = logging.getLogger("ncfast")


@dataclass(frozen=True)
class Kernel:
    """Hold one backend's implementation of one op.

    ``accepts`` reads metadata only (devices, dtypes, shapes) and returns why the call cannot be
    served, or an empty string. ``forward`` has the op's signature and knows nothing of autograd.
    """

    backend: str
    devices: tuple[str, ...]
    accepts: Callable[..., str]
    forward: Callable[..., Any]


@dataclass(frozen=True)
class Call:
    """Hold one dispatched call: the op, its backend, and its tensor arguments' shapes."""

    op: str
    backend: str
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Verdict:
    """Hold what dispatch thinks of one backend for one call."""

    backend: str
    available: bool
    accepts: bool
    reason: str
    chosen: bool


@dataclass
class Explanation:
    """Hold a verdict per backend for one call; prints as a table."""

    op: str
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def chosen(self) -> str | None:
        """Return the backend that would run, or None."""
        return next((v.backend for v in self.verdicts if v.chosen), None)

    def __iter__(self) -> Iterator[Verdict]:
        return iter(self.verdicts)

    def __str__(self) -> str:
        lines = [f"{self.op}: runs on {self.chosen or 'nothing'}"]
        for v in self.verdicts:
            mark = "->" if v.chosen else "  "
            lines.append(f"  {mark} {v.backend:<16} {v.reason or 'serves'}")
        return "\n".join(lines)


_table: dict[str, dict[str, Kernel]] = {}
_request: list[
    str
] = []  # innermost use_backend last; process-wide, as autograd runs threads of its own
_traces: list[list[Call]] = []
_logged: set[tuple[str, str]] = set()


def register(op: str, kernel: Kernel) -> None:
    """Register a backend's implementation of an op."""
    if kernel.backend not in BACKENDS:
        raise ValueError(
            f"dispatch: unknown backend {kernel.backend!r}; expected one of {BACKENDS}"
        )
    _table.setdefault(op, {})[kernel.backend] = kernel


Row, add_row = Kernel, register  # their former names


def ops() -> list[str]:
    """Return the names of all ops that have a backend.

    >>> "class_moments" in ops()
    True
    """
    return sorted(_table)


def requested() -> str:
    """Return the backend that is asked for, by the innermost block or the environment, or "auto".

    >>> with use_backend("reference"):
    ...     requested()
    'reference'
    """
    name = _request[-1] if _request else os.environ.get("NCFAST_BACKEND", "auto")
    if name != "auto" and name not in BACKENDS:
        raise BackendError(f"backend {name!r} is not known; expected 'auto' or one of {BACKENDS}")
    return name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every op inside the block on one backend, or raise where it cannot serve.

    The request holds for the whole process, like ``torch.set_num_threads``: backward passes run in
    threads of autograd's own. It is no part of a compiled graph: inside ``torch.compile`` the block
    runs uncompiled, and with ``fullgraph=True`` it is rejected; put it around the compiled call.

    Args:
        name: ``"auto"`` or one of ``BACKENDS``.

    Raises:
        BackendError: The name is not known; or, from an op inside, the backend cannot serve it.

    >>> import torch, ncfast.functional as F
    >>> with use_backend("reference"), trace() as calls:
    ...     _ = F.class_moments(torch.eye(3), torch.tensor([0, 0, 1]), 2)
    >>> calls[0].backend
    'reference'
    """
    if torch.compiler.is_compiling():
        # Traced into a graph, a request would be made while compiling and forgotten when running.
        torch._dynamo.graph_break("use_backend: put it around the compiled call")
    _request.append(name)
    try:
        requested()
        yield
    finally:
        _request.pop()


@contextmanager
def trace() -> Iterator[list[Call]]:
    """Collect every dispatched call made inside the block, as a list of :class:`Call`."""
    calls: list[Call] = []
    _traces.append(calls)
    try:
        yield calls
    finally:
        # By identity: two nested traces may hold equal lists.
        _traces[:] = [seen for seen in _traces if seen is not calls]


def _tensors(args: tuple[Any, ...]) -> list[torch.Tensor]:
    return [arg for arg in args if isinstance(arg, torch.Tensor)]


def _reason(kernel: Kernel, args: tuple[Any, ...]) -> str:
    """Return why a kernel cannot serve a call, or an empty string."""
    for tensor in _tensors(args):
        if tensor.device.type not in kernel.devices:
            return f"serves {' and '.join(kernel.devices)} tensors, not {tensor.device.type}"
    return kernel.accepts(*args)


def _kernels_of(op: str) -> dict[str, Kernel]:
    if op not in _table:
        raise BackendError(f"op {op!r} is not known; expected one of {ops()}")
    return _table[op]


def _choose(op: str, args: tuple[Any, ...]) -> Kernel:
    kernels, name = _kernels_of(op), requested()
    if name != "auto":
        if name not in kernels:
            raise BackendError(
                f"{op}: backend {name!r} was requested but does not implement this op"
            )
        reason = _reason(kernels[name], args)
        if reason:
            raise BackendError(f"{op}: backend {name!r} was requested but cannot serve: {reason}")
        return kernels[name]
    passed: list[str] = []
    for backend in AUTO_ORDER:
        if backend not in kernels:
            continue
        kernel = kernels[backend]
        reason = _reason(kernel, args)
        if not reason:
            _report_fallback(op, backend, passed)
            return kernel
        # Passing over a kernel for another device is no fallback; over one for this device it is.
        if all(tensor.device.type in kernel.devices for tensor in _tensors(args)):
            passed.append(f"{backend}: {reason}")
    raise BackendError(f"{op}: no backend can serve this call\n{explain(op, *args)}")


def _report_fallback(op: str, backend: str, passed: list[str]) -> None:
    if not passed:
        return
    message = f"{op} falls back to {backend}: {'; '.join(passed)}"
    if os.environ.get("NCFAST_STRICT", "0") not in ("", "0"):
        raise BackendError(f"{message} (NCFAST_STRICT is set)")
    if (op, message) not in _logged:
        _logged.add((op, message))
        _log.warning(message)


def call(op: str, *args: Any) -> Any:
    """Run an op's forward on the backend chosen for these arguments."""
    kernel = _choose(op, args)
    for calls in _traces:
        calls.append(Call(op, kernel.backend, tuple(tuple(t.shape) for t in _tensors(args))))
    return kernel.forward(*args)


def explain(op: str, *args: Any) -> Explanation:
    """Say which backend would run a call and why each other one would not.

    Args:
        op: The op's name, see :func:`ops`.
        args: The op's arguments; only their metadata is read.

    Returns:
        An :class:`Explanation`: per backend whether it is available for this op, accepts the
        arguments, why not, and which one is chosen.

    >>> import torch
    >>> explain("class_moments", torch.eye(3), torch.tensor([0, 0, 1]), 2).chosen is not None
    True
    """
    kernels, name = _kernels_of(op), requested()
    order = [*AUTO_ORDER, *(b for b in kernels if b not in AUTO_ORDER)]
    result, chosen = Explanation(op), None
    for backend in order:
        if backend not in kernels:
            result.verdicts.append(
                Verdict(backend, False, False, "does not implement this op", False)
            )
            continue
        reason = _reason(kernels[backend], args)
        candidate = backend in AUTO_ORDER if name == "auto" else backend == name
        if chosen is None and not reason and candidate:
            chosen = backend
        result.verdicts.append(
            Verdict(backend, True, not reason, reason, chosen == backend and not reason)
        )
    return result

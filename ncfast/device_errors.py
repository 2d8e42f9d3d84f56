"""Device-side errors: what kernels found wrong in their data, kept until the host reads it.

A kernel on a GPU cannot raise. It writes the position of the first bad value into a table of one
int64 per message, on its device; :func:`check_device_errors` reads the tables and raises.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .errors import DataError

__all__ = ["add_source", "check_device_errors", "declare", "nothing_found", "table"]

NOWHERE = 2**63 - 1
_CAPACITY = 64
_messages: list[str] = []
_tables: dict[torch.device, Tensor] = {}
_sources: list[Callable[[], list[str]]] = []


def add_source(errors: Callable[[], list[str]]) -> None:
    """Add a library that keeps records of its own: ``errors`` returns its messages and clears them.

    >>> add_source(lambda: [])
    """
    _sources.append(errors)


def declare(message: str) -> int:
    """Return the slot of an error message, in which ``{}`` stands for the position.

    >>> declare("alignment: index[{}] is out of range") == declare(
    ...     "alignment: index[{}] is out of range")
    True
    """
    if message not in _messages:
        if len(_messages) == _CAPACITY:
            raise ValueError(f"device_errors: more than {_CAPACITY} messages are declared")
        _messages.append(message)
    return _messages.index(message)


def table(device: torch.device) -> Tensor:
    """Return a device's table: per slot the first bad position, or ``NOWHERE``.

    >>> table(torch.device("cpu")).dtype
    torch.int64
    """
    if device not in _tables:
        _tables[device] = torch.full((_CAPACITY,), NOWHERE, dtype=torch.int64, device=device)
    return _tables[device]


def nothing_found(op: str, device: torch.device) -> Tensor:
    """Return a [] bool on a device, without waiting for it: whether an op has reported no error.

    State that bad data must not change is updated where it is true.

    >>> nothing_found("alignment", torch.device("cpu")).item()
    True
    """
    flags = table(device)
    own = [flags[i] for i, text in enumerate(_messages) if text.startswith(f"{op}: ")]
    return (torch.stack([*own, torch.full_like(flags[0], NOWHERE)]) == NOWHERE).all()


def check_device_errors() -> None:
    """Raise if a kernel has met bad data since the last check; waits for the devices.

    The metrics and ``ClassStatistics.save`` call this. Where it raises, results that were computed
    since the check before it are worthless: throw them away. The tables start afresh.

    Raises:
        ncfast.DataError: Labels out of range, features that are NaN or Inf, or an index that names
            no row or one row twice were met by a kernel that could not raise; says which op met
            them, and the first position.

    >>> check_device_errors()
    """
    found = [message for source in _sources for message in source()]
    for device, flags in _tables.items():
        positions = flags.tolist()
        if all(position == NOWHERE for position in positions):
            continue
        flags.fill_(NOWHERE)
        for message, position in zip(_messages, positions, strict=False):
            if position != NOWHERE:
                found.append(f"{message.format(position)} (found on {device})")
    if found:
        raise DataError("; ".join(found))

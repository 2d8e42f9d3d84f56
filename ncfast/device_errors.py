"""What kernels that may not stop the device found wrong in their data, until somebody asks.

A kernel on a GPU cannot raise. It writes the position of the first bad value into a table of one
int64 per complaint, on its device; :func:`check_device_errors` reads the tables and raises.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .errors import DataError

__all__ = ["add_source", "check_device_errors", "declare", "nothing_found", "table"]

NOWHERE = 2**63 - 1
_CAPACITY = 64
_complaints: list[str] = []
_tables: dict[torch.device, Tensor] = {}
_sources: list[Callable[[], list[str]]] = []


def add_source(complaints: Callable[[], list[str]]) -> None:
    """Ask a library that keeps records of its own as well; it returns sentences and forgets them.

    >>> add_source(lambda: [])
    """
    _sources.append(complaints)


def declare(complaint: str) -> int:
    """Return the slot of a complaint, a sentence in which ``{}`` stands for the position.

    >>> declare("alignment: index[{}] is out of range") == declare(
    ...     "alignment: index[{}] is out of range")
    True
    """
    if complaint not in _complaints:
        if len(_complaints) == _CAPACITY:
            raise ValueError(f"device_errors: more than {_CAPACITY} complaints are declared")
        _complaints.append(complaint)
    return _complaints.index(complaint)


def table(device: torch.device) -> Tensor:
    """Return a device's table: per slot the first bad position, or ``NOWHERE``.

    >>> table(torch.device("cpu")).dtype
    torch.int64
    """
    if device not in _tables:
        _tables[device] = torch.full((_CAPACITY,), NOWHERE, dtype=torch.int64, device=device)
    return _tables[device]


def nothing_found(op: str, device: torch.device) -> Tensor:
    """Return a [] bool on a device, without waiting for it: whether no complaint of an op is there.

    What must not change where data are bad depends on it.

    >>> nothing_found("alignment", torch.device("cpu")).item()
    True
    """
    flags = table(device)
    own = [flags[i] for i, said in enumerate(_complaints) if said.startswith(f"{op}: ")]
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
    found = [complaint for source in _sources for complaint in source()]
    for device, flags in _tables.items():
        positions = flags.tolist()
        if all(position == NOWHERE for position in positions):
            continue
        flags.fill_(NOWHERE)
        for complaint, position in zip(_complaints, positions, strict=False):
            if position != NOWHERE:
                found.append(f"{complaint.format(position)} (found on {device})")
    if found:
        raise DataError("; ".join(found))

"""The records that a score is of, and scores over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .records import Record, subsets_of
from .statistic import Statistic

__all__ = ["Group", "counted", "groups_of"]


@dataclass(frozen=True)
class Group:
    """Hold the records of one subset under one variant."""

    # subset, variant: their names in ``evaluation.json``
    subset: str
    variant: str
    records: list[Record]  # those that take part in scores
    excluded: int  # how many others do not

    def values(self, *names: str) -> list[np.ndarray]:
        """Return the records' numbers of each name [n]."""
        return [np.asarray([r.values[name] for r in self.records]) for name in names]

    def labels(self, name: str) -> np.ndarray:
        """Return the records' labels of a name [n]."""
        return np.asarray([r.labels[name] for r in self.records])

    def maker(self, *notes: str, **shared: Any) -> Callable[..., Statistic]:
        """Return what makes a statistic of a metric's name, its value and what else it has.

        Args:
            notes: of every statistic; empty ones say nothing.
            shared: fields of every statistic; ``items`` and ``clusters`` are the records' own
                where they are not given.
        """
        own: dict[str, Any] = {
            "items": [r.item for r in self.records],
            "clusters": [r.cluster for r in self.records],
            "note": "; ".join(filter(None, notes)),
        }
        return partial(Statistic, self.subset, self.variant, **{**own, **shared})


def counted(number: int, what: str) -> str:
    """Return a note of how many of something there are; none is no note."""
    return f"{number} {what}" if number else ""


def groups_of(records: Iterable[Record], subsets: Sequence[str] = ()) -> Iterator[Group]:
    """Yield the groups of a benchmark's records, also those in which all are excluded.

    Args:
        records: of one benchmark.
        subsets: their names; empty: those of :func:`subsets_of`.
    """
    records = list(records)
    for variant in dict.fromkeys(r.variant for r in records):
        for subset in subsets or subsets_of(records, variant):
            members = [r for r in records if r.variant == variant and subset in r.subsets]
            taken = [r for r in members if not r.excluded]
            yield Group(subset, variant, taken, len(members) - len(taken))

"""One item's answers, as they are kept beside ``evaluation.json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Record", "subsets_of"]


@dataclass(frozen=True)
class Record:
    """Hold what a model answered to one item of a benchmark under one variant."""

    item: str  # id of the item, unique in benchmark and variant
    variant: str  # how it was scored
    subsets: tuple[str, ...]  # every subset the item belongs to
    # what its interval resamples: a target word, a profession, an occupation, the item
    cluster: str
    # numbers by name; a verdict is 0, 1, or 0.5 for a tie
    values: Mapping[str, float] = field(default_factory=dict)
    # texts by name that scoring needs again
    labels: Mapping[str, str] = field(default_factory=dict)
    excluded: str = ""  # why it takes no part in any score; empty: it does

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON keeps it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Record:
        """Read a record back."""
        return cls(**{**data, "subsets": tuple(data["subsets"])})


def subsets_of(records: Iterable[Record], variant: str) -> list[str]:
    """Return the subsets of a variant's records, without an "overall" that is one subset alone.

    >>> subsets_of([Record("1", "sum", ("gender", "overall"), "1")], "sum")
    ['gender']
    """
    members: dict[str, set[str]] = {}
    for record in records:
        if record.variant == variant:
            for subset in record.subsets:
                members.setdefault(subset, set()).add(record.item)
    return sorted(
        name
        for name, items in members.items()
        if "overall" not in name
        or all("overall" in other or items != those for other, those in members.items())
    )

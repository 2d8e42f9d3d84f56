"""The metrics of a measurement: of every set of classes, with intervals.

Several ranks share them. All divide the pairs of the vocabulary; each other set is measured by one
rank; of the draws behind an interval each rank makes every n-th.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from ..metrics import NCReport, bootstrap_values, intervals_of, shared_collapse
from ..metrics.by_pair import near_pairs_note
from ..ranks import Ranks
from ..reporting.histograms import PAIR_BINS
from ..statistics import ClassStatistics
from .sets import PlannedSet

INTERVAL_LEVEL = 0.95
# Resampling the vocabulary would visit its pairs once per draw: 200 times several seconds for an
# interval that 30,000 classes make far narrower than what the text and the model leave open.
WITH_INTERVALS = ("words", "matched")
# A mean over pairs that the number of classes nearly fixes, as -1/(K-1) for the mean cosine, moves
# with the different classes of a draw, 0.63 K of them: all repeats lie to one side of the value.
NOT_BRACKETED = (
    "no interval: draws with replacement hold fewer different classes and all lie to one side"
)


@dataclass(frozen=True)
class SetResult:
    """Hold what was found for one set of classes; stands in for its ``NCReport`` in a report."""

    report: NCReport  # values, notes and histograms
    # key -> bootstrap interval; empty where none was made
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    # NC4 on held-out text, NaN where undefined; None where it was not measured
    agreement: float | None = None
    unbracketed: tuple[str, ...] = ()  # keys whose intervals were left out

    @property
    def notes(self) -> Mapping[str, str]:
        """Return the reasons for undefined values."""
        notes = {key: NOT_BRACKETED for key in self.unbracketed} | dict(self.report.notes)
        if self.agreement is not None and math.isnan(self.agreement):
            notes["nc4_agreement"] = "no held-out token of these classes"
        elif self.agreement is not None and (
            said := near_pairs_note(self.report["pairs_left_out"])
        ):
            notes["nc4_agreement"] = said
        return notes

    @property
    def per_class(self) -> Mapping[str, torch.Tensor]:
        """Return the columns over the classes."""
        return self.report.per_class

    @property
    def standard_errors(self) -> Mapping[str, float]:
        """Return the standard errors of values estimated from drawn pairs."""
        return self.report.standard_errors

    @property
    def distributions(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the histograms of pairs."""
        return self.report.distributions

    def to_dict(self) -> dict[str, float]:
        """Return the values by key."""
        values = self.report.to_dict()
        return values if self.agreement is None else {**values, "nc4_agreement": self.agreement}


@dataclass
class MetricsPlan:
    """Hold how the metrics of a measurement are computed, and how long it took."""

    stats: ClassStatistics  # the finished statistics
    head_weight: torch.Tensor  # [V, D], the head's rows
    center: str  # what class means are centred on
    preset: str  # the definitions
    pairs: int | None = None  # how many pairs of classes to draw; None visits all
    repeats: int = 200  # bootstrap draws per set; 0 makes no intervals
    seed: int = 0  # of drawn pairs and of the bootstrap
    progress: bool = True  # show a bar on stderr
    ranks: Ranks = field(default_factory=Ranks)  # share the work; all have the same statistics
    seconds: float = 0.0  # time of this rank's metrics, filled in
    bootstrap_seconds: float = 0.0  # time of its part of the intervals, filled in

    def run(
        self, sets: Mapping[str, PlannedSet], agreements: Mapping[str, float]
    ) -> dict[str, SetResult]:
        """Compute the metrics of the vocabulary, which comes first, and of every set, by name.

        ``agreements``: NC4 on held-out text by name, empty where it was not measured. On ranks
        other than the first nothing is returned; PeerLost where another has ended.
        """
        named = self.with_intervals(sets)
        reports: dict[str, NCReport] = {}
        draws: dict[str, dict[str, torch.Tensor]] = {}
        ranks = self.ranks.patient()  # a large vocabulary takes longer than ranks wait elsewhere
        with ranks.sharing_errors():
            mine = self._shares(sets)[self.ranks.rank]
            with self._bar(1 + len(mine) + len(named)) as bar:
                bar("vocabulary")
                whole = self._collapse(None, ranks)
                for name in mine:
                    bar(name)
                    reports[name] = self._collapse(sets[name].ids, Ranks())
                for name in named:
                    bar(f"{name}, intervals")
                    draws[name] = self._draws(sets[name].ids)
                bar(None)
        found = ranks.gather((reports, draws))
        if self.ranks.rank:
            return {}
        reports = {"vocabulary": whole} | {n: r for own, _ in found for n, r in own.items()}
        results = {}
        for name in ("vocabulary", *sets):
            ends = _intervals([own[name] for _, own in found]) if name in named else {}
            report = reports[name]
            inside = {k: e for k, e in ends.items() if e[0] <= report[k] <= e[1]}
            beside = tuple(key for key in ends if key not in inside)
            results[name] = SetResult(report, inside, agreements.get(name), beside)
        return results

    def _shares(self, sets: Mapping[str, PlannedSet]) -> list[list[str]]:
        """Name the sets that each rank measures, those of most pairs first."""
        counts = {name: int((self.stats.counts[s.ids] > 0).sum()) for name, s in sets.items()}
        shares: list[list[str]] = [[] for _ in range(self.ranks.size)]
        loads = [0] * self.ranks.size
        for name in sorted(sets, key=lambda name: -counts[name]):
            least = loads.index(min(loads))
            shares[least].append(name)
            loads[least] += counts[name] ** 2
        return shares

    def with_intervals(self, sets: Mapping[str, PlannedSet]) -> list[str]:
        """Name the sets that get bootstrap intervals: word sets and matched controls, if any."""
        return [n for n, planned in sets.items() if self.repeats and planned.kind in WITH_INTERVALS]

    def _collapse(self, classes: torch.Tensor | None, ranks: Ranks) -> NCReport:
        start = time.perf_counter()
        report = shared_collapse(
            ranks,
            self.stats,
            self.head_weight,
            classes=classes,
            center=self.center,
            preset=self.preset,
            pairs=self.pairs,
            seed=self.seed,
            histograms=PAIR_BINS,
        )
        self.seconds += time.perf_counter() - start
        return report

    def _draws(self, classes: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the metrics of this rank's part of the draws of classes."""
        start = time.perf_counter()
        found = bootstrap_values(
            self.stats,
            self.head_weight,
            classes=classes,
            center=self.center,
            preset=self.preset,
            repeats=self.repeats,
            seed=self.seed,
            part=(self.ranks.rank, self.ranks.size),
        )
        self.bootstrap_seconds += time.perf_counter() - start
        return found

    def describe(self, sets: Mapping[str, PlannedSet]) -> dict[str, Any] | None:
        """Describe the bootstrap: {repeats, level, seed, sets, without}; None without intervals."""
        named: Sequence[str] = self.with_intervals(sets)
        if not named:
            return None
        return {
            "repeats": self.repeats,
            "level": INTERVAL_LEVEL,
            "seed": self.seed,
            "sets": list(named),
            "without": ["the whole vocabulary", "NC4"],
        }

    @contextmanager
    def _bar(self, total: int) -> Iterator[Any]:
        if not self.progress:
            yield lambda name: None
            return
        from tqdm import tqdm

        with tqdm(total=total, unit=" sets", desc="metrics", dynamic_ncols=True) as bar:
            started: list[str] = []

            def move(name: str | None) -> None:
                if started:
                    bar.update()
                started.append(name or "")
                bar.set_postfix_str(name or "")

            yield move


def _intervals(parts: Sequence[Mapping[str, torch.Tensor]]) -> Mapping[str, tuple[float, float]]:
    keys = dict.fromkeys(key for part in parts for key in part)
    drawn = {key: [part[key].cpu() for part in parts if key in part] for key in keys}
    return intervals_of({key: torch.cat(found) for key, found in drawn.items()}, INTERVAL_LEVEL)

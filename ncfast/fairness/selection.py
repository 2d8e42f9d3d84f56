"""Which benchmarks a run scores, read before any model is loaded: bad data ends it in seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..language import LanguageModel
from .benchmarks import BENCHMARKS, Benchmark, make
from .data import DataFolder
from .errors import EvaluationError, NoItems
from .settings import Settings

__all__ = ["Chosen", "Selection", "select_benchmarks"]


@dataclass(frozen=True)
class Chosen:
    """Hold a benchmark and its items."""

    benchmark: Benchmark
    items: list[Any]


@dataclass
class Selection:
    """Hold what is scored and what is not."""

    chosen: dict[str, Chosen]  # benchmarks with their items, by name
    by_name: frozenset[str]  # those that the user named, and did not mean by ``all``
    # what is not scored, with the reason, and the model where it is about one
    skipped: list[dict[str, str]] = field(default_factory=list)

    def takes(self, key: str, model: str, language: LanguageModel) -> bool:
        """Tell whether a benchmark is scored for a model, and note why where it is not."""
        benchmark, kind = self.chosen[key].benchmark, language.kind
        if kind not in benchmark.kinds:
            takes = " or ".join(benchmark.kinds) or "predictions"
            reason = f"{model} is {kind}; it takes {takes}"
        elif key not in self.by_name and (why := benchmark.hours(self.chosen[key].items, language)):
            reason = f"{why}; --on {key} scores it"
        else:
            return True
        entry = {"benchmark": key, "model": model, "reason": reason}
        if entry not in self.skipped:
            self.skipped.append(entry)
        return False


def select_benchmarks(
    settings: Settings,
    data: DataFolder,
    given: Mapping[str, Benchmark] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Selection:
    """Read every benchmark that is asked for, or those made by the caller, by name."""
    every = "all" in settings.on and not given
    names = list(given) if given else list(BENCHMARKS) if every else list(settings.on)
    chosen = frozenset(names if not every else settings.on)
    found = Selection({}, by_name=chosen)
    for name in dict.fromkeys(names):
        benchmark = given[name] if given else make(name)
        if name not in chosen and not benchmark.available(data):
            reason = f"its files are not below {data.spec}"
            if not benchmark.kinds:
                reason = "it scores predictions alone (--predictions FILE)"
            found.skipped.append({"benchmark": name, "reason": reason})
            continue
        if benchmark.attribute not in (None, settings.attribute) and settings.attribute != "all":
            reason = f"it is about {benchmark.attribute}, not {settings.attribute}"
            found.skipped.append({"benchmark": name, "reason": reason})
            continue
        try:
            items = benchmark.read(data, settings.attribute)
        except NoItems as error:
            if name in chosen:
                raise
            found.skipped.append({"benchmark": name, "reason": f"{error}".partition(": ")[2]})
            continue
        say(f"{name}: {len(items)} items")
        found.chosen[name] = Chosen(benchmark, items)
    if not found.chosen:
        why = "; ".join(f"{entry['benchmark']}: {entry['reason']}" for entry in found.skipped)
        raise EvaluationError(f"no benchmark of {settings.attribute} to score ({why})")
    return found

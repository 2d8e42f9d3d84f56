"""A report made of synthetic results: no model, no text, no numeric wing."""

from __future__ import annotations

import numpy as np
import pytest

from ncfast.reporting.document import SCHEMA, strict
from ncfast.reporting.document_sets import SetDescription, build_sets

NASTY = '<script>alert("x")</script>|*_`&'
CLASSES = 4000
KEYS = (
    "trace_within",
    "trace_between",
    "nc1_quotient",
    "norm_mean",
    "norm_cov",
    "log_norm_std",
    "nc3_mean",
    "nc3_distance",
    "unc3_std",
    "unc3_var",
    "unc3_cov",
    "brand_new_metric",
)


def _pair_histogram(values: np.ndarray, low: float, high: float) -> dict:
    edges = np.linspace(low, high, 41)
    counts, _ = np.histogram(values, edges)
    return {"edges": edges, "counts": counts, "coincident": 2, "outside": 3}


class Result:
    """Stand in for an ``NCReport``."""

    def __init__(
        self,
        ids: np.ndarray,
        seed: int,
        notes: dict[str, str] | None = None,
        with_intervals: bool = False,
    ) -> None:
        generator = np.random.default_rng(seed)
        ids = np.sort(ids)
        counts = (60000 / (1 + ids)).astype(np.int64) + 1
        cosines = np.tanh(generator.normal(0.35, 0.1, len(ids)) + 0.02 * np.log(counts))
        self.per_class = {
            "class_ids": ids,
            "counts": counts,
            "cosines": cosines,
            "norms": generator.gamma(9, 0.4, len(ids)),
            "head_norms": generator.gamma(20, 0.06, len(ids)),
        }
        self.notes = notes or {}
        pairs = generator.normal(0.0, 0.1, 5000)
        self.distributions = {
            "pair_cosine": _pair_histogram(pairs, -1.0, 1.0),
            "pair_log_distance": _pair_histogram(-0.5 * np.log(2 - 2 * pairs), -0.7, 2.1),
        }
        self.standard_errors = {}
        self.intervals = {}
        values = generator.uniform(0.1, 2.0, len(KEYS)).tolist()
        self._values = dict(zip(KEYS, values, strict=True))
        self._values |= {
            "nc3_mean": float(cosines.mean()),
            "unc3_std": float(cosines.std(ddof=1)),
            "tokens": float(counts.sum()),
            "classes": float(len(ids)),
        }
        self._values |= dict.fromkeys(self.notes, float("nan"))
        if with_intervals:
            self.intervals = {
                key: (value - 0.02, value + 0.02)
                for key, value in self._values.items()
                if np.isfinite(value) and key not in ("tokens", "classes")
            }

    def to_dict(self) -> dict[str, float]:
        return dict(self._values)


def _results() -> dict[str, Result]:
    generator = np.random.default_rng(0)
    draw = {f"gender/random-{i}": generator.choice(CLASSES, 150, False) for i in range(1, 6)}
    results = {"vocabulary": Result(np.arange(CLASSES), 1)}
    results["gender"] = Result(
        generator.choice(CLASSES, 150, False), 2, {"nc1_pinv": "needs its own scatter"}, True
    )
    results |= {name: Result(ids, 10 + index) for index, (name, ids) in enumerate(draw.items())}
    results["gender/matched"] = Result(
        generator.choice(CLASSES, 150, False), 3, with_intervals=True
    )
    return results


def _labels(ids: np.ndarray) -> dict[int, tuple[list[str], list[str]]]:
    groups = (["female"], ["male"], ["female", "male"])
    return {
        i: ([f"word{i}"], groups[n % 20 % 3 if n % 20 < 3 else n % 2])
        for n, i in enumerate(ids.tolist())
    }


@pytest.fixture
def raw_report() -> dict:
    """Return a report before ``strict``: with NaN, NumPy values and hostile words."""
    results = _results()
    descriptions = {"vocabulary": SetDescription("vocabulary", requested=30522)}
    for name, result in results.items():
        if name == "vocabulary":
            continue
        kind = "words" if "/" not in name else name.split("/")[1].split("-")[0]
        ids = result.per_class["class_ids"]
        labels = _labels(ids) if kind == "words" else {i: ([], []) for i in ids.tolist()}
        descriptions[name] = SetDescription(kind, 160, "gender" if "/" in name else None, labels)
    first = int(results["gender"].per_class["class_ids"][0])
    descriptions["gender"].labels[first] = ([NASTY], ["female"])
    descriptions["gender"].words = {
        "kept": 170,
        "ambiguous": ["adult"],
        "notes": [],
        "dropped": [{"word": NASTY, "reason": "3 pieces"}, {"word": "widower", "reason": "2"}],
    }
    results["gender"].per_class["cosines"][1] = float("nan")
    names = {i: f"piece{i}" for i in range(CLASSES)} | {first: NASTY}
    return {
        "schema": SCHEMA,
        "created": "2026-01-01T00:00:00+00:00",
        "command": f"ncfast measure tiny '{NASTY}'",
        "versions": {"ncfast": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "model": {
            "name": f"tiny {NASTY}",
            "kind": "masked",
            "hidden_size": 128,
            "vocab_size": 30522,
            "tied": True,
            "softcap": 0.0,
            "parameters": 4416698,
            "notes": ["This model has no language-model head."],
        },
        "text": {
            "sources": ["demo:text"],
            "documents": np.int64(12),
            "tokens": 200000,
            "fingerprint": "abc",
        },
        "settings": {
            "labels": "masked",
            "center": "classes",
            "preset": "ncfast",
            "controls": "random:5,matched",
            "definitions": {"norms": "plain", "log_distance_centered": True, "cdnv_power": 1},
        },
        "tokens": {"kept": 190000, "dropped": {"padding": 8000, "special": 2000, "unknown": 0}},
        "timing": {"seconds": 60.0, "tokens_per_second": 3166.7, "statistics_share": 0.031},
        "sets": build_sets(results, descriptions, names),
        "bootstrap": {
            "repeats": 200,
            "level": 0.95,
            "seed": 0,
            "sets": ["gender", "gender/matched"],
            "without": ["the whole vocabulary", "NC4"],
        },
        "notes": [],
    }


@pytest.fixture
def report(raw_report) -> dict:
    """Return the same report with strict values."""
    return strict(raw_report)

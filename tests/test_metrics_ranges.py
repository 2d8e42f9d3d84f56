"""No metric leaves its mathematical range, however degenerate the features are."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

import ncfast
from ncfast import ClassStatistics, neural_collapse
from ncfast.catalogue import METRICS, PER_CLASS, ROUNDING, range_of, remark
from ncfast.metrics.bootstrap import bootstrap_intervals
from ncfast.presets import PRESETS


def _points(shape: str, classes: int, width: int, generator: torch.Generator) -> Tensor:
    """Return [K, D] float64 class centers of a degenerate kind."""
    base = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    line = base[:1] / base[:1].norm()
    return {
        "general": base,
        "equal": base[:1].expand(classes, -1).clone(),
        "collinear": line * torch.arange(1.0, classes + 1).double()[:, None],
        "antipodal": line * (torch.arange(classes) % 2 * 2 - 1).double()[:, None],
        "simplex": torch.eye(classes, max(width, classes), dtype=torch.float64)[:, :width],
        "flat": base - (base @ line.T) @ line,
        "doubled": base[torch.arange(classes) // 2],
        "one at the center": base - base.mean(0) if classes == 1 else _centred(base),
        "one far": torch.cat([base[:-1], 1e6 * base[-1:]]),
    }[shape]


def _centred(base: Tensor) -> Tensor:
    moved = base.clone()
    moved[0] = moved[1:].mean(0)
    return moved


SHAPES = (
    "general",
    "equal",
    "collinear",
    "antipodal",
    "simplex",
    "flat",
    "doubled",
    "one at the center",
    "one far",
)
HEADS = ("general", "zero rows", "all zero", "means", "against", "equal", "none")


def _head(kind: str, points: Tensor, generator: torch.Generator) -> Tensor | None:
    if kind == "none":
        return None
    head = torch.randn(points.shape, generator=generator, dtype=torch.float64)
    if kind == "zero rows":
        head[::2] = 0
    elif kind == "all zero":
        head.zero_()
    elif kind in ("means", "against"):
        head = (points - points.mean(0)) * (1 if kind == "means" else -1)
    elif kind == "equal":
        head = head[:1].repeat(len(head), 1)
    return head


def _in_range(key: str, value: float, low: float, high: float) -> bool:
    room = ROUNDING * max(1.0, abs(high) if math.isfinite(high) else 1.0)
    return (low - (room if low else 0.0)) <= value <= high + room


def check(stats: ClassStatistics, head: Tensor | None, classes: int, preset: str) -> None:
    """Hold every value a report and its intervals give to its range."""
    norms = PRESETS[preset].norms
    options = {"preset": preset, "histograms": 8, "ood_mean": stats.means[0].double() + 1}
    drawn = [None, 100] if classes > 15 else [None]
    for pairs in drawn:
        report = neural_collapse(stats, head, pairs=pairs, **options)
        for key, value in report.items():
            low, high = range_of(key, norms).ends(classes)
            if math.isnan(value):
                assert report.notes[key], key
                continue
            assert _in_range(key, value, low, high), (key, value, low, high)
            assert "please report" not in report.notes.get(key, ""), (key, value)
        for key, (left, right) in report.intervals.items():
            low, high = range_of(key, norms).ends(classes)
            assert low <= left <= right <= high or math.isnan(left), (key, left, right)
        for name, column in report.per_class.items():
            low, high = PER_CLASS[name].ends(classes)
            assert bool(((column >= low) & (column <= high)).all()), (name, column)
        for found in report.distributions.values():
            assert bool((found["counts"] >= 0).all())
            assert found["outside"] >= 0
    for key, (left, right) in bootstrap_intervals(stats, head, preset=preset, repeats=8).items():
        # A draw holds as few as two different classes.
        low, high = range_of(key, norms).ends(2)
        high = max(high, range_of(key, norms).ends(classes)[1])
        assert _in_range(key, left, low, high), (key, left, low)
        assert _in_range(key, right, low, high), (key, right, high)
        assert left <= right, key


@settings(
    max_examples=150, deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate)
)
@given(
    shape=st.sampled_from(SHAPES),
    head=st.sampled_from(HEADS),
    classes=st.sampled_from([1, 2, 3, 5, 17]),
    width=st.sampled_from([1, 2, 4, 24]),
    per_class=st.sampled_from([1, 2, 7]),
    spread=st.sampled_from([0.0, 1e-9, 0.1, 3.0]),
    scale=st.sampled_from([1e-20, 1e-6, 1.0, 1e6, 1e18]),
    offset=st.sampled_from([0.0, 1.0, 1e3]),
    dtypes=st.sampled_from(
        [
            (torch.float32, torch.float32),
            (torch.float32, torch.bfloat16),
            (torch.float64, torch.float64),
            (torch.float64, torch.float32),
        ]
    ),
    preset=st.sampled_from(sorted(PRESETS)),
    seed=st.integers(0, 2**20),
)
def test_every_value_lies_in_its_range(
    shape, head, classes, width, per_class, spread, scale, offset, dtypes, preset, seed
):
    generator = torch.Generator().manual_seed(seed)
    points = _points(shape, classes, width, generator)
    y = torch.arange(classes).repeat(per_class)
    noise = torch.randn(len(y), width, generator=generator, dtype=torch.float64)
    x = (points[y] + spread * noise + offset) * scale
    stats = ClassStatistics(classes, width, dtype=dtypes[0])
    for part in torch.arange(len(y)).split(5):
        stats.update(x[part].to(dtypes[1]), y[part])
    weight = _head(head, points, generator)
    check(stats, None if weight is None else weight.to(dtypes[0]), classes, preset)


def test_every_key_has_a_range_and_every_range_a_key():
    stats = ClassStatistics(2, 2)
    stats.update(torch.eye(2), torch.arange(2))
    found = neural_collapse(stats, torch.eye(2), ood_mean=torch.ones(2))
    assert {*found, "nc4_agreement"} == set(METRICS)
    assert set(PER_CLASS) == set(found.per_class)
    for metric in METRICS.values():
        for classes in (1, 2, 3, 30_000):
            low, high = metric.range.ends(classes)
            assert low < high


FORMER = {
    "ncfast.ranges": "PER_CLASS RANGES Range range_of remark",
    "ncfast.reporting.glossary": "FAMILIES HIGHER LOWER METRICS Explanation explain_metric "
    "ordered_keys",
    "ncfast.language.packaged": "PackagedFiles WheelSpec cache_root is_packaged parse_spec resolve",
}
NOW = {"ncfast.language.packaged": "ncfast.wheels.packaged"}


@pytest.mark.parametrize("module", FORMER)
def test_former_places_still_serve(module):
    """What once were public modules, with a warning for each name."""
    place = NOW.get(module, "ncfast.catalogue")
    former, said = importlib.import_module(module), f"{module}.* is now in {place}"
    for name in FORMER[module].split():
        with pytest.warns(DeprecationWarning, match=said):
            found = getattr(former, name)
        if name == "RANGES":
            assert found["interference_mean"].ends(5) == (-0.25, 1.0)
        else:
            now = {"Explanation": "Metric"}.get(name, name)
            assert found is getattr(importlib.import_module(place), now)
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = former.other


def test_what_touches_or_passes_an_end_is_said():
    assert remark("nc3_mean", 0.3, 5) == ""
    assert remark("nc3_mean", 1.0, 5) == "at its greatest possible value, 1"
    assert remark("interference_mean", -0.25 - 1e-15, 5) == "at its least possible value, -0.25"
    assert "please report it" in remark("nc1_pinv", -3.78, 5)
    assert "please report it" in remark("etf_error", 1.5, 5)
    assert remark("norm_mean", -2.0, 5, "log") == ""
    stats = ClassStatistics(3, 3)
    stats.update(torch.eye(3), torch.arange(3))
    report = ncfast.neural_collapse(stats, torch.eye(3) - 1 / 3)
    assert report.notes["trace_within"] == "at its least possible value, 0"
    assert report.notes["nc3_mean"] == "at its greatest possible value, 1"


@pytest.mark.parametrize("key", ["cdnv_mean", "interference_mean", "etf_error"])
def test_the_test_of_ranges_can_fail(key, monkeypatch):
    """A value put beyond its range is seen by the check above."""
    stats = ClassStatistics(5, 4)
    generator = torch.Generator().manual_seed(0)
    stats.update(torch.randn(40, 4, generator=generator), torch.arange(40) % 5)
    check(stats, None, 5, "ncfast")
    from ncfast.metrics.report import Values

    put = Values.put

    def spoiled(self, name, value, *rest, **more):
        put(self, name, -5.0 if name == key else value, *rest, **more)

    monkeypatch.setattr(Values, "put", spoiled)
    with pytest.raises(AssertionError, match=key):
        check(stats, None, 5, "ncfast")

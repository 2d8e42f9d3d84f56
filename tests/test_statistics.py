"""ClassStatistics: one pass, any batches, any order, any number of parts."""

from __future__ import annotations

import errno
import itertools
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ncfast
from ncfast import ClassStatistics, DataError
from ncfast.statistics import merging

V, D = 11, 5
SUBSET = [1, 4, 7]


def tokens(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randint(0, V, (n,), generator=generator)
    y[torch.rand(n, generator=generator) < 0.1] = -100
    return x, y


def fresh(**options: object) -> ClassStatistics:
    arguments = {"scatter": {"all": None, "subset": SUBSET}, "dtype": torch.float64, **options}
    return ClassStatistics(V, D, **arguments)  # type: ignore[arg-type]


def by_hand(x: Tensor, y: Tensor, classes: list[int]) -> dict[str, Tensor]:
    """Return the same statistics from their definitions, token by token."""
    counts, means, m2 = [], [], []
    scatters = {"all": torch.zeros(D, D).double(), "subset": torch.zeros(D, D).double()}
    for c in classes:
        own = x[y == c].double()
        mean = own.sum(0) / max(len(own), 1)
        counts.append(len(own))
        means.append(mean)
        m2.append(sum(float((row - mean) @ (row - mean)) for row in own))
        for row in own:
            outer = torch.outer(row - mean, row - mean)
            scatters["all"] += outer
            if c in SUBSET:
                scatters["subset"] += outer
    return {
        "counts": torch.tensor(counts),
        "means": torch.stack(means),
        "m2": torch.tensor(m2, dtype=torch.float64),
        **scatters,
    }


def assert_same(stats: ClassStatistics, expected: dict[str, Tensor], tolerance: float) -> None:
    """Compare with a tolerance relative to each statistic's natural scale, its largest entry."""
    assert torch.equal(stats.counts, expected["counts"])
    found = {"means": stats.means, "m2": stats.m2, **stats.scatter}
    for name, value in found.items():
        scale = expected[name].abs().max().clamp(min=1)
        assert (value.double() - expected[name]).abs().max() <= tolerance * scale, name


@pytest.mark.parametrize("classes", [None, [7, 1, 4, 2]])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_one_pass_equals_the_definition(classes, dtype, tolerance):
    x, y = tokens(211, dtype=dtype)
    stats = fresh(classes=classes, dtype=dtype)
    for part in torch.arange(211).split(17):
        stats.update(x[part], y[part])
    assert_same(stats, by_hand(x, y, sorted(classes) if classes else list(range(V))), tolerance)
    kept = torch.isin(y, torch.tensor(classes)) if classes else y >= 0
    assert stats.tokens == int(kept.sum())
    assert stats.ignored == int((y == -100).sum())
    assert stats.tokens + stats.ignored + stats.outside == 211


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 150), max_size=6),
    order=st.permutations(list(range(150))),
    parts=st.integers(1, 4),
    backend=st.sampled_from(["cpu", "reference"]),
)
def test_batches_order_and_parts_change_nothing(cuts, order, parts, backend):
    x, y = tokens(150, seed=3)
    expected = by_hand(x, y, list(range(V)))
    x, y = x[list(order)], y[list(order)]
    states = [fresh() for _ in range(parts)]
    edges = [0, *sorted(cuts), 150]
    with ncfast.use_backend(backend):
        for i, (begin, end) in enumerate(itertools.pairwise(edges)):
            states[i % parts].update(x[begin:end], y[begin:end])
        for other in states[1:]:
            states[0].merge(other)
    assert_same(states[0], expected, 1e-10)


def test_a_far_mean_keeps_the_spread():
    """|mean| / sigma = 1000 in float32: E|x|^2 - |mean|^2 would be off by 6 %."""
    generator = torch.Generator().manual_seed(1)
    centers = 1000 * torch.randn(7, 64, generator=generator) / 1.0
    y = torch.randint(0, 7, (20_000,), generator=generator)
    x = centers[y] + torch.randn(20_000, 64, generator=generator)
    exact = torch.stack([x[y == c].double().var(0, correction=0).sum() for c in range(7)])
    expected = float((exact * torch.bincount(y, minlength=7)).sum())
    stats = ClassStatistics(7, 64)
    for part in torch.arange(20_000).split(333):
        stats.update(x[part], y[part])
    assert abs(float(stats.m2.sum()) - expected) <= 1e-6 * expected
    assert abs(float(stats.scatter["all"].trace()) - expected) <= 1e-6 * expected


def test_merge_of_an_empty_state_and_into_one():
    x, y = tokens(60)
    full, empty = fresh(), fresh()
    full.update(x, y)
    expected = by_hand(x, y, list(range(V)))
    full.merge(empty)
    empty.merge(full)
    assert_same(full, expected, 1e-12)
    assert_same(empty, expected, 1e-12)


@pytest.mark.parametrize("coarse_first", [False, True])
def test_merge_is_one_pass_in_all_that_a_state_tells(coarse_first):
    """Which tokens were left out, and how coarse the features were that made the means."""
    x, y = tokens(90, dtype=torch.float32)
    x[[11, 70]] = torch.nan
    parts = [(x[:50], y[:50]), (x[50:].bfloat16(), y[50:])]
    options = {"classes": [7, 1, 4, 2], "scatter": True, "dtype": torch.float32, "nan": "drop"}
    whole, *states = (fresh(**options) for _ in range(3))
    for state, part in zip(states, parts, strict=True):
        state.update(*part)
        whole.update(*part)
    own, other = states[::-1] if coarse_first else states
    own.merge(other)
    told = ("tokens", "ignored", "outside", "dropped", "feature_roundoff")
    assert [getattr(own, name) for name in told] == [getattr(whole, name) for name in told]
    assert all(getattr(own, name) for name in told)


def test_merge_in_blocks_of_rows(monkeypatch):
    """A subset's slots are those of a block, where the classes take several."""
    monkeypatch.setattr(merging, "_ROWS", 3)
    x, y = tokens(150, seed=5)
    states = [fresh(), fresh()]
    states[0].update(x[:70], y[:70])
    states[1].update(x[70:], y[70:])
    states[0].merge(states[1])
    assert_same(states[0], by_hand(x, y, list(range(V))), 1e-10)


def test_two_scatters_of_every_class_are_the_same():
    stats = fresh(scatter={"one": None, "other": None})
    x, y = tokens(60)
    for part in torch.arange(60).split(25):
        stats.update(x[part], y[part])
    assert stats.scatter["one"].trace() > 0
    torch.testing.assert_close(stats.scatter["other"], stats.scatter["one"])


def test_ignored_tokens_enter_no_subset():
    """Not even that of class 0, whose slot an ignored label could be mistaken for."""
    x, y = tokens(150, seed=6)
    found, expected = (fresh(scatter={"first": [0, 3]}) for _ in range(2))
    found.update(x, y)
    expected.update(x[y >= 0], y[y >= 0])
    torch.testing.assert_close(found.scatter["first"], expected.scatter["first"])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x, y: y.__setitem__(5, V), rf"y\[5\] is {V}"),
        (lambda x, y: y.__setitem__(5, -1), r"y\[5\] is -1"),
        (lambda x, y: x.__setitem__((9, 2), float("nan")), "is nan"),
        (lambda x, y: x.__setitem__((9, 2), float("-inf")), "is -inf"),
    ],
)
@pytest.mark.parametrize("classes", [None, list(range(1, V))])
def test_a_refused_batch_changes_nothing(backend, spoil, message, classes):
    stats = fresh(classes=classes)
    x, y = tokens(30)
    y[9] = 4
    with ncfast.use_backend(backend):
        stats.update(x, y)
        before = {name: tensor.clone() for name, tensor in stats._tensors().items()}
        spoil(x, y)
        with pytest.raises(DataError, match=message):
            stats.update(x, y)
    for name, tensor in stats._tensors().items():
        assert torch.equal(tensor, before[name]), name


def test_nan_of_an_ignored_token_does_not_matter_and_drop_counts():
    x, y = tokens(30)
    y[3], y[4] = -100, 2
    x[3, 0] = float("nan")
    stats = fresh()
    stats.update(x, y)
    x[4, 1] = float("inf")
    dropping = fresh(nan="drop")
    dropping.update(x, y)
    assert dropping.dropped == 1
    assert dropping.tokens == stats.tokens - 1
    assert dropping.ignored == stats.ignored


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_classes": 0, "dim": 3}, ValueError, "num_classes is 0"),
        ({"num_classes": 3, "dim": 0}, ValueError, "dim is 0"),
        ({"num_classes": 3, "dim": 3, "classes": []}, DataError, "classes is empty"),
        ({"num_classes": 3, "dim": 3, "classes": [3]}, DataError, r"ids in \[0, 3\)"),
        ({"num_classes": 3, "dim": 3, "dtype": torch.float16}, TypeError, "float16"),
        ({"num_classes": 3, "dim": 3, "nan": "keep"}, ValueError, "'keep'"),
        ({"num_classes": 3, "dim": 3, "scatter": {"a": []}}, DataError, "is empty"),
        (
            {"num_classes": 3, "dim": 3, "classes": [0], "scatter": {"a": [1]}},
            DataError,
            r"does not keep: \[1\]",
        ),
    ],
)
def test_bad_configuration(arguments, error, message):
    with pytest.raises(error, match=message):
        ClassStatistics(**arguments)


def test_bad_shapes_and_dtypes():
    stats = fresh(dtype=torch.float32)
    with pytest.raises(ValueError, match="same leading sizes"):
        stats.update(torch.zeros(3, D), torch.zeros(4, dtype=torch.int64))
    for y in (torch.zeros(3), torch.zeros(3, dtype=torch.bool)):
        with pytest.raises(TypeError, match=rf"y is {y.dtype}; expected int64"):
            stats.update(torch.zeros(3, D), y)
    with pytest.raises(TypeError, match=r"^ClassStatistics\.update: x is float64.*=torch\.fl"):
        stats.update(torch.zeros(3, D, dtype=torch.float64), torch.zeros(3, dtype=torch.int64))


def test_save_and_load_keep_every_bit(tmp_path):
    x, y = tokens(100)
    stats = fresh(classes=[1, 2, 4, 7])
    stats.update(x, y)
    stats.save(tmp_path / "a.safetensors", {"text": "wiki ☃"})
    loaded = ClassStatistics.load(tmp_path / "a.safetensors")
    assert loaded.metadata == {"text": "wiki ☃"}
    for name, tensor in stats._tensors().items():
        assert torch.equal(tensor, loaded._tensors()[name]), name
    loaded.update(x, y)
    stats.update(x, y)
    assert torch.equal(loaded.means, stats.means)
    assert torch.equal(loaded.scatter["subset"], stats.scatter["subset"])
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    stats = fresh()
    stats.update(*tokens(50))
    stats.save(path)
    kept = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    stats.update(*tokens(50))
    with pytest.raises(OSError, match="No space left"):
        stats.save(path)
    assert path.read_bytes() == kept
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_merging_other_classes_is_refused():
    for other in (
        fresh(classes=[1, 4, 7]),
        fresh(scatter=True),
        fresh(dtype=torch.float32),
        fresh(scatter={"all": None, "subset": [1, 2]}),
    ):
        with pytest.raises(DataError, match=r"ClassStatistics\.merge"):
            fresh().merge(other)


def test_reset_forgets():
    stats = fresh()
    stats.update(*tokens(20))
    stats.reset()
    assert stats.tokens == 0
    assert stats.ignored == 0
    assert not stats.means.any()
    assert not stats.scatter["all"].any()

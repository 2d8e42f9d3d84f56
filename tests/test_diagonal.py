"""Per-class variances along every axis: kept by name, merged, saved."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import ncfast
from ncfast import ClassStatistics, DataError

V, D = 9, 70  # more axes than are handled at a time


def tokens(n: int = 200) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    y = torch.randint(0, V - 1, (n,), generator=generator)  # the last class never occurs
    y[::9] = -100
    return torch.randn(n, D, generator=generator, dtype=torch.float64) + 5, y


def fresh(**options: object) -> ClassStatistics:
    return ClassStatistics(V, D, dtype=torch.float64, diagonal=True, **options)  # type: ignore[arg-type]


def by_hand(x: Tensor, y: Tensor, classes: list[int]) -> Tensor:
    zero = torch.zeros(D, dtype=torch.float64)
    return torch.stack(
        [x[y == c].var(0, correction=0) if (y == c).any() else zero for c in classes]
    )


@pytest.mark.parametrize("classes", [None, [1, 4, 8]])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_batches_parts_and_files_give_the_variances(classes, backend, tmp_path):
    x, y = tokens()
    expected = by_hand(x, y, classes or list(range(V)))
    states = [fresh(classes=classes) for _ in range(2)]
    with ncfast.use_backend(backend):
        for i, part in enumerate(torch.arange(200).split(23)):
            states[i % 2].update(x[part].view(1, -1, D), y[part].view(1, -1))
        states[0].merge(states[1])
    states[0].save(tmp_path / "state.safetensors")
    loaded = ClassStatistics.load(tmp_path / "state.safetensors")
    for state in (states[0], loaded, loaded.to("cpu")):
        assert (state.diagonal_variances() - expected).abs().max() < 1e-12
        assert torch.allclose(state.diagonal_m2.sum(1), state.m2, rtol=1e-12)
    loaded.reset()
    assert not loaded.diagonal_m2.any()


def test_a_refused_batch_changes_nothing_and_dropped_tokens_stay_out():
    x, y = tokens()
    broken = x.clone()
    broken[7] = math.nan
    y[7] = 3
    state = fresh()
    for features, labels in ((broken, y), (x, torch.full_like(y, V))):
        with pytest.raises(DataError):
            state.update(features, labels)
    assert not state.diagonal_m2.any()
    dropping = fresh(nan="drop")
    dropping.update(broken, y)
    without = torch.where(torch.arange(200) == 7, -100, y)
    expected = by_hand(x, without, list(range(V)))
    assert (dropping.diagonal_variances() - expected).abs().max() < 1e-12


def test_it_is_kept_by_name_only():
    x, y = tokens()
    plain = ClassStatistics(V, D, dtype=torch.float64)
    plain.update(x, y)
    assert plain.diagonal_m2 is None
    with pytest.raises(ValueError, match="diagonal=True before the pass"):
        plain.diagonal_variances()
    with pytest.raises(DataError, match="diagonal True"):
        plain.merge(fresh())


def test_a_far_mean_in_float32_keeps_the_spread():
    """|mean| / sigma = 1000: E[x^2] - mean^2 in float32 would be noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 3, generator=generator) + 1000
    state = ClassStatistics(1, 3, diagonal=True)
    for part in x.split(100):
        state.update(part, torch.zeros(len(part), dtype=torch.int64))
    exact = x.double().var(0, correction=0)
    assert (state.diagonal_variances()[0] / exact - 1).abs().max() < 1e-5

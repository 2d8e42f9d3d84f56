"""Tensors of files: what is read of them, in which order, and what that is said to cost."""

from __future__ import annotations

import itertools
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ncfast import mapped
from ncfast.known_points import Known
from ncfast.metrics import sampled_pairs
from ncfast.metrics.pair_functions import PairFunction, Plan
from ncfast.metrics.sampling import drawn_pairs, tiled

V, D = 600, 1024
FUNCTIONS = [
    PairFunction("cdnv"),
    PairFunction("cosine"),
    PairFunction("log_distance"),
    PairFunction("log_distance_raw"),
]
linux = pytest.mark.skipif(sys.platform != "linux", reason="advice on memory is given on Linux")


@pytest.fixture
def rows(tmp_path):
    """Return [600, 1024] float32 of a file that was written, and is out of the page cache."""
    path = tmp_path / "rows"
    values = torch.randn(V, D, generator=torch.Generator().manual_seed(0))
    with open(path, "wb") as file:
        file.write(values.numpy().tobytes())
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return mapped.map_file(path, (V, D), torch.float32)


@pytest.fixture
def asked(monkeypatch):
    """Return what is asked of the system: first byte, bytes and advice."""
    found = []
    monkeypatch.setattr(mapped, "_advise", lambda *advice: found.append(advice))
    return found


def points_of(rows) -> sampled_pairs.Points:
    variances = torch.rand(V, generator=torch.Generator().manual_seed(1)).double()
    known = Known(torch.zeros(V // 2).double())
    return sampled_pairs.Points(
        rows, torch.arange(V // 2) * 2, variances, rows.double().mean(0), known
    )


@linux
def test_the_cost_of_reading_is_estimated_before(rows, tmp_path):
    found = mapped.reading_of(rows)
    if not found.bytes:
        pytest.skip("this file system keeps what it was told to drop")
    assert found.bytes <= V * D * 4 + 4096
    assert 0 < found.seconds < 60
    assert "MB/s" in str(found)
    rows.sum()
    assert mapped.reading_of(rows).bytes == 0
    assert mapped.reading_of(torch.ones(V, D)).bytes == 0
    assert mapped.reading_of(torch.empty(4 * V, 8 * D)).bytes == 0  # nor is what nobody wrote yet
    assert "0.00 GB" in str(mapped.reading_of(torch.ones(V, D)))


@linux
def test_rows_are_asked_for_in_runs(rows, asked):
    near = mapped.GAP_BYTES // (4 * D)
    some = torch.tensor([3, 4, 5 + near, 300, 599])
    mapped.read_ahead(rows, some)
    first = rows.data_ptr()
    runs = [((begin - first) // (4 * D), count // (4 * D)) for begin, count, _ in asked]
    assert runs == [(3, 2), (5 + near, 1), (300, 1), (599, 1)]
    assert {advice for *_, advice in asked} == {"WILLNEED"}


def test_a_file_of_another_size_is_named(tmp_path):
    (tmp_path / "rows").write_bytes(bytes(12))
    with pytest.raises(ValueError, match="rows holds 12 bytes; expected 16"):
        mapped.map_file(tmp_path / "rows", (2, 2), torch.float32)


def test_draws_are_tiled_each_once_and_two_tiles_at_a_time():
    a, b = drawn_pairs(1000, 5000, seed=3)
    groups = tiled(a, b, rows=128)
    assert torch.equal(torch.cat(groups).sort().values, torch.arange(5000))
    seen = []
    for group in groups:
        tiles = set((torch.stack([a[group], b[group]]) // 128).flatten().tolist())
        assert len(tiles) <= 2
        assert bool((a[group].diff() >= 0).all())
        seen.append((min(tiles), max(tiles)))
    assert len(seen) == len(set(seen)) == 8 * 9 // 2
    # Going back, the second tile is the one that going forth ended on.
    turns = [pair for pair in itertools.pairwise(seen) if pair[0][0] < pair[1][0]]
    assert [left[1] == right[1] for left, right in turns] == [True, False] * 3 + [True]
    assert tiled(a[:0], b[:0], rows=128) == []


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("tile_rows", [V, 100, 7])
def test_tiles_and_threads_change_no_bit(rows, tile_rows, threads, monkeypatch):
    """Against every draw by itself, in the order of the draws."""
    points, plan = points_of(rows), Plan(bins=8, drawn=700, seed=5)
    i, j = drawn_pairs(V // 2, 700, 5)
    values = torch.cat(
        [points.values(FUNCTIONS, i[k : k + 1], j[k : k + 1])[0] for k in range(700)], 1
    )
    expected = [
        sampled_pairs.summary_of_drawn(f, part, 8, 0)
        for f, part in zip(FUNCTIONS, values, strict=True)
    ]
    monkeypatch.setattr(sampled_pairs, "_TILE_BYTES", tile_rows * 4 * D)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = sampled_pairs.draw(points, FUNCTIONS, plan)
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == threads
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for one, other in zip(found, expected, strict=True):
        assert str(one) == str(other)


@linux
def test_rows_of_a_cold_file_are_asked_for_tile_by_tile(rows, asked, monkeypatch):
    points = points_of(rows.clone())  # its center is read from memory
    points = sampled_pairs.Points(
        rows, points.index, points.variances, center=points.center, known=points.known
    )
    monkeypatch.setattr(sampled_pairs, "_TILE_BYTES", 150 * 4 * D)
    monkeypatch.setattr(mapped, "GAP_BYTES", 2 * 4 * D)
    monkeypatch.setattr(mapped, "reading_of", lambda _: mapped.Reading(1, 1.0))
    sampled_pairs.draw(points, FUNCTIONS, Plan(drawn=4000, seed=5))
    first = rows.data_ptr()
    touched = [(begin - first) // (4 * D * 150) for begin, *_ in asked]
    assert set(touched) == {0, 1, 2, 3}
    assert touched[0] == 0
    assert max(count for _, count, _ in asked) <= 300 * 4 * D
    asked.clear()
    monkeypatch.setattr(mapped, "reading_of", lambda _: mapped.Reading(0, 1.0))
    sampled_pairs.draw(points, FUNCTIONS, Plan(drawn=400, seed=5))
    assert asked == []

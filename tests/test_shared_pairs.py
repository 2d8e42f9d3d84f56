"""Pairs of one set of classes, shared among ranks: every pair once, the sums of one process."""

from __future__ import annotations

import itertools
import math
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Barrier

import pytest
import torch

from ncfast import ClassStatistics, neural_collapse
from ncfast.metrics import pairs, sampled_pairs, shared_collapse, shared_pairs
from ncfast.metrics.pair_functions import PairFunction, Plan
from ncfast.metrics.pairs import Pairs
from ncfast.metrics.shared_pairs import PRIMES, lines_of_plane, order_of_plane
from ncfast.metrics.sums import Sums
from ncfast.ranks import Ranks

CLASSES, WIDTH = 61, 6


@dataclass(frozen=True)
class Threads(Ranks):
    """Ranks that are threads of this process."""

    meeting: Barrier | None = None
    box: dict | None = None

    def gather(self, value):
        self.box[self.rank] = value
        self.meeting.wait(60)
        found = [self.box[rank] for rank in range(self.size)]
        self.meeting.wait(60)
        return found


def on_threads(size, work):
    """Return what ``work(ranks)`` returns or raises on each of so many ranks."""
    ranks = Threads(size=size, meeting=Barrier(size), box={})

    def attempt(rank):
        mine = replace(ranks, rank=rank)
        try:
            with mine.sharing_errors():
                return work(mine)
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(attempt, range(size)))


@pytest.mark.parametrize("order", [2, *PRIMES[:4]])
def test_any_two_points_of_a_plane_lie_on_one_line(order):
    lines = lines_of_plane(order)
    assert [len(line) for line in lines] == [order] * (order**2 + order)
    met = [frozenset(two) for line in lines for two in itertools.combinations(line, 2)]
    assert len(met) == len(set(met)) == math.comb(order**2, 2)


def test_few_rows_are_visited_at_once_and_every_rank_has_a_line_and_a_block(monkeypatch):
    assert order_of_plane(3 * shared_pairs.LINE - 1, 2) == 0
    assert order_of_plane(3 * shared_pairs.LINE, 9) == 3
    assert order_of_plane(3 * shared_pairs.LINE, 10) == 0
    assert order_of_plane(10**9, 64) == PRIMES[-1]


def filled(dtype, twins=False):
    g = torch.Generator().manual_seed(3)
    means = torch.randn(CLASSES, WIDTH, generator=g, dtype=torch.float64)
    if twins:  # equal up to rounding, and equal: in one block and in two, blocks of 6 or 7
        means[60], means[9], means[20] = means[59] * (1 + 1e-15), means[30], means[40]
    y = torch.arange(CLASSES).repeat(4)
    noise = torch.randn(CLASSES, WIDTH, generator=g, dtype=torch.float64)
    stats = ClassStatistics(CLASSES, WIDTH, dtype=dtype)
    for sign in (1, -1):  # a mean of what is as far on both sides is exact
        stats.update((means + sign * noise / 4)[y].to(dtype), y)
    head = torch.randn(CLASSES, WIDTH, generator=g, dtype=torch.float64).to(dtype)
    if twins:
        head[50], head[6] = head[14], head[5]
    return stats, head


@pytest.mark.parametrize("options", [{}, {"pairs": 500, "seed": 3}, {"center": "none"}])
@pytest.mark.parametrize("twins", [False, True])
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_report_is_that_of_one_process(dtype, size, twins, options, monkeypatch):
    monkeypatch.setattr(shared_pairs, "LINE", 9)
    four_tiles = 20 * WIDTH * dtype.itemsize  # of draws
    monkeypatch.setattr(sampled_pairs, "_TILE_BYTES", four_tiles)
    stats, head = filled(dtype, twins)
    given = {"center": "classes", "preset": "ncfast", "histograms": 12} | options
    expected = neural_collapse(stats, head, **given)
    assert "pairs" in options or bool(expected["pairs_left_out"]) == twins
    scale = 1e-10 if dtype is torch.float64 else 1e-5
    found = on_threads(size, lambda ranks: shared_collapse(ranks, stats, head, None, **given))
    for report in found:
        assert report.notes.keys() == expected.notes.keys()
        assert report.to_dict() == pytest.approx(
            expected.to_dict(), rel=scale, abs=scale, nan_ok=True
        )
        for name, histogram in expected.distributions.items():
            other = report.distributions[name]
            assert other["coincident"] == histogram["coincident"]
            assert (other["counts"] - histogram["counts"]).abs().sum() <= 2
            assert other["counts"].sum() + other["outside"] == (
                histogram["counts"].sum() + histogram["outside"]
            )
        if "pairs" in options:  # the draws are those of one process, each formed as there
            assert report.to_dict() == pytest.approx(expected.to_dict(), abs=0, nan_ok=True)


def test_every_rank_visits_its_share(monkeypatch):
    """Of 12 lines and 9 blocks one of three ranks visits seven sets of rows."""
    monkeypatch.setattr(shared_pairs, "LINE", 20)
    stats, head = filled(torch.float64)
    visits = []
    sums = Pairs._sums_over
    monkeypatch.setattr(
        Pairs, "_sums_over", lambda *given: visits.append(given[-1].numel()) or sums(*given)
    )
    on_threads(3, lambda r: shared_collapse(r, stats, head, None, "classes", "ncfast"))
    assert len(visits) == 2 * 3 * 7
    assert set(visits) == {6, 7, 19, 20, 21}  # 61 rows in nine blocks, three on a line


def test_sums_of_rows_that_are_exact(monkeypatch):
    """Equal rows of one block and of two are counted once, and each end of the range is found."""
    monkeypatch.setattr(shared_pairs, "LINE", 9)
    points = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(1)).double()
    points[60], points[9] = points[59], points[30]
    exact = Pairs(points, torch.arange(CLASSES), torch.rand(CLASSES).double(), None)
    functions = [
        PairFunction("cosine", limits=(-1.0, 1.0)),
        PairFunction("riesz", 4),
        PairFunction("cdnv"),
    ]
    for found in on_threads(3, lambda ranks: exact.sums(functions, Plan(8, ranks=ranks))):
        for one, other in zip(exact.sums(functions, Plan(8)), found, strict=True):
            assert torch.allclose(one.stats, other.stats, rtol=1e-12, atol=1e-12)
            assert torch.equal(one.histogram, other.histogram)
            assert one.coincident == other.coincident
    assert int(other.coincident) == 2


def test_every_rank_forms_its_share_of_the_draws(monkeypatch):
    monkeypatch.setattr(sampled_pairs, "_TILE_BYTES", 20 * WIDTH * 8)
    stats, head = filled(torch.float64)
    formed = []
    values = sampled_pairs.Points.values
    monkeypatch.setattr(
        sampled_pairs.Points,
        "values",
        lambda *given: formed.append(given[-1].numel()) or values(*given),
    )
    on_threads(3, lambda r: shared_collapse(r, stats, head, None, "classes", "ncfast", pairs=500))
    assert sum(formed) == 2 * 500


def test_what_rounding_hides_in_the_draws_of_all_ranks_is_counted(monkeypatch):
    monkeypatch.setattr(sampled_pairs, "_TILE_BYTES", 20 * WIDTH * 8)
    monkeypatch.setattr(sampled_pairs, "_VALUES", 64 * WIDTH)
    stats, head = filled(torch.float64, twins=True)
    expected = neural_collapse(stats, head, pairs=1800, seed=5)
    assert "differ by no more than their rounding" in expected.notes["cdnv_mean"]
    given = (stats, head, None, "classes", "ncfast")
    for report in on_threads(3, lambda r: shared_collapse(r, *given, pairs=1800, seed=5)):
        assert report.notes == expected.notes


def test_draws_are_sent_once(monkeypatch):
    """And not with every chunk of them: five functions and a place of 750 draws take 36 kB."""
    monkeypatch.setattr(sampled_pairs, "_VALUES", 64 * WIDTH)  # many chunks
    stats, head = filled(torch.float64)
    sent, gather = [], Threads.gather
    monkeypatch.setattr(
        Threads,
        "gather",
        lambda self, value: sent.append(len(pickle.dumps(value))) or gather(self, value),
    )
    on_threads(2, lambda r: shared_collapse(r, stats, head, None, "classes", "ncfast", pairs=1500))
    assert max(sent) < 2 * 750 * 8 * 6


def test_the_first_rank_says_which_points_touch(monkeypatch):
    """Others may round otherwise, and would go on where the first one exchanges sums again."""
    monkeypatch.setattr(shared_pairs, "LINE", 9)
    stats, head = filled(torch.float64, twins=True)
    expected = neural_collapse(stats, head)
    found, ranks_of, asked = pairs.touching_points, {}, set()

    def of_two(rows, known, nearest):
        rank = ranks_of[threading.get_ident()]
        asked.add(rank)
        touching = found(rows, known, nearest)
        return touching if rank == 0 else torch.zeros_like(touching)

    def work(ranks):
        ranks_of[threading.get_ident()] = ranks.rank
        return shared_collapse(ranks, stats, head, None, "classes", "ncfast")

    monkeypatch.setattr(pairs, "touching_points", of_two)
    for report in on_threads(2, work):
        assert report.to_dict() == pytest.approx(expected.to_dict(), rel=1e-10, nan_ok=True)
    assert asked == {0, 1}


def test_an_error_of_one_rank_is_raised_on_all(monkeypatch):
    monkeypatch.setattr(shared_pairs, "LINE", 9)
    stats, head = filled(torch.float64)

    def inside(ranks):  # a visit fails
        def visit(index):
            if ranks.rank == 1:
                raise ValueError("no room")
            return [Sums.nothing(PairFunction("cosine"), 0, index.device)]

        return shared_pairs.shared_sums(
            visit, torch.arange(CLASSES), [PairFunction("cosine")], ranks
        )

    def before(ranks):  # a rank never comes to its visit
        if ranks.rank == 1:
            raise ValueError("no room")
        return shared_collapse(ranks, stats, head, None, "classes", "ncfast")

    for work in (inside, before):
        said = [str(error) for error in on_threads(3, work)]
        assert said == ["rank 1 of 3: no room", "no room", "no room"]


def test_energies_of_nearest_pairs_within_a_block_are_taken_off_again(monkeypatch):
    """They weigh everything, and are counted on each of four lines: 4 e^a - 3 e^a is e^a."""
    monkeypatch.setattr(shared_pairs, "LINE", 9)
    stats, head = filled(torch.float64)
    stats.means[1] = stats.means[0] + 1e-6
    expected = neural_collapse(stats, head)["riesz_log_mean"]
    for found in on_threads(
        2, lambda r: shared_collapse(r, stats, head, None, "classes", "ncfast")
    ):
        assert found["riesz_log_mean"] == pytest.approx(expected, rel=1e-10)

"""``python -m benchmarks.coverage_crossed``: how often intervals of ``ncfast experiment`` hold.

Differences of two arms are drawn of seeds and clusters whose true mean is 0, with what seeds,
clusters and both together (what a seed does to one cluster alone) vary by. Beside ours: percentiles
of seeds and clusters resampled together, and those widened until seeds alone give Student's
interval, which reports had until 2026-11-28.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import norm, t

from ncfast.experiment.inference import crossed_interval
from ncfast.fairness.jackknife import student
from ncfast.fairness.resampling import cluster_weights
from ncfast.fairness.statistic import Statistic, difference_of_means, mean

from .coverage import halves, publish, statistic
from .run import RESULTS

RESAMPLES = 500
# Of the variance of the mean: what seeds alone, clusters alone and both together give. The first
# five are what contrasts of laptop.toml have: ours less none, and equalise and leace less none.
SHARES: tuple[tuple[str, float, float, float], ...] = (
    ("ours, gap: seeds above all", 0.7, 0.15, 0.15),
    ("ours, SEAT: both together", 0.3, 0.2, 0.5),
    ("SST-2: both together alone", 0.0, 0.05, 0.95),
    ("equalise: clusters above all", 0.08, 0.91, 0.01),
    ("leace: clusters alone", 0.0, 1.0, 0.0),
    ("thirds", 1 / 3, 1 / 3, 1 / 3),
)
# A score by items' values [n], and its clusters.
Score = Callable[[np.ndarray], Statistic]


def gap(values: np.ndarray) -> Statistic:
    """Return the gap of two groups' means, as BEC-Pro's."""
    first, strata = halves(len(values))
    return statistic(difference_of_means(values, first, ~first), len(values), strata=strata)


def average(values: np.ndarray) -> Statistic:
    """Return a mean, as SST-2's accuracy."""
    return statistic(mean(values), len(values))


DESIGNS: tuple[tuple[str, Score, int, int], ...] = (
    ("gap, 20 + 20 clusters, 8 seeds", gap, 40, 8),
    ("gap, 5 + 5 clusters, 8 seeds", gap, 10, 8),
    ("mean, 10 clusters, 8 seeds", average, 10, 8),
    ("mean, 300 clusters, 8 seeds", average, 300, 8),
    ("gap, 20 + 20 clusters, 3 seeds", gap, 40, 3),
)


def draw(
    random: np.random.Generator, shares: Sequence[float], score: Score, clusters: int, seeds: int
) -> np.ndarray:
    """Draw the differences of each seed at each cluster [S, n], skewed over clusters."""
    first = halves(clusters)[0]
    of_seed, of_cluster, of_both = (share**0.5 for share in shares)
    sign = np.where(first, 1.0, -1.0) if score is gap else np.ones(clusters)
    # A mean over n clusters, or a gap of two halves, has 1 / n, or 4 / n, of a cluster's variance.
    unit = (4 / clusters if score is gap else 1 / clusters) ** 0.5
    move = 0.5 if score is gap else 1.0
    each = random.exponential(1, clusters) - 1
    both = random.normal(0, (seeds) ** 0.5, (seeds, clusters))
    alone = random.normal(0, (seeds) ** 0.5, (seeds, 1))
    return of_seed * alone * sign * move + (of_cluster * each + of_both * both) / unit


def resampled(values: np.ndarray, drawn: np.ndarray, seed: int) -> list[tuple[float, float]]:
    """Return the percentiles of seeds and clusters resampled together, plain and widened."""
    seeds, resamples = drawn.shape
    random = np.random.default_rng([seed, 1])
    counts = random.multinomial(seeds, np.full(seeds, 1 / seeds), resamples)
    means, whole = (counts.T * drawn).sum(0) / seeds, drawn.mean(0)
    wider = t.ppf(0.975, seeds - 1) / norm.ppf(0.975) * (seeds / (seeds - 1)) ** 0.5
    found = [np.quantile(whole + k * (means - whole), [0.025, 0.975]) for k in (1.0, wider)]
    return [(float(low), float(high)) for low, high in found]


def coverage(
    shares: Sequence[float], score: Score, clusters: int, seeds: int, tries: int
) -> np.ndarray:
    """Return in how many per cent of the tries each of the three ways holds 0."""
    held = np.zeros(3)
    for number in range(tries):
        random = np.random.default_rng([number, clusters, seeds])
        each = [score(row) for row in draw(random, shares, score, clusters, seeds)]
        whole = np.ones((1, clusters))
        values = np.array([float(one.value(whole)[0]) for one in each])
        weights = np.concatenate(list(cluster_weights(each[0], RESAMPLES, number)))
        drawn = np.stack([one.value(weights) for one in each])
        ours = crossed_interval(list(values), drawn, *student(each[0].value, each[0], False))
        assert ours is not None
        for way, (low, high) in enumerate((*resampled(values, drawn, number), ours)):
            held[way] += low <= 0 <= high
    return 100 * held / tries


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.coverage_crossed", description=__doc__
    )
    parser.add_argument("--tries", type=int, default=1000, help="samples of each cell")
    parser.add_argument("--out", type=Path, help=f"file (such as {RESULTS}/coverage_crossed.md)")
    options = parser.parse_args(arguments)
    lines = [
        f"95 % intervals that hold the true mean, in per cent of {options.tries} samples (standard "
        f"error {100 * (0.05 * 0.95 / options.tries) ** 0.5:.1f}): percentiles of seeds and "
        "clusters resampled together / those widened to Student's over seeds / ours (quasi F), "
        f"{RESAMPLES} resamples. Rows: shares of the variance of the mean that seeds, clusters and "
        "both together give; clusters are skewed (exponential). "
        "`python -m benchmarks.coverage_crossed`.",
        "",
        "| seeds, clusters, both | " + " | ".join(name for name, *_ in DESIGNS) + " |",
        "|---|" + "--:|" * len(DESIGNS),
    ]
    for name, *shares in SHARES:
        cells = []
        for _, score, clusters, seeds in DESIGNS:
            found = coverage(shares, score, clusters, seeds, options.tries)
            cells.append(" / ".join(f"{value:.0f}" for value in found))
        told = ", ".join(f"{share:.2f}" for share in shares)
        lines.append(f"| {name} ({told}) | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    publish("experiment", lines, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m benchmarks.coverage``: how often intervals hold what they estimate.

Samples are drawn from populations whose score is known, with metrics like the benchmarks': shares
of target words and of items, gaps of means, heavy and skewed means, correlations, effect sizes,
perplexities, and abs(SS - 50) and ICAT, which turn at 50. Beside ours: percentiles of the same
resamples.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ncfast.fairness.benchmarks.seat_statistics import effect_size, stable_effect_size
from ncfast.fairness.benchmarks.winogender import correlation
from ncfast.fairness.inference import Estimate, PairedDifference, compare, estimate
from ncfast.fairness.resampling import cluster_weights, percentile_interval
from ncfast.fairness.statistic import (
    Statistic,
    Weighted,
    difference_of_means,
    distances,
    extreme,
    mean,
)

from .run import RESULTS

CLUSTERS = (10, 20, 30, 60, 262)
RESAMPLES = 1000
Draw = Callable[[np.random.Generator, int], Statistic]
Two = Callable[[np.random.Generator, int], tuple[Statistic, Statistic]]  # of two models


def statistic(value: Weighted, count: int, **more: object) -> Statistic:
    """Return a score of so many clusters of one item each."""
    names = [str(n) for n in range(count)]
    named = dict(subset="", variant="", metric="", items=names, clusters=names)
    return Statistic(value=value, **{**named, **more})  # type: ignore[arg-type]


def spread(random: np.random.Generator, share: float, count: int) -> np.ndarray:
    """Draw the shares of target words, with a standard deviation of 0.15."""
    both = share * (1 - share) / 0.15**2 - 1
    return random.beta(share * both, (1 - share) * both, count)


def words(random: np.random.Generator, share: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw how many contexts of each of some words go one way, and how many there are."""
    sizes = random.integers(8, 36, count)
    return random.binomial(sizes, spread(random, share, count)), sizes


def macro(share: float) -> Draw:
    """Return the mean of words' shares in per cent, as StereoSet's SS."""

    def draw(random: np.random.Generator, count: int) -> Statistic:
        hits, sizes = words(random, share, count)
        return statistic(mean(hits / sizes, None, 100), count, bounds=(0.0, 100.0))

    return draw


def micro(random: np.random.Generator, count: int) -> Statistic:
    """Return a share of all items, as WinoBias's."""
    hits, sizes = words(random, 0.65, count)
    return statistic(mean(hits / sizes, sizes, 100), count, bounds=(0.0, 100.0))


def pairs(random: np.random.Generator, count: int) -> Statistic:
    """Return a share of items that are clusters, as CrowS-Pairs' metric."""
    return statistic(mean(random.random(count) < 0.57, None, 100), count, bounds=(0.0, 100.0))


def average(values: Callable[[np.random.Generator, int], np.ndarray]) -> Draw:
    """Return a mean, as of log-odds."""
    return lambda random, count: statistic(mean(values(random, count)), count)


def halves(count: int) -> tuple[np.ndarray, list[str]]:
    """Return which half each cluster is in, as a mask and as strata."""
    first = np.arange(count) < count // 2
    return first, ["a" if one else "b" for one in first]


def gap(random: np.random.Generator, count: int) -> Statistic:
    """Return the gap of two groups' means, as BEC-Pro's."""
    first, strata = halves(count)
    values = np.where(first, random.normal(0.9, 0.5, count), random.normal(0.4, 0.3, count))
    return statistic(difference_of_means(values, first, ~first), count, strata=strata)


def pearson(r: float) -> Draw:
    """Return a correlation, as Winogender's."""

    def draw(random: np.random.Generator, count: int) -> Statistic:
        x, noise = random.normal(size=(2, count))
        y = r * x + (1 - r * r) ** 0.5 * noise
        return statistic(correlation(x, y, ranks=False), count, bounds=(-1.0, 1.0))

    return draw


def seat(values: np.ndarray, first: np.ndarray, strata: list[str]) -> Statistic:
    """Return SEAT's effect size of associations."""
    more = {"strata": strata, "bounds": (-2.0, 2.0), "stable": stable_effect_size(values, first)}
    return statistic(effect_size(values, first), len(values), **more)


def effect(distance: float, skewed: bool = False) -> Draw:
    """Return SEAT's effect size of two groups so many standard deviations apart."""

    def draw(random: np.random.Generator, count: int) -> Statistic:
        first, strata = halves(count)
        noise = random.exponential(size=count) if skewed else random.normal(size=count)
        return seat(noise + distance * first, first, strata)

    return draw


def sentences(random: np.random.Generator, count: int) -> Statistic:
    """Return SEAT's effect size of four sentences of each word, which share most of what varies."""
    first, strata = halves(count)
    of_words = random.normal(0, 0.8**0.5, count) + 1.5 * first
    s = np.repeat(of_words, 4) + random.normal(0, 0.2**0.5, 4 * count)
    each, side = np.repeat(np.arange(count), 4), np.repeat(first, 4)
    more = {"strata": [strata[n] for n in each], "bounds": (-2.0, 2.0)}
    items = {"items": [str(n) for n in range(4 * count)], "clusters": [str(n) for n in each]}
    return statistic(
        effect_size(s, side), count, stable=stable_effect_size(s, side), **items, **more
    )


def two_effects(one: float, two: float) -> Two:
    """Return SEAT's effect sizes of two models whose associations go together (r = 0.8)."""

    def draw(random: np.random.Generator, count: int) -> tuple[Statistic, Statistic]:
        first, strata = halves(count)
        a, b = random.normal(size=(2, count))
        return seat(a + one * first, first, strata), seat(
            0.8 * a + 0.6 * b + two * first, first, strata
        )

    return draw


def population(distance: float) -> float:
    """Return the effect size of two groups so many standard deviations apart."""
    return distance / (1 + distance**2 / 4) ** 0.5


def perplexity(random: np.random.Generator, count: int) -> Statistic:
    """Return a perplexity of texts of 5 to 60 tokens."""
    average = mean(random.normal(3.5, 0.6, count), random.integers(5, 60, count))
    return statistic(lambda weights: np.exp(average(weights)), count, bounds=(1.0, np.inf))


def distance(share: float) -> Draw:
    """Return abs(SS - 50)."""

    def draw(random: np.random.Generator, count: int) -> Statistic:
        apart = distances(macro(share)(random, count).value, 50)
        return statistic(extreme(max, apart), count, pieces=apart, bounds=(0.0, 50.0))

    return draw


def icat(share: float) -> Draw:
    """Return ICAT, of an LM of 80."""

    def draw(random: np.random.Generator, count: int) -> Statistic:
        ss, lm = (macro(p)(random, count).value for p in (share, 0.8))
        sides = (lambda w: lm(w) * ss(w) / 50), (lambda w: lm(w) * (100 - ss(w)) / 50)
        whole = extreme(min, sides)
        return statistic(whole, count, pieces=sides, pick=min, bounds=(0.0, 100.0))

    return draw


CASES: tuple[tuple[str, Draw | Two, float], ...] = (
    ("share of target words, 60 %", macro(0.6), 60),
    ("share of target words, 85 %", macro(0.85), 85),
    ("share of items of clusters, 65 %", micro, 65),
    ("share of pairs, 57 %", pairs, 57),
    ("mean, normal", average(lambda random, n: random.normal(0.2, 1, n)), 0.2),
    ("mean, heavy tails (t, 3 df)", average(lambda random, n: random.standard_t(3, n)), 0),
    ("mean, skewed (exponential)", average(lambda random, n: random.exponential(1, n)), 1),
    ("gap of two groups' means", gap, 0.5),
    ("Pearson's r, 0", pearson(0), 0),
    ("Pearson's r, 0.5", pearson(0.5), 0.5),
    ("effect size, 0", effect(0), 0),
    ("effect size, 1.2", effect(1.5), population(1.5)),
    ("effect size, 1.7", effect(3.3), population(3.3)),
    ("effect size, 1.2, skewed (exponential)", effect(1.5, skewed=True), population(1.5)),
    ("effect size, 1.2, of four sentences a word", sentences, population(1.5)),
    ("difference of two effect sizes, 0", two_effects(1.5, 1.5), 0),
    (
        "difference of two effect sizes, -0.5",
        two_effects(1.5, 0.8),
        population(0.8) - population(1.5),
    ),
    ("perplexity", perplexity, float(np.exp(3.5))),
    ("abs(SS - 50), 0", distance(0.5), 0),
    ("abs(SS - 50), 12", distance(0.62), 12),
    ("ICAT, SS 50", icat(0.5), 80),
    ("ICAT, SS 62", icat(0.62), 60.8),
)


def coverage(draw: Draw | Two, truth: float, clusters: int, tries: int) -> tuple[float, float]:
    """Return in how many per cent of the tries plain percentiles, and ours, hold the truth."""
    hits = np.zeros(2)
    for seed in range(tries):
        sample = draw(np.random.default_rng([seed, clusters]), clusters)
        one, two = (None, sample) if isinstance(sample, Statistic) else sample
        drawn = [
            two.value(w) - (0.0 if one is None else one.value(w))
            for w in cluster_weights(two, RESAMPLES, seed)
        ]
        plain = percentile_interval(np.concatenate(drawn))
        found: Estimate | PairedDifference = (
            estimate(two, RESAMPLES, seed) if one is None else compare(one, two, RESAMPLES, seed)
        )
        for way, (low, high) in enumerate((plain[:2], (found.low, found.high))):
            hits[way] += low is not None and low - 1e-9 <= truth <= (high or 0.0) + 1e-9
    before, after = 100 * hits / tries
    return float(before), float(after)


def publish(command: str, lines: Sequence[str], out: Path | None) -> None:
    """Write how often a command's intervals hold into a file, or print it."""
    text = "\n".join([f"# How often intervals of `ncfast {command}` hold", "", *lines]) + "\n"
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    else:
        print(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--tries", type=int, default=1000, help="samples of each cell")
    parser.add_argument("--cases", help="a part of their names (default: all)")
    parser.add_argument("--out", type=Path, help=f"file to write (such as {RESULTS}/coverage.md)")
    options = parser.parse_args(arguments)
    lines = [
        f"95 % intervals that hold what they estimate, in per cent of {options.tries} samples "
        f"(standard error {100 * (0.05 * 0.95 / options.tries) ** 0.5:.1f}): plain percentiles / "
        f"ours, {RESAMPLES:,} resamples. `python -m benchmarks.coverage`.",
        "",
        "| score | " + " | ".join(f"{n} clusters" for n in CLUSTERS) + " |",
        "|---|" + "--:|" * len(CLUSTERS),
    ]
    for name, draw, truth in CASES:
        if options.cases is None or options.cases in name:
            cells = [coverage(draw, truth, n, options.tries) for n in CLUSTERS]
            shown = " | ".join(f"{before:.0f} / {after:.0f}" for before, after in cells)
            lines.append(f"| {name} | {shown} |")
            print(lines[-1], flush=True)
    publish("evaluate", lines, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Endpoints: their headroom and intervals, of few clusters and of a base."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from ncfast.experiment.endpoints import headroom, interval_of, measured, why_no_interval
from ncfast.experiment.parts import Endpoint
from ncfast.fairness.clusters import LONELY
from ncfast.fairness.evaluation import score_row
from ncfast.fairness.inference import estimate
from ncfast.fairness.jackknife import student
from ncfast.fairness.statistic import Statistic, distances, extreme, mean
from ncfast.reporting import strict


def test_headroom_of_a_mean_of_absolute_values_is_against_noise():
    drawn = list(np.linspace(0.9, 1.1, 50))
    entry = {"value": 1.0, "unbiased": 0.0, "drawn": drawn, "noise": None, "clusters": 40}
    assert headroom(entry)["headroom"]
    noise = list(np.linspace(0.8, 1.1, 50))  # as far from 0 as by chance
    assert not headroom({**entry, "noise": noise})["headroom"]
    nearer = headroom({**entry, "noise": list(np.linspace(1.9, 2.1, 50))})
    assert nearer["z"] < -2  # type: ignore[operator]
    assert not nearer["headroom"]  # nearer to 0 than chance gives is no bias
    same = {"value": 0.0, "unbiased": 0.0, "drawn": [0.0] * 9, "noise": None, "clusters": 3}
    assert headroom(same) == {"z": None, "headroom": False}
    assert headroom({"value": 5.0, "unbiased": None})["headroom"] is None
    undefined = {"value": None, "unbiased": None, "drawn": [None] * 9, "clusters": 3}
    for unbiased in (None, 0.0):
        found = headroom({**undefined, "unbiased": unbiased, "noise": None})
        assert found == {"z": None, "headroom": None}
    assert headroom({**entry, "noise": [None, 1.0]})["headroom"] is None


def test_what_is_measured_says_of_how_few_clusters_it_is(monkeypatch):
    # Two strata of three and two clusters: leaving one out tells 1.5 / 2 and 2 / 1 of resamples.
    items = {"items": list("abcde"), "clusters": list("abcde"), "strata": list("xxxyy")}
    found = Statistic("s", "v", "m", mean(np.array([0.0, 1, 2, 5, 5])), unbiased=0.0, **items)
    benchmark = SimpleNamespace(statistics=lambda records: [found])
    monkeypatch.setattr("ncfast.experiment.endpoints.make", lambda name: benchmark)
    kept = measured(Endpoint("e", "b", "m", "v", ("s",)), [], 20)
    assert (kept["freedom"], kept["inflation"]) == student(found.value, found, False)
    assert kept["freedom"] == pytest.approx(2.0, abs=0.8)
    assert kept["inflation"] == pytest.approx(1.5, abs=0.1)


def lonely_cell(monkeypatch, strata):
    items = {"items": list("abcde"), "clusters": list("abcde"), "strata": list(strata)}
    found = Statistic("s", "v", "m", mean(np.array([3.0, 1, 2, 5, 5])), unbiased=0.0, **items)
    benchmark = SimpleNamespace(statistics=lambda records: [found])
    monkeypatch.setattr("ncfast.experiment.endpoints.make", lambda name: benchmark)
    return found, measured(Endpoint("e", "b", "m", "v", ("s",)), [], 20)


def test_a_stratum_of_one_cluster_has_no_interval_in_an_experiment_either(monkeypatch):
    found, kept = lonely_cell(monkeypatch, "xxxxy")
    assert estimate(found).low is None
    assert headroom(kept) == {"z": None, "headroom": None}
    assert why_no_interval(kept) == score_row("m", "b", found, estimate(found))["note"] == LONELY
    found, kept = lonely_cell(monkeypatch, "xxxyy")
    assert estimate(found).low is not None
    assert why_no_interval(None, kept) == ""
    _, alone = lonely_cell(monkeypatch, "vwxyz")
    assert why_no_interval({k: v for k, v in alone.items() if k != "lonely"}) == LONELY  # of before
    assert why_no_interval(kept, seeds=1).startswith("no interval: of one seed")


@pytest.mark.parametrize("subsets", [("s",), ("s", "other")])
def test_the_interval_of_the_base_is_the_one_of_evaluate(monkeypatch, subsets):
    # abs(SS - 50) of few terms near 50: resampled clusters alone leave its scale below.
    random = np.random.default_rng(1)
    terms = {"items": [str(n) for n in range(40)], "clusters": [str(n // 4) for n in range(40)]}
    found = []
    for subset in ("s", "other"):
        apart = distances(mean(random.random(40) < 0.55, None, 100), 50)
        whole = extreme(max, apart)
        more = {"pieces": apart, "bounds": (0.0, 50.0), "unbiased": 0.0}
        found.append(Statistic(subset, "v", "m", whole, **terms, **more))
    benchmark = SimpleNamespace(statistics=lambda records: found)
    monkeypatch.setattr("ncfast.experiment.endpoints.make", lambda name: benchmark)
    kept = measured(Endpoint("e", "b", "m", "v", subsets), [], 20)
    of_base = interval_of(kept)
    old = interval_of({k: v for k, v in kept.items() if k not in ("low", "high")})
    assert 0 <= of_base.low < kept["value"] < of_base.high <= 50
    gate = headroom(kept)
    if len(subsets) == 1:
        assert old.low < 0  # what cells of before give
        whole = estimate(found[0])
        assert (of_base.low, of_base.high) == (whole.low, whole.high)
        assert gate["headroom"] is whole.headroom
        assert gate["z"] == pytest.approx(kept["value"] / whole.standard_error)
    assert json.loads(json.dumps(strict(kept))) == strict(kept)

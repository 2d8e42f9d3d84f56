"""Sections: histograms, groups, ranks and controls against a second computation."""

from __future__ import annotations

import numpy as np
import pytest


def test_histograms_share_edges_and_count_every_class(report):
    for name in ("cosines", "norms", "head_norms"):
        found = [section["distributions"][name] for section in report["sets"].values()]
        assert all(d["edges"] == found[0]["edges"] for d in found)
        for section, d in zip(report["sets"].values(), found, strict=True):
            assert sum(d["counts"]) + d["undefined"] == section["classes_present"]


def test_quantiles_are_those_of_the_words(report):
    section = report["sets"]["gender/matched"]
    cosines = [row["cosine"] for row in section["per_class"]]
    quantiles = section["distributions"]["cosines"]["quantiles"]
    assert quantiles["p50"] == pytest.approx(np.median(cosines))
    assert (quantiles["min"], quantiles["max"]) == (min(cosines), max(cosines))


def test_groups_count_a_shared_class_in_both(report):
    section = report["sets"]["gender"]
    rows = section["per_class"]
    for group, values in section["groups"].items():
        members = [row for row in rows if group in row["groups"]]
        assert values["classes"] == len(members)
        assert values["tokens"] == sum(row["count"] for row in members)
        known = [row["cosine"] for row in members if row["cosine"] is not None]
        assert values["cosine_mean"] == pytest.approx(np.mean(known))
    assert sum(v["classes"] for v in section["groups"].values()) > section["classes_present"]


def test_ranks_are_places_by_count(report):
    rows = sorted(report["sets"]["gender"]["per_class"], key=lambda row: row["rank"])
    counts = [row["count"] for row in rows]
    assert counts == sorted(counts, reverse=True)
    curve = report["sets"]["vocabulary"]["rank_counts"]
    assert curve[0][0] == 1
    assert curve[-1][0] == report["sets"]["vocabulary"]["classes_present"]
    assert [c for _, c in curve] == sorted((c for _, c in curve), reverse=True)


def test_controls_are_summed_up(report):
    section = report["sets"]["gender"]
    values = [report["sets"][f"gender/random-{i}"]["metrics"]["unc3_std"] for i in range(1, 6)]
    controls = section["random_controls"]
    assert controls["mean"]["unc3_std"] == pytest.approx(np.mean(values))
    assert controls["std"]["unc3_std"] == pytest.approx(np.std(values, ddof=1))
    assert section["ratio_to_random"]["unc3_std"] == pytest.approx(
        section["metrics"]["unc3_std"] / np.mean(values)
    )
    # The controls of this report lack the key, so there is nothing to compare with.
    assert controls["mean"]["nc1_pinv"] is None
    assert section["ratio_to_random"]["nc1_pinv"] is None
    assert "random_controls" not in report["sets"]["gender/matched"]

"""Sections: histograms, groups, ranks and controls against a second computation."""

from __future__ import annotations

import numpy as np
import pytest

from ncfast.reporting.histograms import describe_pairs


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


def test_pairs_are_counted_over_shared_edges(report):
    sets = report["sets"]
    names = [f"gender/random-{i}" for i in range(1, 6)]
    for name in ("pair_cosine", "pair_log_distance"):
        found = [section["distributions"][name] for section in sets.values()]
        assert all(d["edges"] == found[0]["edges"] for d in found)
        pooled = sets["gender"]["random_controls"]["distributions"][name]
        counts = [sets[control]["distributions"][name]["counts"] for control in names]
        assert pooled["counts"] == np.sum(counts, axis=0).tolist()
        assert pooled["coincident"] == 2 * 5
        assert pooled["outside"] == 3 * 5


@pytest.mark.parametrize("values", [[0.5], [0.1, 0.1, 3.9], list(np.linspace(0, 3.99, 997))])
def test_quantiles_of_pairs_are_right_to_a_bin(values):
    edges = np.linspace(0, 4, 41)
    counts, _ = np.histogram(values, edges)
    found = describe_pairs([{"edges": edges, "counts": counts, "coincident": 0}])["quantiles"]
    for level, name in ((0.05, "p05"), (0.5, "p50"), (0.95, "p95")):
        wanted = np.quantile(values, level, method="inverted_cdf")
        assert abs(found[name] - wanted) <= 0.1 + 1e-9


def test_pairs_of_other_edges_or_of_none():
    one = {"edges": [0, 1, 2], "counts": [0, 0], "coincident": 3}
    assert describe_pairs([one])["quantiles"]["p50"] is None
    with pytest.raises(ValueError, match="same edges"):
        describe_pairs([one, {**one, "edges": [0, 1, 3]}])


def test_ratios_and_their_intervals(report):
    section = report["sets"]["gender"]
    matched = report["sets"]["gender/matched"]["metrics"]
    assert section["ratio_to_matched"]["nc3_mean"] == pytest.approx(
        section["metrics"]["nc3_mean"] / matched["nc3_mean"]
    )
    mean = section["random_controls"]["mean"]["unc3_std"]
    found = section["ratio_to_random_intervals"]["unc3_std"]
    assert found == pytest.approx([end / mean for end in section["intervals"]["unc3_std"]])
    assert found[0] < section["ratio_to_random"]["unc3_std"] < found[1]

"""Findings of made-up cells: tests, gates and verdicts that can be worked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ncfast.experiment import load_protocol
from ncfast.experiment.endpoints import few_units_of
from ncfast.experiment.errors import ExperimentError
from ncfast.experiment.findings import find
from ncfast.experiment.tree import report_tree
from ncfast.experiment.verdict import verdict
from ncfast.fairness.clusters import LONELY
from ncfast.reporting.markdown import blocks_to_markdown

FIRST = {"digest": "", "commit": ""}


@pytest.fixture
def protocol(tiny_protocol, tmp_path):
    return load_protocol(tiny_protocol(tmp_path, **{"seeds = [0, 1]": f"seeds = {list(range(8))}"}))


def cell(gap: float, perplexity: float = 10.0, unc3: float = 0.2, items: str = "a") -> dict:
    drawn = list(gap + np.linspace(-0.1, 0.1, 50))
    score = {"unbiased": 0.0, "noise": None, "items": items, "n": 5, "clusters": 5}
    entry = {"value": gap, "drawn": drawn, **score}
    return {
        "weights": "w",
        "identity": {"items": {}},
        "training": {},
        "endpoints": {
            "gap": entry,
            "seat": dict(entry),
            "perplexity": {"value": perplexity, "unbiased": None},
        },
        "nc": {"gender": {"unc3_std": unc3, "classes": 3.0}},
    }


def grid(effect, seeds: int = 8, base: float = 1.0) -> dict[str, dict]:
    results = {"tiny/base/0": cell(base)}
    for seed in range(seeds):
        results[f"tiny/none/{seed}"] = cell(1.0 + 0.01 * seed)
        ours = cell(1.0 + 0.01 * seed + effect(seed), 10.1, 0.1)
        results[f"tiny/ours/{seed}"] = ours
    return results


def test_a_claim_that_holds(protocol):
    model = find(protocol, grid(lambda seed: -0.2 - 0.001 * seed), FIRST)["models"][0]
    row = next(r for r in model["contrasts"] if r["endpoint"] == "gap")
    assert row["p"] == 2 / 256  # all eight go down, and one test needs no adjustment
    assert row["p_holm"] == 2 / 256
    assert row["mean"] == pytest.approx(-0.2035)
    low, high = row["interval"]
    assert low < -0.2035 < high < 0
    said = " ".join(verdict(protocol, model))
    assert "The claim is supported: every primary test" in said
    assert "lower in 8 of 8 seeds" in said
    assert "+1.00 % (8 seeds" in said


def test_seeds_and_clusters_are_crossed_only_where_no_stratum_has_one_cluster(protocol):
    results = grid(lambda seed: -0.2 - 0.001 * seed)
    for found in results.values():
        found["endpoints"]["gap"]["lonely"] = True
    found = find(protocol, results, FIRST)
    rows = {r["endpoint"]: r for r in found["models"][0]["contrasts"] if r["arm"] == "ours"}
    assert rows["gap"]["interval"] is None
    assert rows["gap"]["note"] == LONELY
    assert rows["gap"]["mean"] == pytest.approx(-0.2035)
    assert rows["seat"]["interval"]
    assert "note" not in rows["seat"]
    said = " ".join(verdict(protocol, found["models"][0]))
    assert f"gap, ours less none: the base has no headroom that is known ({LONELY})" in said
    text = blocks_to_markdown(report_tree(protocol, found), "t")
    assert f"primary; {LONELY}" in text
    assert text.count(LONELY) >= 3  # the verdict, the effect, the base


def test_one_seed_has_no_interval_and_says_so(protocol):
    results = grid(lambda seed: -0.2, seeds=1)
    row = find(protocol, results, FIRST)["models"][0]["contrasts"][0]
    assert (row["seeds"], row["interval"]) == (1, None)
    assert row["note"] == "no interval: of one seed alone nothing says what others give"


def test_a_claim_that_does_not_hold_and_one_that_is_contradicted(protocol):
    model = find(protocol, grid(lambda seed: 0.1 * (-1) ** seed), FIRST)["models"][0]
    assert model["contrasts"][0]["p"] == 1.0
    assert "The claim is not supported here" in " ".join(verdict(protocol, model))
    model = find(protocol, grid(lambda seed: 0.1 + 0.001 * seed), FIRST)["models"][0]
    assert "contradicted here: more biased in gap" in " ".join(verdict(protocol, model))


def test_no_test_half_way_and_none_without_headroom(protocol):
    model = find(protocol, grid(lambda seed: -0.2, seeds=7), FIRST)["models"][0]
    assert model["contrasts"][0]["p"] is None
    said = " ".join(verdict(protocol, model))
    assert "seeds of the family are missing" in said
    assert "perplexity, ours against none: +1.00 % (7 seeds): not tested, because seeds" in said
    assert model["margins"][0]["p"] is model["margins"][0]["p_worse"] is None
    assert "not decided" in said
    model = find(protocol, grid(lambda seed: -0.2, base=0.05), FIRST)["models"][0]
    assert model["family"] == []
    assert "no headroom at the base" in " ".join(verdict(protocol, model))


def test_an_interval_knows_of_how_few_clusters_it_is(protocol):
    rows = []
    for few in ({}, {"freedom": 2.0, "inflation": 4.0}):
        results = grid(lambda seed: -0.2 - 0.001 * seed)
        for seed in range(8):  # of draws that differ by arm, so that clusters count
            entry = results[f"tiny/ours/{seed}"]["endpoints"]["gap"]
            entry["drawn"] = [2 * x for x in entry["drawn"]]
        results["tiny/base/0"]["endpoints"]["gap"] |= few  # of the same items
        found = find(protocol, results, FIRST)["models"][0]
        rows.append(next(r["interval"] for r in found["contrasts"] if r["endpoint"] == "gap"))
        rows.append(found["base"]["endpoints"]["gap"]["interval"])
    assert rows[2][1] - rows[2][0] > 2 * (rows[0][1] - rows[0][0])
    assert rows[3][1] - rows[3][0] > 2 * (rows[1][1] - rows[1][0])
    assert few_units_of({"clusters": 1}) == (1.0, 2.0)


def test_other_items_are_no_pair(protocol):
    results = grid(lambda seed: -0.2)
    results["tiny/ours/3"]["endpoints"]["gap"]["items"] = "b"
    with pytest.raises(ExperimentError, match="seed 3: gap of ours and none is over different"):
        find(protocol, results, FIRST)


def test_perplexities_of_other_texts_are_not_compared(protocol):
    results = grid(lambda seed: -0.2)
    results["tiny/ours/3"]["endpoints"]["perplexity"]["items"] = "documents"
    model = find(protocol, results, FIRST)["models"][0]
    assert model["margins"][0]["mean"] is None


def test_a_control_that_moved_is_said(tiny_protocol, tmp_path):
    seeds = {"seeds = [0, 1]": f"seeds = {list(range(8))}"}
    changes = {**seeds, 'name = "seat"': 'name = "seat"\ncontrol = true'}
    protocol = load_protocol(tiny_protocol(tmp_path, **changes))
    results = grid(lambda seed: -0.2)
    said = " ".join(verdict(protocol, find(protocol, results, FIRST)["models"][0]))
    assert "seat, which should not move, did, ours less none: -0.2 [-0.2, -0.2]" in said
    for seed in range(8):
        same = results[f"tiny/none/{seed}"]["endpoints"]["seat"]
        results[f"tiny/ours/{seed}"]["endpoints"]["seat"] = same
    said = " ".join(verdict(protocol, find(protocol, results, FIRST)["models"][0]))
    assert "should not move" not in said


def test_no_worse_is_on_the_side_where_more_is_worse(protocol):
    results = grid(lambda seed: -0.2)
    for ratio, worse in ((2.0, True), (0.5, False)):
        for seed in range(8):
            value = 10.0 * ratio * (1 + 0.001 * seed)
            results[f"tiny/ours/{seed}"]["endpoints"]["perplexity"]["value"] = value
        row = find(protocol, results, FIRST)["models"][0]["margins"][0]
        assert row["p"] > 0.99  # neither is within the margin
        assert (row["p_worse"] > 0.99) == worse
        assert (row["p_worse"] < 0.01) == (not worse)


@pytest.mark.parametrize(
    ("ours", "none", "said"),
    [(0.0, 1.0, "0 against 1"), (1.0, 0.0, "1 against 0"), (-1.0, 2.0, "-1 against 2")],
)
def test_where_there_is_no_ratio_the_row_says_why(protocol, ours, none, said):
    results = grid(lambda seed: -0.2)
    for arm, value in (("ours", ours), ("none", none)):
        results[f"tiny/{arm}/3"]["endpoints"]["perplexity"]["value"] = value
    found = find(protocol, results, FIRST)
    row = found["models"][0]["margins"][0]
    assert row["note"] == f"no ratio: seed 3 has {said}, and both have to be above 0"
    assert row["mean"] is row["p"] is row["p_worse"] is None
    line = f"perplexity, ours against none (8 seeds; {row['note']}): not tested."
    assert line in verdict(protocol, found["models"][0])
    text = blocks_to_markdown(report_tree(protocol, found), "t")
    assert f"ours against none: perplexity; {row['note']}" in text


def test_a_collapse_of_nothing_has_no_share(protocol):
    results = grid(lambda seed: -0.2)
    for seed, value in ((s, None if s == 3 else 0.0) for s in range(8)):
        results[f"tiny/none/{seed}"]["nc"]["gender"]["unc3_std"] = value
    said = " ".join(verdict(protocol, find(protocol, results, FIRST)["models"][0]))
    assert "0.1000 against 0.0000 (undefined), lower in 0 of 7 seeds" in said


@pytest.mark.parametrize(("effect", "said"), [(-0.5, "can move"), (0.0, "tells little")])
def test_the_positive_control_says_whether_a_score_can_move(tiny_protocol, tmp_path, effect, said):
    changes = {"seeds = [0, 1]": f"seeds = {list(range(8))}"}
    changes['against = "none"\nprimary = true'] = 'against = "none"\npositive = true'
    protocol = load_protocol(tiny_protocol(tmp_path, **changes))
    noise = [0.01 * (-1) ** seed for seed in range(8)]
    model = find(protocol, grid(lambda seed: effect + noise[seed]), FIRST)["models"][0]
    found = [line for line in verdict(protocol, model) if "positive control" in line]
    assert len(found) == 1
    assert found[0].startswith("gap, ours less none, the positive control")
    assert said in found[0]


def test_only_arms_that_are_asked_late_have_late_rows(tiny_protocol, tmp_path):
    changes = {
        'name = "seat"': 'name = "seat"\nlate = ["none"]',
        'scale = "ratio"': 'scale = "ratio"\n[[margins]]\nendpoint = "seat"\nmargin = 1.0',
    }
    protocol = load_protocol(tiny_protocol(tmp_path, **changes))
    results = grid(lambda seed: -0.2, seeds=2)
    model = find(protocol, results, FIRST)["models"][0]
    assert {row["endpoint"] for row in model["contrasts"]} == {"gap", "perplexity"}
    assert {row["endpoint"] for row in model["margins"]} == {"perplexity"}
    both = replace(protocol.endpoints[1], late=("none", "ours"))
    protocol = replace(protocol, endpoints=(protocol.endpoints[0], both, protocol.endpoints[2]))
    rows = find(protocol, results, FIRST)["models"][0]["margins"]
    assert {r["arm"] for r in rows if r["endpoint"] == "seat"} == {"ours"}


def test_a_control_of_few_seeds_is_whole_with_them(protocol):
    few = replace(protocol.arms[1], seeds=(0, 1, 2))
    arms = (protocol.arms[0], few, *protocol.arms[2:])
    contrasts = (replace(protocol.contrasts[0], primary=False, positive=True),)
    protocol = replace(protocol, arms=arms, contrasts=contrasts)
    effect = [-0.2, -0.21, -0.22]
    model = find(protocol, grid(lambda s: effect[s], seeds=3), FIRST)["models"][0]
    assert model["cells"] == 1 + 3 * 8 + 3
    row = next(r for r in model["contrasts"] if r["endpoint"] == "gap")
    assert row["complete"]
    assert row["seeds"] == 3
    assert row["interval"][1] < 0
    assert model["margins"][0]["p"] is not None
    model = find(protocol, grid(lambda s: effect[s], seeds=2), FIRST)["models"][0]
    assert not model["contrasts"][0]["complete"]
    assert model["margins"][0]["p"] is None


def test_a_model_that_runs_one_arm_has_no_contrast(protocol):
    models = (replace(protocol.models[0], arms=("ours",)),)
    model = find(replace(protocol, models=models), grid(lambda seed: -0.2), FIRST)["models"][0]
    assert [arm["name"] for arm in model["arms"]] == ["ours"]
    assert model["contrasts"] == model["margins"] == []


def test_an_arm_s_training_goes_before_its_model_s_and_the_protocol_s(protocol):
    protocol = replace(protocol, training={"steps": 1, "lr": 1.0, "seed": 1})
    model = replace(protocol.models[0], training={"steps": 2, "lr": 2.0})
    arm = replace(protocol.arm("ours"), training={"steps": 3})
    assert protocol.training_of(model, arm) == {"steps": 3, "lr": 2.0, "seed": 1}

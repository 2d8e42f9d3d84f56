"""Which arm is less biased: on either side of unbiased, and past it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ncfast.experiment import load_protocol
from ncfast.experiment.directions import nearer
from ncfast.experiment.findings import find
from ncfast.experiment.tree import report_tree
from ncfast.experiment.verdict import verdict
from ncfast.reporting.markdown import blocks_to_markdown
from tests.experiment.test_findings import FIRST, grid


@pytest.fixture
def protocol(tiny_protocol, tmp_path):
    return load_protocol(tiny_protocol(tmp_path, **{"seeds = [0, 1]": f"seeds = {list(range(8))}"}))


def test_fairer_is_nearer_to_unbiased_whatever_the_sign(protocol):
    def claim(at, effect):
        results = grid(lambda seed: effect + 0.001 * seed, base=at)
        for name, found in results.items():
            for key in ("gap", "seat"):
                entry = found["endpoints"][key]
                if "base" not in name:
                    entry["value"] += at - 1.0  # the grid is made around 1
                entry["unbiased"] = 0.0
        model = find(protocol, results, FIRST)["models"][0]
        return next(r for r in model["contrasts"] if r["primary"]), " ".join(
            verdict(protocol, model)
        )

    row, said = claim(-1.0, 0.2)  # from -1 to -0.8: a rise, and fairer
    assert row["mean"] > 0
    assert row["better"]
    assert "less biased, by more than chance" in said
    assert "The claim is supported: every" in said
    row, said = claim(-1.0, -0.2)
    assert row["mean"] < 0
    assert not row["better"]
    assert "contradicted here: more biased in gap" in said
    row, said = claim(0.5, -2.0)  # past 0, and further from it
    assert "contradicted here" in said


def test_where_nothing_is_unbiased_good_decides(protocol):
    entries = [({"value": 2.0}, {"value": 1.0})]
    endpoint = protocol.endpoints[0]
    assert [nearer(replace(endpoint, good=g), entries) for g in ("low", "high", "none")] == [
        False,
        True,
        None,
    ]
    entries = [({"value": 51.0, "unbiased": 50.0}, {"value": 60.0, "unbiased": 50.0})]
    assert nearer(replace(endpoint, good="none"), entries) is True


@pytest.mark.parametrize(
    ("far", "said"),
    [
        (-2.02, "unbiased, p 0.32 of the distances from it); p 0.00781, by Holm 0.00781: diff"),
        (-1.5, "unbiased, p 0.00781 of the distances from it); p 0.00781, by Holm 0.00781: less"),
        (-2.5, "unbiased, p 0.00781 of the distances from it); p 0.00781, by Holm 0.00781: more"),
        (-0.5, "p 0.00781, by Holm 0.00781: less biased, by more than chance"),
        (0.5, "p 0.00781, by Holm 0.00781: more biased, by more than chance"),
    ],
)
def test_past_unbiased_is_different_and_not_less_biased(protocol, far, said):
    """+1 and -1 differ, and of a test that they differ nothing follows about the distance."""
    found = find(protocol, grid(lambda seed: far - 0.012 * seed), FIRST)
    verdicts = " ".join(verdict(protocol, found["models"][0]))
    assert said in verdicts
    nowhere = far == -2.02
    assert ("Different, on the other side of unbiased: gap against none." in verdicts) == nowhere
    assert ("not supported here" in verdicts) == nowhere
    text = blocks_to_markdown(report_tree(protocol, found), "t")
    assert ("primary; on the other side of unbiased, p " in text) == (far < -1)

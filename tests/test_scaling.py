"""The scaling benchmark: it sweeps what it says, times nobody who is wrong, and draws it."""

from __future__ import annotations

import pytest

from benchmarks import scaling, scaling_figures
from ncfast.bench.machine import Machine

MACHINES = {t: Machine(t, 1e10, 1e11) for t in (1, 2)}


def test_the_axes_are_those_of_the_plan():
    values = {}
    for sweep in scaling.sweeps(2):
        values.setdefault(sweep.axis, set()).update(value for value, _, _ in sweep.points())
    assert (min(values["classes"]), max(values["classes"])) == (1_024, 262_144)
    assert (min(values["width"]), max(values["width"])) == (128, 8_192)
    assert (min(values["tokens"]), max(values["tokens"])) == (1_024, 65_536)
    assert values["threads"] == {1, 2}
    assert {"ranks", *values} == set(scaling_figures.AXES)


def measured_here(said, minutes=1.0):
    sweep = next(s for s in scaling.sweeps(1, small=True) if s.op == scaling.MOMENTS)
    return scaling.measured(sweep, MACHINES, scaling.Budget(minutes), "a run", said.append)


def test_who_fails_the_gate_or_the_time_is_left_out(monkeypatch):
    said = []
    assert {p.provider for p in measured_here(said)} == {"cpu", "torch"}
    assert not said
    assert measured_here(said, minutes=0) == []
    assert "would take too long" in said[0]

    def check(name, case):
        assert name != "torch", "grad x is wrong"

    monkeypatch.setattr(scaling.gate, "check", check)
    assert {p.provider for p in measured_here(said)} == {"cpu"}
    assert "torch grad x is wrong" in said[-1]


def test_rows_are_kept_and_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    points = measured_here([])
    budget = scaling.Budget(1)
    points += scaling.of_drawn_pairs(100, 8, MACHINES[2], budget, "a run")
    assert [p.value for p in points if p.op == "drawn pairs"] == [1_024, 4_096]
    errors = [p.error for p in points if p.op == "drawn pairs"]
    assert 0 < errors[1] < errors[0]
    scaling.store(tmp_path / "scaling.csv", points)
    assert scaling.load(tmp_path / "scaling.csv") == points
    (tmp_path / "scaling_left_out.txt").write_text("left out, this")
    text = scaling_figures.write(tmp_path).read_text()
    for name in ("scaling_tokens.svg", "scaling_drawn.svg"):
        assert name in text
        assert "stroke-dasharray" in (tmp_path / name).read_text()
    assert "- left out, this" in text
    assert "| tokens | accumulate_class_moments_ | torch | N=64 D=16 V=64 |" in text


@pytest.mark.slow
def test_ranks_share_the_tokens():
    (one, two) = scaling.of_ranks([1, 2], (64, 8, 20), MACHINES[1], "a run")
    assert (one.ranks, two.ranks) == (1, 2)
    assert two.bound_seconds == one.bound_seconds / 2

"""The benchmark room: bounds on hand-counted sizes, gates that catch, a run that can be read."""

from __future__ import annotations

import csv

import pytest
import torch

from benchmarks import bounds, providers, run
from benchmarks.cases import cases
from benchmarks.machine import Machine


def test_bounds_by_hand():
    moments = bounds.accumulate_class_moments_(n=10, d=4, v=100, t=3, e=2)
    assert moments.moved == 10 * 4 * 2 + 80 + 2 * 3 * 16
    assert bounds.class_moments(10, 4, 100, 3, 4).moved == 160 + 80 + 100 * 16
    assert bounds.within_class_scatter(10, 4, 100, 3, 4).flops == 160
    assert bounds.pair_stats(1, 4, 100, 0, 4).flops == 40_000
    assert bounds.nearest_center_and_linear_argmax(10, 4, 100, 3, 4).flops == 16_000


def test_floor_is_the_tighter_of_memory_and_arithmetic():
    machine = Machine(threads=1, bandwidth=10.0, flops=100.0)
    assert machine.floor_seconds(20, 100) == 2
    assert machine.floor_seconds(20, 1000) == 10


@pytest.mark.parametrize("case", cases(quick=True), ids=lambda c: f"{c.op}-{c.dtype}")
def test_every_provider_passes_its_gate(case):
    verdicts = {name: run.gate(case, name) for name in providers.providers()}
    assert verdicts["cpu"] == verdicts["reference"] == "ok"
    assert set(verdicts.values()) <= {"ok", "absent"}


def test_the_gate_catches_a_wrong_provider(monkeypatch):
    case = cases(quick=True)[2]
    assert case.op == "class_moments"

    def wrong(op, inputs):
        good = providers._torch(op, inputs)

        def call():
            counts, means, spread = good()
            return counts, means * 1.001, spread

        return call

    monkeypatch.setattr(run, "providers", lambda: providers.providers() | {"wrong": wrong})
    assert run.gate(case, "wrong").startswith("off by")


def test_a_quick_run_can_be_read(tmp_path, capsys):
    arguments = ["--quick", "--repeat", "2", "--threads", "1", "--op", "alignment"]
    before = torch.get_num_threads()
    try:
        assert run.main([*arguments, "--out", str(tmp_path)]) == 0
    finally:
        torch.set_num_threads(before)
    with open(tmp_path / "results.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["provider"] for row in rows} == {"cpu", "reference", "torch"}
    assert all(float(row["median_ms"]) > 0 and float(row["floor_ms"]) > 0 for row in rows)
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert table == capsys.readouterr().out[: len(table)]
    assert "| alignment | N=1 D=64 V=1,009 float32 | 1 | cpu |" in table


def test_the_figure_is_drawn_and_stays_the_same(tmp_path):
    from benchmarks import plot

    row = {"op": "alignment", "size": "N=1 D=2 V=3 float32", "threads": "2"}
    rows = [row | {"provider": "cpu", "gap": "1.5"}, row | {"provider": "torch", "gap": "4"}]
    for name in ("a.svg", "b.svg"):
        plot.draw(rows, tmp_path / name, "2")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.svg").read_text(encoding="utf-8").startswith("<?xml")

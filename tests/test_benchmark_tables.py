"""Tables of benchmarks: runs that merge, goals that are met or missed, the figure."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks import (
    plot,
    run,
    table,
)
from ncfast.bench import memory


def test_partial_runs_merge(tmp_path, capsys):
    def measure(op: str, *more: str) -> dict[tuple[str, ...], table.Measurement]:
        arguments = ["--quick", "--threads", "1", "--op", op, "--out", str(tmp_path), *more]
        assert run.main(arguments) == 0
        return {row.key: row for row in table.load(tmp_path, table.Measurement)}

    first = measure("alignment", "--repeat", "2")
    assert {key[3] for key in first} == {"cpu", "reference", "torch"}
    assert all(
        row.median_ms > 0 and row.floor_ms > 0 and row.extra_mib >= 0 for row in first.values()
    )
    absent = {row.provider for row in table.load(tmp_path, table.Absence)}
    assert absent == {"predecessor", "neural_collapse"}
    both = measure("between_class_scatter", "--repeat", "1", "--providers", "cpu")
    assert {key: both[key] for key in first} == first
    (new,) = set(both) - set(first)
    assert new[0] == "between_class_scatter"
    again = measure("alignment", "--repeat", "3", "--providers", "torch")
    assert again.keys() == both.keys()
    assert {row.repeats for row in again.values()} == {1, 2, 3}
    # The table is written in the order of the cases, whatever was measured last.
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.endswith(text + "\n")
    assert text.index("| between_class_scatter | D=64 V=1,009 | float32 | 1 | cpu |") < text.index(
        "| alignment forward and backward | D=64 V=1,009 | float32 | 1 | cpu |"
    )
    assert "extra <= 64 MiB met" in text
    assert "- predecessor has no such op of its own: alignment forward and backward" in text


def test_a_foreign_file_of_results_is_refused(tmp_path):
    (tmp_path / "results.csv").write_text("op,when\nalignment,today\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"results.csv: has the columns .*'when'"):
        table.load(tmp_path, table.Measurement)


def measurement(**other: object) -> table.Measurement:
    """Return a row that meets all its goals."""
    numbers = dict(q25_ms=1.0, median_ms=2.0, q75_ms=3.0, least_ms=1.0, repeats=3, floor_ms=1.5)
    values = dict(
        op="alignment",
        size="D=2 V=3",
        dtype="float32",
        threads=2,
        provider="cpu",
        floor_of="bytes",
        gap=1.5,
        goal=2.0,
        faster_than="torch",
        faster_goal=1.0,
        faster_by=1.2,
        extra_mib=3.0,
        extra_goal_mib=64.0,
        copy_gb_s=10.0,
        sgemm_gflop_s=100.0,
        drift=0.01,
        note='with "quotes", commas',
        run="today",
    )
    return table.Measurement(**(values | numbers | other))  # type: ignore[arg-type]


def test_goals_are_met_or_missed_aloud():
    assert [met for _, met in measurement().verdicts] == [True, True, True]
    missed = measurement(gap=2.01, faster_by=0.99, extra_mib=64.1)
    assert [met for _, met in missed.verdicts] == [False, False, False]
    assert [met for _, met in measurement(faster_by=None, extra_mib=None).verdicts] == [
        True,
        None,
        None,
    ]
    five = measurement(faster_goal=5.0, faster_by=4.9)
    assert five.verdicts[1] == ("5x faster than torch (4.90x)", False)
    assert replace(five, faster_by=5.0).verdicts[1][1]
    text = table.render([missed], [])
    assert "gap <= 2 MISSED; faster than torch (0.99x) MISSED; extra <= 64 MiB MISSED" in text


def test_rows_survive_the_file(tmp_path):
    rows = [measurement(), measurement(provider="torch", goal=None, faster_by=None)]
    table.store(tmp_path, rows, [], lambda key: (0,))
    assert table.load(tmp_path, table.Measurement) == rows


def test_a_peak_is_found_and_outputs_are_left_out():
    if memory.method() == "not measured":
        pytest.skip("this system does not tell a process its memory")
    size = 64 << 20

    def call() -> torch.Tensor:
        scratch = torch.ones(size // 4)
        return scratch + 1

    call()
    assert abs(memory.peak_extra_bytes(call) - size) < 8 << 20
    assert memory.output_bytes((call(), [torch.ones(2)[:1]])) == size + 8


def test_the_figure_is_drawn_and_stays_the_same(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [measurement(), measurement(provider="torch", gap=40.0)]
    unseen = measurement(provider="reference", gap=1e6)
    for name in ("a.svg", "b.svg"):
        plot.draw([*rows, unseen], tmp_path / name, 2)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.svg").read_text(encoding="utf-8").startswith("<?xml")
    with pytest.raises(ValueError, match="at 3 threads"):
        plot.draw(rows, tmp_path / "c.svg", 3)

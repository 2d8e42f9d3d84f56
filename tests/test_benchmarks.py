"""The benchmark package: bounds by hand, a gate that catches, and what stands beside the ops."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import (
    cpu_bounds,
    gate,
    large,
    large_statistics,
    processes,
    providers,
    readme,
    run,
    table,
)
from benchmarks.cases import BUDGET, LOSS, MASKED, TERM, cases
from ncfast.bench import bounds
from ncfast.bench.contract import Absent, Inputs, Prepared
from ncfast.bench.machine import Machine, Probes
from ncfast.bench.timing import PATIENCE_SECONDS, interleaved, take_beside

ROOT = Path(__file__).parents[1]
BY_TITLE = {case.title: case for case in cases(quick=True)}
MOMENTS = next(case for case in BY_TITLE.values() if case.name == "class_moments")
SIZE = bounds.Size(tokens=10, width=4, classes=100, occurring=3, itemsize=2)


def test_bounds_by_hand():
    features = 10 * 4 * 2 + 10 * 8
    assert bounds.accumulate_class_moments_(SIZE).bytes == features + 2 * 3 * 4 * 4
    assert bounds.class_moments(SIZE).bytes == features + 100 * (4 * 4 + 8 + 4)
    assert bounds.within_class_scatter(SIZE).flops == 10 * 16
    assert bounds.accumulate_with_scatter(SIZE).flops == 3 * 10 * 4 + (10 + 3) * 16
    assert bounds.alignment_forward_backward(SIZE).bytes == 6 * 100 * 4 * 4
    assert bounds.pair_stats(SIZE).flops == bounds.neural_collapse(SIZE).flops == 40_000
    assert bounds.nearest_center_and_linear_argmax(SIZE).flops == 4 * 10 * 100 * 4
    assert bounds.extra_memory_goal(SIZE) == 160 + 64 * 2**20
    step = replace(SIZE, labelled=7, chosen=5, members=2)
    assert bounds.linear_cross_entropy(step).flops == 6 * 7 * 100 * 4
    assert bounds.linear_cross_entropy(step).outputs == (10 + 100) * 4 * 4
    assert bounds.loss_with_budget_memory_goal(step) == 64 * 2**20 + 10 * 100 * 4 // 4
    assert bounds.duality_term(step).outputs == (10 + 100) * 4 * 4
    assert bounds.duality_memory_goal(step) == 16 * 4 * 5 * 4 + 16 * (10 + 100) + 4 * 2**20


def test_ignored_labels_and_the_word_set_are_counted():
    masked = next(case for case in BY_TITLE.values() if case.name == MASKED)
    inputs = masked.inputs()
    size = masked.size(inputs)
    assert size.labelled == int((inputs.masked_y >= 0).sum()) > 0
    assert 0.1 < size.labelled / size.tokens < 0.2
    assert inputs.word_set.numel() == size.chosen == 300
    assert size.members == sum(int((inputs.masked_y == c).sum()) for c in inputs.word_set)


def test_floor_is_the_tighter_of_memory_and_arithmetic():
    machine = Machine(threads=1, bandwidth=10.0, flops=100.0)
    assert (machine.floor_seconds(20, 100), machine.limit(20, 100)) == (2, "bytes")
    assert (machine.floor_seconds(20, 1000), machine.limit(20, 1000)) == (10, "FLOP")
    slower = Machine(1, 8.0, 100.0)
    assert slower.better_of(machine) == machine


def test_the_machine_is_measured_in_turns_with_the_op():
    order: list[str] = []
    probes = Probes.__new__(Probes)  # as large as they are, they would take a second
    probes.bytes, probes.flops = 100, 1000
    probes.calls = {name: partial(order.append, name) for name in ("copy", "product")}
    op = Prepared(partial(order.append, "op"), lambda _: {})
    taken, machine, drift = take_beside(probes, 1, {"cpu": op}, 3)
    turn = ["copy", "product", "op", "op"]  # not timed after a product, whose memory fills caches
    assert order == [*turn[:3], *turn * 3, "op"]  # touched first; at last, its memory
    assert list(taken) == ["cpu"]
    assert len(taken["cpu"].times) == 3
    assert machine.bandwidth > 0
    assert machine.flops / machine.bandwidth != 10  # each by its own times
    assert 0 <= drift < 1


def test_whoever_is_timed_follows_another_provider_of_the_op():
    order: list[str] = []
    ready = {
        name: Prepared(partial(order.append, name), lambda _: {}) for name in ("ours", "theirs")
    }
    times = interleaved(ready, 2, {"ours": 1e-3, "theirs": 1e-3}, partial(order.append, "probes"))
    assert order == ["probes", "theirs", "ours", "theirs"] * 2
    assert {name: len(taken) for name, taken in times.items()} == {"ours": 2, "theirs": 2}
    order.clear()
    slow = interleaved(ready, 2, {"ours": 1e-3, "theirs": PATIENCE_SECONDS + 1})
    assert order == ["ours", "ours"] * 2
    assert slow["theirs"] == [PATIENCE_SECONDS + 1]


def test_goals_are_those_of_the_plan():
    full = {case.title: (case.goal, case.faster_than) for case in cases()}
    size = "N=65,536 D=768 V=30,522"
    for dtype in ("float32", "bfloat16"):
        assert full[f"accumulate_class_moments_, {size} {dtype}"] == (2.0, "torch")
        assert full[f"class_moments, {size} {dtype}"] == (3.0, "")
        assert full[f"within_class_scatter, {size} {dtype}"] == (1.6, "")
    assert full["alignment forward and backward, D=768 V=30,522 float32"] == (2.0, "")
    assert full["pair_stats, D=768 V=30,522 float32"] == (1.3, "")
    assert full["neural_collapse, D=768 V=30,522 float32"] == (3.2, "")
    assert {case.goal for case in cases(quick=True)} == {None}
    rivals = {case.title: (case.faster_than, case.times) for case in cases()}
    for size in ("N=4,096 D=576 V=49,152 float32", "N=4,096 D=768 V=30,522 float32"):
        assert rivals[f"{LOSS}, {size}"] == ("torch", 1)
        assert rivals[f"{BUDGET}, {size}"] == ("torch", 1 / 0.95)
    assert rivals[f"{MASKED}, N=4,096 D=768 V=30,522 float32"] == ("transformers", 5)
    # At most 2 % of a step.
    assert rivals[f"{TERM}, N=4,096 D=384 V=30,522 float32"] == ("masked_lm_step", 50)


def test_exact_inputs_are_the_same_numbers():
    rounded, exact = (Inputs(50, 8, 20, torch.bfloat16, exact=e) for e in (False, True))
    for name in ("x", "y", "means", "head_weight", "center", "grad", "variances", "m2", "scatter"):
        value = getattr(exact, name)
        assert value.dtype == (torch.int64 if name == "y" else torch.float64)
        assert torch.equal(value, getattr(rounded, name).to(value.dtype)), name
    assert rounded.x.dtype == torch.bfloat16


@pytest.mark.parametrize("title", BY_TITLE)
def test_every_provider_that_is_here_passes_its_gate(title):
    case, served = BY_TITLE[title], set()
    for provider in providers.PROVIDERS:
        if provider == "torch_compile" and case.name == MASKED:
            continue  # the same function as for LOSS; compiling takes ten seconds
        try:
            gate.check(provider, case)
            served.add(provider)
        except Absent:
            continue  # each reason stands in the table
    try:
        providers.prepare("cpu", case.name, case.small_inputs())
    except Absent:
        return  # the op itself is not there yet, and the table says so
    assert {"cpu", "reference", "torch"} <= served


RIGHT = providers.PROVIDERS["torch"]["class_moments"]


def wrong_moments(inputs: Inputs) -> Prepared:
    """Return class moments whose means are 0.1 % too large."""
    good = RIGHT(inputs)
    return replace(
        good, results=lambda out: good.results(out) | {"means": 1.001 * good.results(out)["means"]}
    )


def test_the_gate_catches_a_wrong_provider(monkeypatch):
    monkeypatch.setitem(providers.PROVIDERS, "wrong", {"class_moments": wrong_moments})
    with pytest.raises(AssertionError, match="means of wrong"):
        gate.check("wrong", MOMENTS)


def test_the_gate_catches_a_wrong_oracle(monkeypatch):
    # Torch is the oracle of others, and the reference is that of torch, never torch itself.
    monkeypatch.setitem(providers.PROVIDERS["torch"], "class_moments", wrong_moments)
    with pytest.raises(AssertionError, match="means of torch"):
        gate.check("torch", MOMENTS)


def test_a_result_nobody_else_gives_is_not_taken_on_trust(monkeypatch):
    def strange(inputs: Inputs) -> Prepared:
        return Prepared(lambda: None, lambda _: {"mood": torch.ones(1)})

    monkeypatch.setitem(providers.PROVIDERS, "strange", {"class_moments": strange})
    with pytest.raises(Absent, match="nobody else gives mood"):
        gate.check("strange", MOMENTS)


def test_a_wrong_provider_is_not_timed(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(providers.PROVIDERS, "wrong", {"class_moments": wrong_moments})
    arguments = ["--quick", "--threads", "1", "--repeat", "1", "--op", "class_moments"]
    assert run.main([*arguments, "--providers", "wrong", "--out", str(tmp_path)]) == 1
    assert table.load(tmp_path, table.Measurement) == []
    assert {row.provider for row in table.load(tmp_path, table.Absence)} == {"wrong"}
    assert "wrong fails the gate: means of wrong" in capsys.readouterr().err


def test_the_large_run_at_a_small_size(tmp_path):
    before = torch.get_num_threads()
    try:
        sizes = ["--classes", "301", "--width", "16", "--pairs", "5000", "--threads", "1"]
        assert large.main([*sizes, "--out", str(tmp_path)]) == 0
    finally:
        torch.set_num_threads(before)
    found = (tmp_path / "large.md").read_text(encoding="utf-8")
    assert f"all {301 * 300 // 2:,} pairs of cdnv and log_distance" in found
    exact = re.search(r"\(goal 1.5\): cdnv ([^;]+);", found).group(1)
    found = (tmp_path / "large_drawn.md").read_text(encoding="utf-8")
    drawn, error = re.search(r"cdnv (\S+) ± (\S+) ", found).groups()
    assert abs(float(drawn) - float(exact)) < 5 * float(error)


@pytest.mark.parametrize("library", ["MKL", "oneDNN"])
def test_the_panels_of_a_scatter_are_those_of_its_source(library, monkeypatch):
    monkeypatch.setattr(cpu_bounds, "WIDTH", 200)
    with FlopCounterMode(display=False) as counter:
        flop, multiply = cpu_bounds.panel(library)
        multiply()
    span, rows = cpu_bounds.PANELS[library]
    ends = [*range(span, 200, span), 200]
    columns = [end - first for first, end in zip([0, *ends[:-1]], ends, strict=True)]
    assert flop == 2 * rows * sum(a * b for a, b in zip(ends, columns, strict=True))
    assert library == "oneDNN" or counter.get_total_flops() == flop  # of mm alone
    source = (ROOT / "csrc/common/gram.h").read_text(encoding="utf-8")
    assert re.search(rf"kGramPanel{'Onednn' * (library == 'oneDNN')} = {span}\b", source)


def test_the_large_statistics_and_bounds_at_a_small_size(tmp_path, monkeypatch):
    before = torch.get_num_threads()
    try:
        sizes = ["--classes", "301", "--width", "16", "--threads", "1", "--folder", str(tmp_path)]
        assert large_statistics.main([*sizes, "--metrics", "--out", str(tmp_path)]) == 0
    finally:
        torch.set_num_threads(before)
    found = (tmp_path / "large_statistics.md").read_text(encoding="utf-8")
    assert "opened again, every row checked" in found
    assert [path.name for path in tmp_path.iterdir()] == ["large_statistics.md"]
    monkeypatch.setattr(cpu_bounds, "TILES", ((8, 8, 16),))
    for name, size in (("TOKENS", 60), ("WIDTH", 8), ("CLASSES", 30)):
        monkeypatch.setattr(cpu_bounds, name, size)
    assert cpu_bounds.main(["--repeats", "1", "--out", str(tmp_path)]) == 0
    assert torch.get_num_threads() == before
    assert "| bfloat16, 2 threads |" in (tmp_path / "cpu_bounds.md").read_text(encoding="utf-8")


def test_the_readme_says_what_was_measured_and_is_short(tmp_path, monkeypatch):
    text = readme.README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    monkeypatch.setattr("sys.argv", ["readme", "--check"])
    readme.main()
    changed = tmp_path / "README.md"
    changed.write_text(text.replace("17.7 s", "27.7 s"), encoding="utf-8")
    assert changed.read_text(encoding="utf-8") != text
    monkeypatch.setattr(readme, "README", changed)
    with pytest.raises(SystemExit, match=r"benchmarks\.readme"):
        readme.main()
    monkeypatch.setattr("sys.argv", ["readme"])
    readme.main()
    assert changed.read_text(encoding="utf-8") == text


def report_of(mean: float, tokens: int = 7) -> dict[str, Any]:
    counts = dict.fromkeys(processes.COUNTS, tokens)
    numbers = {"metrics": {"unc3": mean, "gone": None}, "intervals": {"unc3": [mean, 2.0]}}
    timing = dict.fromkeys(("seconds", "metrics_seconds", "bootstrap_seconds"), 2.0)
    sets = {"vocabulary": counts | numbers}
    return {"tokens": {"kept": tokens}, "text": {}, "timing": timing, "sets": sets}


@pytest.mark.parametrize(("mean", "code"), [(1.0, 0), (1 + 5e-6, 0), (1 + 2e-5, 1)])
def test_reports_of_processes_are_compared_and_written(mean, code, monkeypatch, tmp_path):
    reports = [report_of(mean), report_of(1.0)] * 2
    monkeypatch.setattr(processes, "measured", lambda way, words, folder: (3.0, reports.pop()))
    assert processes.main(["--rounds", "2", "--out", str(tmp_path)]) == code
    text = (tmp_path / "processes.md").read_text(encoding="utf-8")
    assert "| whole command | 3.00 | 3.00 | 1.00 |" in text
    assert f"differ by {mean - 1:.1e}" in text


def test_reports_of_processes_that_count_otherwise_end_the_comparison():
    with pytest.raises(SystemExit, match="count tokens differently"):
        processes.furthest(report_of(1.0, tokens=8), report_of(1.0))
    other = report_of(1.0)
    other["sets"]["vocabulary"]["classes_present"] = 8
    with pytest.raises(SystemExit, match="count classes_present differently: 8, 7"):
        processes.furthest(other, report_of(1.0))

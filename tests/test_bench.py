"""``ncfast bench``: no row without a gate, bounds and versions in every row, three forms of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from ncfast import DataError
from ncfast.bench import OPS, BenchSettings, bench, bench_blocks, job
from ncfast.bench.contract import Absent
from ncfast.bench.machine import Machine
from ncfast.cli import main
from ncfast.reporting.markdown import blocks_to_markdown

SMALL = BenchSettings(rows=50, width=8, tokens=40, repeat=1, threads=1)


@pytest.fixture(autouse=True)
def _a_known_machine(monkeypatch):
    monkeypatch.setattr(job, "measure_machine", lambda threads, _: Machine(threads, 1e10, 1e11))

    def absent(inputs):
        raise Absent("takes seconds to compile")

    compiled = dict.fromkeys(job.TABLES["torch_compile"], absent)
    monkeypatch.setitem(job.TABLES, "torch_compile", compiled)


def test_every_op_has_a_row_of_ours_and_of_torch():
    document = bench(SMALL)
    rows = {(row["op"], row["by"]): row for row in document["rows"]}
    for op in OPS:
        ours, theirs = rows[op, "ncfast"], rows[op, "torch"]
        assert ours["version"].startswith("0.")
        assert theirs["version"] == torch.__version__
        assert ours["bound_seconds"] == theirs["bound_seconds"] > 0
        assert ours["over_bound"] == pytest.approx(ours["seconds"] / ours["bound_seconds"])
    assert document["machine"]["device"]
    assert not [one for one in document["absent"] if one["wrong"]]
    # 2 N V D for each of three products; 50 x 49 / 2 pairs of 2 D each.
    assert rows["linear_cross_entropy", "ncfast"]["bound_seconds"] == 6 * 40 * 50 * 8 / 1e11
    text = blocks_to_markdown(bench_blocks(document))
    assert all(op.replace("_", r"\_") in text for op in OPS)


def _wrong(table, name):
    right = table[name]

    def prepared(inputs):
        made = right(inputs)

        def spoiled(out):
            return {k: v + 1 for k, v in made.results(out).items()}

        return replace(made, results=spoiled)

    return {**table, name: prepared}


def test_who_is_wrong_has_no_row(monkeypatch, capsys, tmp_path):
    name = OPS["class_moments"][0]
    monkeypatch.setitem(job.TABLES, "ncfast", _wrong(job.TABLES["ncfast"], name))
    words = ["bench", "--rows=50", "--width=8", "--tokens=40", "--ops=class_moments", "--repeat=1"]
    words += ["--threads=1"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 1
    document = json.loads((tmp_path / "out/bench.json").read_text(encoding="utf-8"))
    assert [row["by"] for row in document["rows"]] == ["torch"]
    [wrong] = [one for one in document["absent"] if one["wrong"]]
    assert wrong["by"] == "ncfast"
    assert "results are wrong: counts of ncfast" in wrong["reason"]
    assert "results are wrong" in capsys.readouterr().out
    assert (tmp_path / "out/bench.html").exists()


LOSS = "linear_cross_entropy"


def test_a_peer_that_raises_costs_its_own_row_alone(monkeypatch):
    def of_another_version(inputs):
        raise TypeError("got an unexpected keyword argument 'chunking'\nmore of it")

    monkeypatch.setitem(job.TABLES["torch_fused"], OPS[LOSS][0], of_another_version)
    document = bench(replace(SMALL, ops=(LOSS,)))
    assert {"ncfast", "torch"} <= {row["by"] for row in document["rows"]}
    [failed] = [one for one in document["absent"] if one["by"] == "torch_fused"]
    assert failed["reason"] == (
        "fails here: TypeError: got an unexpected keyword argument 'chunking'"
    )


def test_an_op_whose_bound_is_hours_is_named_and_left_out():
    document = bench(replace(SMALL, patience=0.0, peers=False))
    assert document["rows"] == []
    assert {one["op"] for one in document["absent"]} == set(OPS)
    assert "--ops pair_stats times it" in str(document["absent"])
    asked = bench(replace(SMALL, patience=0.0, peers=False, ops=("pair_stats",)))
    assert [row["op"] for row in asked["rows"]] == ["pair_stats"]


def test_a_model_gives_its_head(tiny_model, capsys):
    assert (
        main(["bench", str(tiny_model("masked")), "--ops=alignment", "--no-peers", "--quiet"]) == 0
    )
    assert capsys.readouterr().out == ""
    head = torch.randn(50, 8)
    assert bench(replace(SMALL, ops=("alignment",)), head)["settings"]["head"] == "given"
    with pytest.raises(DataError, match=r"head_weight is \(50, 8\); expected \(51, 8\)"):
        bench(replace(SMALL, rows=51), head)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no MODEL given"),
        (["--rows=5"], "no MODEL given"),
        (["m", "--rows=5"], "expected no --rows"),
        (["--rows=5", "--width=8", "--ops=softmax"], "no op 'softmax'; expected some of"),
        (["--rows=2", "--width=8"], "rows=2; expected at least 3"),
        (["--rows=9007199254740992", "--width=8"], "GiB; expected at most"),
    ],
)
def test_what_means_nothing_is_one_sentence(words, said, capsys):
    assert main(["bench", *words]) == 2
    complaint = capsys.readouterr().err
    assert said in complaint
    assert complaint.count("\n") == 1


def test_threads_are_given_back():
    before = torch.get_num_threads()
    bench(replace(SMALL, threads=before + 1, ops=("class_moments",)))
    assert torch.get_num_threads() == before

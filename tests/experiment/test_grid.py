"""A tiny grid: run, skipped, resumed after SIGKILL to the same bytes, and repeated by the cell."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ncfast.cli import main
from ncfast.experiment import load_protocol, read_grid, run_grid, untrained, write_report
from ncfast.experiment.cells import Cell, decisive
from ncfast.experiment.endpoints import measured
from ncfast.experiment.errors import ExperimentError
from ncfast.experiment.grid import cells_of, parse_cell, prepare
from ncfast.experiment.laboratory import Laboratory
from ncfast.experiment.protocol import Model, with_data
from ncfast.experiment.repeated import compare_cell, reproduces
from ncfast.experiment.sources import newest_commit
from ncfast.experiment.state import render_state
from ncfast.fairness.benchmarks.seat import Seat
from ncfast.fairness.errors import EvaluationError
from ncfast.fairness.statistic import Statistic
from ncfast.finetune.texts import split_blocks
from ncfast.language import Corpus, LanguageModel, WordSet
from ncfast.sealed_file import dump_json, read_json
from tests import forked

KILLED = """
import os, signal, sys
from pathlib import Path
from ncfast.experiment import examiner, laboratory, load_protocol, run_grid
from ncfast.training import loop

place, protocol, folder = sys.argv[1:]
seen = []

def dies(after, function):
    def call(*arguments, **named):
        result = function(*arguments, **named)
        seen.append(place)
        if len(seen) == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call

if place == "in training":  # of the second cell, after its second step
    loop.Training.save = dies(5, loop.Training.save)
elif place == "before the cell is written":
    examiner.weights_digest = dies(3, examiner.weights_digest)
else:  # after it is written, before what it no longer needs is removed
    laboratory.write_atomically = dies(3, laboratory.write_atomically)
run_grid(load_protocol(protocol), Path(folder))
"""
PLACES = ("in training", "before the cell is written", "after the cell is written")

ITEMS = {"items": ["a"], "clusters": ["a"], "strata": ["t"], "unbiased": 0.0}
SEAT = [
    Statistic(name, "cls", "effect_size", lambda w, d=d: np.full(len(w), d), **ITEMS)
    for name, d in (("sent-weat6", -1.0), ("sent-weat7", 0.5))
]


def report_of(protocol: Path, folder: Path) -> dict[str, bytes]:
    loaded = load_protocol(protocol)
    written = write_report(loaded, read_grid(loaded, folder), folder)
    return {name: path.read_bytes() for name, path in written.items()}


@pytest.fixture(scope="module")
def whole(tiny_protocol, tmp_path_factory) -> tuple[Path, Path]:
    """Return the protocol and the folder of a grid that ran in one piece."""
    folder = tmp_path_factory.mktemp("whole")
    protocol = tiny_protocol(folder)
    run_grid(load_protocol(protocol), folder / "run")
    return protocol, folder / "run"


def test_a_grid_runs_once(whole):
    protocol, folder = whole
    said: list[str] = []
    before = report_of(protocol, folder)
    results = run_grid(load_protocol(protocol), folder, say=said.append)
    assert said == []  # nothing was run again
    assert len(results) == 1 + 2 * 4
    assert report_of(protocol, folder) == before
    assert not list(folder.rglob("train"))
    kept = {path.parent.parent.name for path in folder.rglob("model")}
    assert kept == {"none", "ours"}  # what "turned" is made of, and as much as


def test_a_second_run_into_the_folder_is_told(whole):
    protocol, folder = whole
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)  # as another process holds it
        with pytest.raises(BlockingIOError, match="another run is writing there"):
            run_grid(load_protocol(protocol), folder)
    finally:
        os.close(opened)


def test_the_map_of_words_spreads_as_the_metric_says(whole):
    protocol, folder = whole
    results = read_grid(load_protocol(protocol), folder)
    for cell in results.values():
        found = cell["map"]
        assert np.std(found["cosine"], ddof=1) == pytest.approx(
            cell["nc"]["gender"]["unc3_std"], rel=1e-6
        )
        assert set(found["groups"]) == {"female", "male"}
        lean = {g: np.mean([x for x, of in zip(found["gender"], found["groups"], strict=True)
                            if of == g]) for g in ("female", "male")}  # fmt: skip
        assert lean["female"] > lean["male"]
    drawing = report_of(protocol, folder)["tiny-words.svg"].decode()
    assert drawing.count("<title>she (female)") == 3  # base, none, ours
    spread = results["tiny/ours/0"]["nc"]["gender"]["unc3_std"]
    assert f"ours: (U)NC3 {spread:.3f}" in drawing


def test_all_arms_of_a_seed_are_asked_for_the_same_text(whole):
    protocol, folder = whole
    results = read_grid(load_protocol(protocol), folder)
    texts = {name: c["endpoints"]["perplexity"]["items"] for name, c in results.items()}
    seeds = {seed: {t for n, t in texts.items() if n.endswith(seed)} for seed in ("/0", "/1")}
    assert all(len(found) == 1 for found in seeds.values())
    assert seeds["/0"] != seeds["/1"]  # masks are the seed's


def test_a_model_that_another_command_prepared_is_refused(tmp_path, monkeypatch):
    def made(words, **how):
        out = Path(words[words.index("--out") + 1])
        (out / "finetune.json").write_text("{}")
        done.append(words[3:5])
        return subprocess.CompletedProcess(words, 0)

    done: list[list[str]] = []
    monkeypatch.setattr("ncfast.experiment.grid.subprocess.run", made)
    one, two = (Model("tiny", prepare=("finetune", text)) for text in ("one", "two"))
    for _ in range(2):
        assert prepare(one, tmp_path, done.append) == str(tmp_path / "models" / "tiny" / "model")
    assert done == ["tiny: ncfast finetune one", ["finetune", "one"]]
    with pytest.raises(
        ExperimentError, match=r"finetune one, and the protocol says .*another --out"
    ):
        prepare(two, tmp_path, done.append)
    (tmp_path / "models" / "tiny" / "prepared.json").unlink()  # as in folders of before it was kept
    prepare(two, tmp_path, done.append)
    assert len(done) == 2


def test_stages_then_seeds(tiny_protocol, tmp_path):
    protocol = load_protocol(tiny_protocol(tmp_path))
    names = [cell.name.removeprefix("tiny/") for cell in cells_of(protocol, protocol.models[0])]
    assert names[:5] == ["base/0", "none/0", "ours/0", "none/1", "ours/1"]
    assert names[5:] == ["other/0", "turned/0", "other/1", "turned/1"]


def test_an_arm_of_few_seeds_and_what_it_does_not_decide(tiny_protocol, tmp_path):
    before = load_protocol(tiny_protocol(tmp_path))
    protocol = load_protocol(
        tiny_protocol(tmp_path, **{'name = "other"': 'name = "other"\nseeds = [1]'})
    )
    names = [cell.name.removeprefix("tiny/") for cell in cells_of(protocol, protocol.models[0])]
    assert names[5:] == ["turned/0", "other/1", "turned/1"]
    cell = Cell("tiny", "other", 1)
    known = [
        decisive(Laboratory(p, tmp_path, "cpu", print).identity(cell, p.models[0], "base", {}))
        for p in (before, protocol)
    ]
    assert known[0] == known[1]  # more seeds later run no cell again


def test_a_subset_that_no_item_is_of_is_said_before_any_training(tiny_protocol, tmp_path):
    protocol = load_protocol(tiny_protocol(tmp_path, **{'"sent-weat6", "sent-weat7"': '"weat9"'}))
    with pytest.raises(ExperimentError, match="no item of seat is of weat9"):
        run_grid(protocol, tmp_path / "run")
    assert not list(tmp_path.rglob("train"))


def test_a_cell_alone_has_the_same_digits(whole, tmp_path):
    protocol, folder = whole
    loaded = load_protocol(protocol)
    cell = parse_cell(loaded, "tiny/ours/1")
    alone = run_grid(loaded, tmp_path, cell)
    assert list(alone) == ["tiny/ours/1"]
    there = read_grid(loaded, folder)["tiny/ours/1"]
    assert reproduces(alone["tiny/ours/1"], there) == []
    assert alone["tiny/ours/1"]["weights"] == there["weights"]
    other = read_grid(loaded, folder)["tiny/ours/0"]
    apart = reproduces(other, there)
    assert any(line.startswith("gap: ") for line in apart)
    shares = [float(line.rpartition("(")[2].rstrip(")")) for line in apart]
    assert shares == sorted(shares, reverse=True)
    with pytest.raises(ExperimentError, match="no cell 'tiny/ours/9'; expected MODEL/ARM/SEED"):
        parse_cell(loaded, "tiny/ours/9")


def test_a_repeated_cell_is_the_same_as_printed_or_is_not(whole):
    loaded = load_protocol(whole[0])
    found = read_grid(loaded, whole[1])["tiny/ours/1"]
    exact = compare_cell("tiny/ours/1", found, found, "gender")
    assert exact.same
    assert "to the last digit: all " in exact.said
    assert "so are the weights" in exact.said

    def other(share: float, **more: object) -> dict:
        entries = {k: {"value": e["value"] * (1 + share)} for k, e in found["endpoints"].items()}
        return {**found, "endpoints": entries, **more}

    renamed = {f"another {key}": entry for key, entry in found["endpoints"].items()}
    nothing = compare_cell("tiny/ours/1", found, {"endpoints": renamed, "nc": {}}, "gender")
    assert not nothing.same
    assert "is NOT compared" in nothing.said
    made = {**found["made"], "torch": "1.0"}
    near = compare_cell("tiny/ours/1", found, other(2e-6, made=made), "gender")
    assert near.same
    assert "is reproduced as printed: its 4 numbers" in near.said
    assert "3 of" in near.said
    assert "(2e-06)" in near.said
    assert f"published: torch 1.0, here {torch.__version__}." in near.said
    unsaid = {key: value for key, value in other(2e-6).items() if key != "made"}
    assert "does not say with which" in compare_cell("x", found, unsaid, "gender").said
    far = compare_cell("tiny/ours/1", found, other(1e-2), "gender")
    assert not far.same
    assert "NOT reproduced: of 4 numbers that the report prints of it, 3 differ" in far.said
    late = {**found, "endpoints": {**found["endpoints"], "late": {"value": 80.0}}}
    said = compare_cell("tiny/ours/1", found, late, "gender").said
    assert "Not compared, because a cell alone does not run it: late." in said


def test_half_a_run_says_what_is_done_and_what_is_left(whole, tmp_path, capsys):
    protocol, folder = whole
    loaded = load_protocol(protocol)
    whole_said = render_state(loaded, folder)
    assert "tiny: 9 of 9 cells done, base 1 of 1, none 2 of 2, ours 2 of 2" in whole_said
    assert "no cell is left" in whole_said
    half = tmp_path / "half"
    shutil.copytree(folder, half)
    (half / "cells/tiny/ours/seed-1/cell.json").unlink()
    (half / "cells/tiny/ours/seed-1/train").mkdir()
    (half / "cells/tiny/ours/seed-1/train/steps.jsonl").write_text("{}\n{}\n")
    shutil.rmtree(half / "cells/tiny/turned")
    took = []
    for number, cell in enumerate(sorted((half / "cells").rglob("cell.json"))):
        document = read_json(cell, "ncfast-experiment-cell/1")
        assert document["seconds"] > 0
        document["seconds"] = 1800.0 * (document["cell"] != "tiny/base/0") + 360.0
        took.append(document["cell"])
        cell.write_text(dump_json(document))
        os.utime(cell, (number, number))
    before = sorted(half.rglob("*"))
    assert main(["experiment", str(protocol), "--out", str(half), "--state"]) == 0
    said = capsys.readouterr().out
    assert sorted(half.rglob("*")) == before
    assert "tiny: 6 of 9 cells done, base 1 of 1, none 2 of 2, ours 1 of 2, other 2 of 2, " in said
    assert "tiny/ours/1: begun, 2 steps of its training are kept" in said
    # One trained cell of 0.6 h, two untrained ones as the base's 0.1 h.
    assert "hours left: 0.8 for 3 cells, by the 6 measured here (median 2.16e+03 s" in said
    assert "has changed" not in said
    assert "has changed since the first run" in render_state(replace(loaded, digest="0" * 64), half)
    nothing = render_state(loaded, tmp_path / "nothing")
    assert nothing.endswith("nothing has been run of tiny.toml")


def test_cells_that_do_not_say_what_they_took_took_the_time_since_the_one_before(whole, tmp_path):
    loaded, half = load_protocol(whole[0]), tmp_path / "half"
    shutil.copytree(whole[1], half)
    for number, cell in enumerate(sorted((half / "cells").rglob("cell.json"))):
        document = read_json(cell, "ncfast-experiment-cell/1")
        del document["seconds"]
        cell.write_text(dump_json(document))
        os.utime(cell, (1e9 + 7200 * number,) * 2)
    (half / "cells/tiny/ours/seed-1/cell.json").unlink()
    assert "hours left: 2.0 for 1 cells, by the 7" in render_state(loaded, half)


def test_a_commit_is_named_and_whether_it_is_what_lies_there(tmp_path):
    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", "-C", tmp_path, *who, *words], check=True, capture_output=True
        )

    file = tmp_path / "folder" / "protocol.toml"
    file.parent.mkdir()
    file.write_text("one")
    git("init")
    assert newest_commit(file, "%H") == ("", False)
    git("add", ".")
    git("commit", "-m", "one")
    head = git("rev-parse", "HEAD").stdout.decode().strip()
    assert newest_commit(file, "%H") == (head, True)
    assert newest_commit(file.parent, "%H") == (head, True)
    file.write_text("another")
    assert newest_commit(file, "%H") == newest_commit(file.parent, "%H") == (head, False)


def test_a_cell_alone_comes_with_all_that_it_is_made_of(whole, tmp_path):
    protocol, folder = load_protocol(whole[0]), whole[1]
    alone = run_grid(protocol, tmp_path, parse_cell(protocol, "tiny/turned/1"))
    assert list(alone) == ["tiny/none/1", "tiny/ours/1", "tiny/turned/1"]
    there = read_grid(protocol, folder)["tiny/turned/1"]
    assert reproduces(alone["tiny/turned/1"], there) == []


def test_a_rotation_turns_as_much_as_it_is_told(whole):
    protocol, folder = whole
    results = read_grid(load_protocol(protocol), folder)
    turned, none = results["tiny/turned/0"], results["tiny/none/0"]
    assert turned["training"]["of"] == "tiny/none/0"
    assert 0 < turned["training"]["degrees"] < 90
    assert turned["weights"] != none["weights"]
    assert turned["nc"]["other"] == none["nc"]["other"]  # rows of other words stay


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_killed_anywhere_it_goes_on_to_the_same_report(whole, tmp_path, place):
    protocol, folder = whole
    killed = tmp_path / "killed"
    done = forked.run(["-c", KILLED, place, protocol, killed])
    assert done.returncode == -9, done.stderr[-2000:]
    cells = list(killed.rglob("cell.json"))
    assert 1 <= len(cells) < 9
    run_grid(load_protocol(protocol), killed)
    assert report_of(protocol, killed) == report_of(protocol, folder)


def test_a_changed_protocol_is_said_and_runs_what_changed(whole, tiny_protocol, tmp_path):
    protocol, folder = whole
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    first = load_protocol(protocol).digest
    changed = tiny_protocol(tmp_path, **{"lr = 1e-3": "lr = 1e-3\nweight_decay = 0.5"})
    said: list[str] = []
    loaded = load_protocol(changed)
    run_grid(loaded, copy, parse_cell(loaded, "tiny/none/0"), say=said.append)
    assert said == [
        "tiny/none/0: the protocol of this cell has changed; it is run anew",
        "tiny/none/0: running",
    ]
    text = report_of(changed, copy)["report.md"].decode()
    assert "The protocol has changed since the first run" in text
    assert f"is {loaded.digest}; before the first run it was {first}" in text
    assert "held it before the first run" not in text
    assert "The protocol has changed" not in report_of(protocol, folder)["report.md"].decode()


LATE = """[[endpoints]]
name = "seat8"
benchmark = "seat"
metric = "effect_size"
variant = "cls"
subsets = ["sent-weat8"]
late = ["none"]

[[contrasts]]
arm = "ours"
"""


def test_a_late_endpoint_is_evaluated_last_and_decides_no_cell(whole, tiny_protocol, tmp_path):
    folder, said = tmp_path / "run", []
    shutil.copytree(whole[1], folder)
    loaded = load_protocol(tiny_protocol(tmp_path, **{'[[contrasts]]\narm = "ours"\n': LATE}))
    results = run_grid(loaded, folder, say=said.append)
    assert said == ["tiny/none/0: seat8", "tiny/none/1: seat8"]
    arms = {name for name, cell in results.items() if "seat8" in cell["endpoints"]}
    assert arms == {"tiny/none/0", "tiny/none/1"}
    assert read_grid(loaded, folder) == results
    path = folder / "cells/tiny/none/seed-1/late-seat8.json"
    document = read_json(path, "ncfast-experiment-cell/1")
    document["identity"]["items"] = "of other files"  # than those of the first seed
    path.write_text(dump_json(document))
    one, two = (read_grid(loaded, folder)[f"tiny/none/{seed}"]["endpoints"] for seed in (0, 1))
    assert "seat8" in one
    assert "seat8" not in two
    # What another metric was found of is no value of this one.
    other = LATE.replace("effect_size", "p_value")
    asked = load_protocol(tiny_protocol(tmp_path, **{'[[contrasts]]\narm = "ours"\n': other}))
    assert not [name for name, c in read_grid(asked, folder).items() if "seat8" in c["endpoints"]]


def test_a_model_that_was_not_kept_is_made_again_where_it_is_asked_for(
    whole, tiny_protocol, tmp_path
):
    folder, said = tmp_path / "run", []
    shutil.copytree(whole[1], folder)
    loaded, cells = load_protocol(whole[0]), folder / "cells" / "tiny"
    for kept in (folder / "cells").rglob("model"):  # as of before an arm or endpoint was added
        shutil.rmtree(kept)
    run_grid(loaded, folder, say=said.append)
    assert said == []  # nothing asks for them
    before = {arm: (cells / arm / "seed-0" / "cell.json").read_bytes() for arm in ("none", "ours")}
    (cells / "turned/seed-0/cell.json").unlink()
    run_grid(loaded, folder, say=said.append)
    again = "made again for tiny/turned/0: its model was not kept"
    assert said == [f"tiny/none/0: {again}", f"tiny/ours/0: {again}", "tiny/turned/0: running"]
    assert before == {arm: (cells / arm / "seed-0" / "cell.json").read_bytes() for arm in before}
    assert report_of(whole[0], folder) == report_of(whole[0], whole[1])
    # A late endpoint asks too; weights that are others now are another cell's.
    late = load_protocol(tiny_protocol(tmp_path, **{'[[contrasts]]\narm = "ours"\n': LATE}))
    document = read_json(cells / "none/seed-1/cell.json", "ncfast-experiment-cell/1")
    weights, document["weights"] = document["weights"], "of another machine"
    (cells / "none/seed-1/cell.json").write_text(dump_json(document))
    said.clear()
    results = run_grid(late, folder, say=said.append)
    assert said == [
        "tiny/none/1: made again for seat8: its model was not kept",
        "tiny/none/1: its weights are not those of before; it is evaluated anew",
        "tiny/none/1: running",
        "tiny/none/0: seat8",
        "tiny/none/1: seat8",
    ]
    assert results["tiny/none/1"]["weights"] == weights
    laboratory, cell = Laboratory(late, folder, "cpu", print), Cell("tiny", "none", 0)
    shutil.rmtree(cells / "none/seed-0/model")
    (cells / "none/seed-0/late-seat8.json").unlink()
    with pytest.raises(ExperimentError, match=r"without its model.*seed-0 removed, so that the"):
        laboratory.run_late(cell, late.endpoints[-1])


def test_a_rotation_depends_on_the_arm_that_it_is_like(tiny_protocol, tmp_path):
    found = []
    for number, weight in enumerate(("3.0", "5.0")):
        (folder := tmp_path / str(number)).mkdir()
        changed = {"terms = { nc3 = 3.0, means": f"terms = {{ nc3 = {weight}, means"}
        protocol = load_protocol(tiny_protocol(folder, **changed))
        laboratory, model = Laboratory(protocol, folder, "cpu", print), protocol.models[0]
        found.append(
            {
                arm: decisive(laboratory.identity(Cell("tiny", arm, 0), model, "base", {}))
                for arm in ("none", "turned")
            }
        )
    assert found[0]["none"] == found[1]["none"]
    assert found[0]["turned"] != found[1]["turned"]


def test_a_cell_alone_asks_for_no_data_of_late_endpoints(tiny_protocol, tmp_path):
    late = {'name = "seat"': 'name = "seat"\nlate = ["none"]'}
    loaded = load_protocol(tiny_protocol(tmp_path, **late))
    elsewhere = with_data(loaded, [f"seat={tmp_path / 'nowhere'}"])
    run_grid(elsewhere, tmp_path / "run", parse_cell(loaded, "tiny/none/0"))
    with pytest.raises(EvaluationError, match="nowhere"):
        run_grid(elsewhere, tmp_path / "run")


def test_a_closed_form_sees_no_text_that_is_kept_back(whole, monkeypatch):
    protocol, folder = load_protocol(whole[0]), whole[1]
    model = LanguageModel.load(str(folder / "cells/tiny/none/seed-0/model"), progress=False)
    seen = []

    class Stub:
        def require(self, model):
            pass

        def edit(self, model, corpus, seed):
            seen.append(corpus)
            return model, {}

    monkeypatch.setattr(untrained, "find_recipe", lambda name, options: Stub())
    arm = replace(protocol.arm("turned"), recipe="rotate", options={})
    laboratory = Laboratory(protocol, folder, "cpu", print)
    of = protocol.arm("none"), protocol.models[0]
    settings = laboratory.settings(parse_cell(protocol, "tiny/none/0"), *of, {})
    few = WordSet("few", {"few": ("she",)})
    untrained.change_weights(
        *(model, arm, 0, few, settings, protocol.texts, lambda name: model.head_weight)
    )
    given = Corpus.from_spec(list(protocol.texts), model.tokenizer, None, 16, progress=False)
    kept, held_out = split_blocks(given.num_blocks, 0.2)
    assert held_out
    expected, found = given.take(kept).input_ids, seen[0].take(range(len(kept))).input_ids
    assert torch.equal(found, expected)
    assert seen[0].num_blocks == len(kept)


def test_statistics_of_a_benchmark_are_worked_out_once(whole, monkeypatch):
    protocol, _ = whole
    endpoint = next(e for e in load_protocol(protocol).endpoints if e.name == "seat")
    done = []
    monkeypatch.setattr(Seat, "statistics", lambda self, records: done.append(1) or SEAT)
    assert measured(endpoint, [], 10)["value"] == 0.75  # the mean of absolute values
    assert len(done) == 1


def test_the_command_runs_one_cell_compares_it_and_reports(whole, tmp_path, capsys, monkeypatch):
    protocol, folder = whole
    cells = report_of(protocol, folder)
    kept = tmp_path / "cells.json"
    kept.write_bytes(cells["cells.json"])
    set_to: list[int] = []
    out, threads = str(tmp_path / "run"), str(torch.get_num_threads())
    how = ["--device", "cpu", "--threads", threads, "--quiet", "--out", out]
    command = ["experiment", str(protocol), *how]
    data = ["--data", f"bec-pro={load_protocol(protocol).evaluation.data['bec-pro']}"]
    assert main([*command, "--data", "nothing=here", "--cell", "tiny/none/0"]) == 2
    assert main([*command, "--against", str(tmp_path), "--report"]) == 2
    assert "expected --cell MODEL/ARM/SEED too" in capsys.readouterr().err
    assert main([*command, *data, "--cell", "tiny/none/0", "--against", str(tmp_path)]) == 0
    assert "tiny/none/0 is reproduced to the last digit" in capsys.readouterr().out
    # What was there already is no rerun, and is not said to be one.
    assert main([*command, "--cell", "tiny/none/0"]) == 0
    assert capsys.readouterr().out.startswith("tiny/none/0 was there already: it was not run now")
    assert main([*command, "--cell", "tiny/none/0", "--against", str(tmp_path)]) == 2
    assert "run holds tiny/none/0 already, and nothing would be" in capsys.readouterr().err
    for place in (out, str(tmp_path / "run" / "cells.json")):
        (tmp_path / "run" / "cells.json").write_bytes(cells["cells.json"])
        assert main([*command, "--cell", "tiny/ours/0", "--against", place]) == 2
        assert "would be compared with itself; expected another" in capsys.readouterr().err
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    text = protocol.read_text(encoding="utf-8").replace("[0, 1]", "[0, 1]\nthreads = 7")
    (tmp_path / "seven.toml").write_text(text, encoding="utf-8")
    for given in ([], ["--threads", "3"]):
        main(["experiment", str(tmp_path / "seven.toml"), *given, "--out", out, "--report"])
    assert set_to == [7, 3]
    assert " --threads 7 --out again --cell " in (tmp_path / "run" / "report.md").read_text(
        encoding="utf-8"
    )
    assert main(["experiment", str(protocol), "--out", out, "--report"]) == 0
    assert "report.html" in capsys.readouterr().out

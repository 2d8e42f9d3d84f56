"""Cells of another protocol than the one that is asked: told apart, said, and never counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ncfast.cli import main
from ncfast.experiment import load_protocol, read_grid
from ncfast.experiment.cells import BASE, Cell, decisive
from ncfast.experiment.grid import cells_of, first_run
from ncfast.experiment.laboratory import Laboratory
from ncfast.experiment.protocol import Protocol
from ncfast.language import DrawnWords, WordSet
from ncfast.sealed_file import dump_json, read_json
from tests.experiment.test_findings import cell as made_up

SCHEMA = "ncfast-experiment-cell/1"
SEEDS = {"seeds = [0, 1]": "seeds = [0, 1, 2, 3]"}
OURS = 'name = "ours"\nterms = { nc3 = '
OTHER = {"steps = 3": "steps = 400", f"{OURS}3.0": f"{OURS}50.0"}


DRAWN = WordSet("other", {"other": ("bant", "kant")})


def write_cells(
    protocol: Protocol, folder: Path, chosen: Callable[[Cell], bool], other: WordSet = DRAWN
) -> None:
    """Write made-up cells with the identity that a run of the protocol gives them."""
    laboratory = Laboratory(protocol, folder, "cpu", print)
    words = {"gender": WordSet.load("gender"), "other": other}
    first_run(protocol, folder)
    model = protocol.models[0]
    for cell in (c for c in cells_of(protocol, model) if chosen(c)):
        found = made_up(1.0 + 0.01 * cell.seed - 0.2 * (cell.arm == "ours"))
        identity = laboratory.identity(cell, model, "base", words)
        document = {**found, "schema": SCHEMA, "cell": cell.name, "identity": identity}
        laboratory.path(cell).mkdir(parents=True, exist_ok=True)
        (laboratory.path(cell) / "cell.json").write_text(dump_json(document))


def change(folder: Path, cell: str, **identity: object) -> None:
    model, arm, seed = cell.split("/")
    path = folder / "cells" / model / arm / f"seed-{seed}" / "cell.json"
    document = read_json(path, SCHEMA)
    document["identity"] |= identity
    path.write_text(dump_json(document))


@pytest.fixture
def grids(tiny_protocol, tmp_path) -> tuple[Protocol, Protocol, Path]:
    """Return a protocol, it edited, and a folder of all cells of the first."""
    (other := tmp_path / "other").mkdir()
    before = load_protocol(tiny_protocol(tmp_path, **SEEDS))
    after = load_protocol(tiny_protocol(other, **SEEDS, **OTHER))
    write_cells(before, tmp_path / "run", lambda cell: True)
    return before, after, tmp_path / "run"


def reported(protocol: Protocol, folder: Path, capsys) -> tuple[str, dict, str]:
    assert main(["experiment", str(protocol.path), "--out", str(folder), "--report"]) == 0
    text = (folder / "report.md").read_text(encoding="utf-8")
    found = json.loads((folder / "findings.json").read_text(encoding="utf-8"))
    return text, found, capsys.readouterr().out


def test_a_report_counts_no_cell_of_another_training(grids, capsys):
    before, after, folder = grids
    text, found, said = reported(before, folder, capsys)
    assert "unfit" not in found
    assert "Of another protocol" not in text + said
    assert all(row["complete"] for row in found["models"][0]["contrasts"])
    text, found, said = reported(after, folder, capsys)
    assert found["models"][0]["done"] == 0
    assert not [row for row in found["models"][0]["contrasts"] if row["seeds"]]
    for told in (text, said):
        assert (
            "Of another protocol, and counted as not run, are 9 cells that lie here, tiny/base/0, "
            "tiny/none/0, tiny/none/1, tiny/none/2 and 5 more: training.steps is 3 there, and 400 "
            "in the protocol." in told
        )
        assert "arm.terms.nc3 is 3.0 there, and 50.0 in the protocol; training.steps" in told
    assert main(["experiment", str(after.path), "--out", str(folder), "--state"]) == 0
    state = capsys.readouterr().out
    assert "tiny: 0 of 17 cells done" in state
    assert "training.steps is 3 there" in state
    assert "begun" not in state


def test_a_grid_half_run_anew_mixes_no_two_trainings(grids, capsys):
    before, after, folder = grids
    write_cells(after, folder, lambda cell: cell.seed < 2)
    for protocol in (after, before):  # the file may be changed back
        text, found, _ = reported(protocol, folder, capsys)
        rows = [row for row in found["models"][0]["contrasts"] if row["arm"] == "ours"]
        seeds = {"0", "1"} if protocol is after else {"2", "3"}
        assert {row["endpoint"]: set(row["by_seed"]) for row in rows if row["seeds"]} == {
            name: seeds for name in ("gap", "seat", "perplexity")
        }
        assert not [row for row in rows if row["complete"] or row["p"] is not None]
        assert f"training.steps is {3 if protocol is after else 400} there" in text
    assert found["models"][0]["base"] is None
    assert "The protocol has changed since" not in text  # and yet its cells are told apart


@pytest.mark.parametrize(
    ("identity", "told"),
    [
        ({"base": "another"}, "its checkpoint is not that of tiny/base/0"),
        (
            {"items": {"seat": "another"}},
            "its items of benchmarks (bec-pro, seat) are not those of tiny/base/0",
        ),
        ({"words": {"gender": "a", "other": "b"}}, "its sets of words (gender, other) are not th"),
        ({"words": {"gender": "a"}}, "sets is ['gender'] there, and ['gender', 'other'] in the"),
        ({"attribute": "race"}, "attribute is 'race' there, and 'gender' in the protocol"),
        ({"measured": ["a"]}, "measured is ['a'] there, and ["),
        ({"nc_tokens": 5}, "nc_tokens is 5 there, and 2000 in the protocol"),
    ],
)
def test_cells_of_a_model_have_to_agree(grids, identity, told):
    protocol, _, folder = grids
    change(folder, "tiny/ours/1", **identity)
    results = read_grid(protocol, folder)
    [(name, why)] = results.unfit.items()
    assert name == "tiny/ours/1"
    assert why.startswith(told)
    assert "tiny/ours/1" not in results
    assert len(results) == 16


def test_what_a_cell_of_before_did_not_say_is_not_held_against_it(grids):
    protocol, _, folder = grids
    for path in folder.rglob("cell.json"):
        document = read_json(path, SCHEMA)
        for later in ("files", "attribute", "measured"):
            del document["identity"][later]
        path.write_text(dump_json(document))
    results = read_grid(protocol, folder)
    assert not results.unfit
    assert len(results) == 17


def test_a_text_that_is_not_here_is_not_held_against_a_cell(grids):
    protocol, _, folder = grids
    text = protocol.texts[0]
    change(folder, f"tiny/{BASE}/0", files={text: "of another time"})
    [why] = read_grid(protocol, folder).unfit.values()
    assert why == f"what lies in {text} has changed"
    for path in folder.rglob("cell.json"):
        document = read_json(path, SCHEMA)
        document["identity"]["files"]["elsewhere.txt"] = "a"
        path.write_text(dump_json(document))
    assert len(read_grid(protocol, folder).unfit) == 1


def test_controls_that_were_drawn_otherwise_are_other_words(grids):
    protocol, _, folder = grids
    kept = {"schema": "ncfast-experiment-words/1", "words": {"other": ["bant", "kant"]}}
    kept["asked"] = {"set": "gender", "controls": {"other": "random"}}
    (folder / "words").mkdir()
    path = folder / "words" / "tiny.json"
    path.write_text(dump_json(kept))
    assert not read_grid(protocol, folder).unfit
    path.write_text(dump_json({**kept, "ids": {"other": [3, 4]}}))  # drawn as tokens, since
    assert set(read_grid(protocol, folder).unfit.values())
    drawn = DrawnWords("other", {"other": ("bant", "kant")}, ids=(3, 4))
    write_cells(protocol, folder, lambda cell: True, drawn)
    assert not read_grid(protocol, folder).unfit
    path.write_text(dump_json({**kept, "words": {"other": ["bant"]}}))
    told = set(read_grid(protocol, folder).unfit.values())
    assert told == {"its sets of words (other) are not those that are kept here"}
    kept["asked"]["controls"] = {"other": "matched"}
    path.write_text(dump_json(kept))
    told = set(read_grid(protocol, folder).unfit.values())
    assert told == {"controls.other is 'matched' there, and 'random' in the protocol"}


@pytest.mark.parametrize("emptied", ["validation", "mask_words_of"])
def test_a_list_that_an_arm_empties_is_another_cell(tiny_protocol, tmp_path, emptied):
    loaded = load_protocol(tiny_protocol(tmp_path))
    loaded = replace(loaded, training={**loaded.training, emptied: ["gender"]})
    found = []
    for training in ({}, {emptied: []}):
        arms = [replace(a, training=training) if a.name == "ours" else a for a in loaded.arms]
        laboratory = Laboratory(replace(loaded, arms=tuple(arms)), tmp_path, "cpu", print)
        identity = laboratory.identity(Cell("tiny", "ours", 0), loaded.models[0], "base", {})
        found.append(decisive(identity))
    assert found[0] != found[1]

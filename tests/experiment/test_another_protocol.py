"""Cells of another protocol than the one that is asked: told apart, said, and never counted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ncfast.experiment import load_protocol
from ncfast.experiment.cells import Cell, decisive
from ncfast.experiment.laboratory import Laboratory


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

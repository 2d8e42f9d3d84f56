"""What stands beside the arms of a contrast: whether their cells were made alike."""

from __future__ import annotations

from ncfast.experiment import load_protocol, repeated, sources
from ncfast.experiment.findings import find
from ncfast.experiment.tree import report_tree
from ncfast.experiment.verdict import verdict
from ncfast.reporting.markdown import blocks_to_markdown
from tests.experiment.test_findings import FIRST, grid


def test_arms_that_were_not_made_alike_are_said(tiny_protocol, tmp_path):
    seeds = {"seeds = [0, 1]": f"seeds = {list(range(8))}"}
    protocol = load_protocol(tiny_protocol(tmp_path, **seeds))
    results = grid(lambda seed: -0.2)
    before = find(protocol, results, FIRST)
    made = {"commit": "", "torch": "2.11", "threads": 1}
    for found in results.values():
        found["made"] = dict(made)
    alike = find(protocol, results, FIRST)
    assert alike == before  # cells of before it was kept, and cells that are alike
    results["tiny/ours/2"]["made"] |= {"threads": 2, "commit": "abc"}
    del results["tiny/none/5"]["made"]
    found = find(protocol, results, FIRST)
    [said] = found["models"][0].pop("made_apart")
    assert found == before
    assert said.startswith("ours and none were not made alike in 2 of 8 seeds (commit abc and none")
    for told in ("threads 2 and 1", "torch 2.11 and not said", "threads 1 and not said"):
        assert told in said
    again = find(protocol, results, FIRST)
    assert said in verdict(protocol, again["models"][0])
    assert said in blocks_to_markdown(report_tree(protocol, again), "t")


def test_a_cell_is_of_the_code_that_was_loaded_and_not_of_a_later_commit(monkeypatch):
    before = repeated.made_with("cpu")["commit"]
    for module in (repeated, sources):  # as if another had been checked out meanwhile
        monkeypatch.setattr(module, "newest_commit", lambda path, form: ("another", True))
    assert repeated.made_with("cpu")["commit"] == before

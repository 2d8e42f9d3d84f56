"""Two reports side by side: numbers, warnings, refusals, and what is drawn."""

from __future__ import annotations

import copy
import io
import json
from xml.etree import ElementTree

import pytest

from ncfast.reporting import compare_reports, write_comparison
from ncfast.reporting.comparison_tree import (
    notes,
    render_comparison_markdown,
    render_comparison_page,
)
from ncfast.reporting.terminal import Terminal

from .test_page import NASTY_TEXT, find_browser, open_page, outline, svgs


@pytest.fixture
def after(report) -> dict:
    """Return a second report: cosines spread less, gender words most of all."""
    other = copy.deepcopy(report)
    for name, section in other["sets"].items():
        share = 0.5 if name == "gender" else 0.8
        section["metrics"]["unc3_std"] *= share
        for part in (section["intervals"], section.get("random_controls", {}).get("mean", {})):
            if "unc3_std" in part:
                value = part["unc3_std"]
                scaled = [v * share for v in value] if isinstance(value, list) else value * 0.8
                part["unc3_std"] = scaled
    return other


def test_numbers(report, after):
    document = compare_reports(report, after, ("before", "after"))
    entry = document["sets"]["gender"]["metrics"]["unc3_std"]
    value = report["sets"]["gender"]["metrics"]["unc3_std"]
    assert entry["a"] == value
    assert entry["b"] == value * 0.5
    assert entry["difference"] == pytest.approx(-0.5 * value)
    assert entry["ratio"] == pytest.approx(0.5)
    assert entry["random"]["ratio"] == pytest.approx(0.8)
    assert entry["matched"]["ratio"] == pytest.approx(0.8)
    assert entry["over_random"] == pytest.approx(0.5 / 0.8)
    assert entry["over_matched"] == pytest.approx(0.5 / 0.8)
    assert entry["apart"] is True
    assert document["sets"]["gender"]["metrics"]["nc3_mean"]["apart"] is False
    assert document["sets"]["vocabulary"]["metrics"]["unc3_std"]["random"] is None
    assert set(document["sets"]) == {"vocabulary", "gender"}
    assert document["differences"] == []
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_a_report_and_itself_differ_in_nothing(report):
    document = compare_reports(report, report)
    for section in document["sets"].values():
        for key, entry in section["metrics"].items():
            assert entry["difference"] == 0, key
            assert entry["ratio"] in (1, None)
            assert entry["over_random"] in (1, None)
    # Undefined in both, so there is nothing to compare.
    assert "nc1_pinv" not in document["sets"]["gender"]["metrics"]


def test_a_change_of_sign_has_no_ratio(report, after):
    after["sets"]["gender"]["metrics"]["nc3_mean"] = -0.1
    entry = compare_reports(report, after)["sets"]["gender"]["metrics"]["nc3_mean"]
    assert entry["ratio"] is None
    assert entry["over_random"] is None
    assert entry["difference"] == pytest.approx(-0.1 - entry["a"])


def test_what_differs_is_named(report, after):
    after["model"].update(name="other", vocab_size=49152)
    after["text"] = {**after["text"], "sources": ["b.txt"], "fingerprint": "xyz"}
    after["settings"] = {**after["settings"], "labels": "self", "threads": 7}
    after["versions"]["torch"] = "2.14.1"
    del after["sets"]["gender"]["per_class"][5]
    after["sets"]["gender"]["classes_present"] = 149
    said = " ".join(notes(compare_reports(report, after, ("before", "after"))))
    for part in (
        "30,522 and 49,152",
        "and other.",
        "The measured texts differ: demo:text and b.txt.",
        "Setting labels: masked in before, self in after.",
        "Versions of torch: 2.13.0 in before, 2.14.1 in after.",
        "Of the set gender, 150 words (150 classes) were seen in before and 149 (149) in after, "
        "149 words in both.",
    ):
        assert part in said
    assert "threads" not in said


def test_other_meanings_are_left_out_by_name(report, after):
    after["settings"] = {
        **after["settings"],
        "preset": "official",
        "definitions": {"norms": "squared", "log_distance_centered": False, "cdnv_power": 2},
    }
    document = compare_reports(report, after)
    assert set(document["left_out"]) >= {"norm_mean", "norm_cov", "cdnv_mean"}
    assert "norm_mean" not in document["sets"]["gender"]["metrics"]
    assert "unc3_std" in document["sets"]["gender"]["metrics"]
    said = " ".join(notes(document))
    assert "norm_mean, norm_cov (norms is plain in A, squared in B)" in said
    assert "The presets differ: ncfast and official." in said


def test_only_what_is_meaningless_is_refused(report, after):
    others = {"other": {**after["sets"]["gender"], "kind": "words"}}
    with pytest.raises(ValueError, match="no set is in both"):
        compare_reports(
            {**report, "sets": {"gender": report["sets"]["gender"]}}, {**after, "sets": others}
        )
    del after["settings"]["definitions"]
    after["settings"]["preset"] = "official"
    with pytest.raises(ValueError, match="presets ncfast and official"):
        compare_reports(report, after)
    with pytest.raises(ValueError, match="both reports are called 'x'"):
        compare_reports(report, report, ("x", "x"))


def test_sets_of_one_report_are_named(report, after):
    after["sets"]["jobs"] = after["sets"]["gender"]
    document = compare_reports(report, after)
    assert document["only_in"] == [[], ["jobs"]]
    assert "Only in B: jobs." in notes(document)


def test_the_verdict_is_three_lines_that_state_the_numbers(report, after):
    document = compare_reports(report, after, ("before", "after"))
    changed, stayed, unsaid = document["verdict"]
    value = report["sets"]["gender"]["metrics"]["unc3_std"]
    assert changed.startswith("Changed most beyond its interval: (U)NC3 of gender, from ")
    assert f"{value:.3g} to {value / 2:.3g} (0.5 times), so more collapsed" in changed
    assert "words as frequent changed 0.8 times" in changed
    assert "Also" not in changed
    assert stayed.startswith("Not changed beyond their intervals: NC2 norms, NC3 of gender")
    assert unsaid.startswith("Cannot be said: the vocabulary, where no interval was made")
    assert "one run of each" in unsaid


def test_the_verdict_orders_changes_by_their_intervals(report, after):
    section = after["sets"]["gender"]
    section["metrics"]["nc3_mean"] -= 10.0  # far more half-widths than (U)NC3 moved
    section["intervals"]["nc3_mean"] = [end - 10.0 for end in section["intervals"]["nc3_mean"]]
    changed = compare_reports(report, after)["verdict"][0]
    assert "NC3 of gender" in changed.split("Also")[0]
    assert "less collapsed" in changed.split("Also")[0]
    assert "Also: (U)NC3 of gender (more collapsed)" in changed


def test_the_verdict_says_what_it_cannot_say(report, after):
    after["text"] = {**after["text"], "sources": ["b.txt"], "fingerprint": "xyz"}
    after["settings"] = {**after["settings"], "definitions": {"norms": "squared"}}
    unsaid = compare_reports(report, after)["verdict"][2]
    assert "one more thing differs" in unsaid
    assert "6 metrics that mean something else" in unsaid
    same = compare_reports(report, report)["verdict"]
    assert same[0] == "Changed beyond its interval: nothing."
    assert "(U)NC3" in same[1]
    for name in ("gender", "gender/matched"):
        for other in (report, after):
            other["sets"][name]["intervals"] = {}
    bare = compare_reports(report, report)["verdict"]
    assert bare[1].endswith("nothing that has intervals.")
    assert "the vocabulary and gender, where no interval was made" in bare[2]


def test_text_and_markdown_hold_every_metric(report, after):
    document = compare_reports(report, after, ("before", "after"))
    stream, markdown = io.StringIO(), render_comparison_markdown(document)
    Terminal(stream, rich=False).comparison(document, everything=True)
    text = stream.getvalue()
    assert "* the bootstrap intervals" in text
    assert "intervals apart" in markdown
    for drawing in (text, markdown):
        assert "over random" in drawing
        assert "brand" in drawing
    table = markdown.split("## gender")[1].split("\n\n")[1].splitlines()
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1


def test_the_page_is_whole(report, after):
    report["model"]["name"] = after["model"]["name"] = NASTY_TEXT
    page = render_comparison_page(compare_reports(report, after, (NASTY_TEXT, "after")))
    found = outline(page)
    assert len(found.ids) == len(set(found.ids))
    assert set(found.references) <= set(found.ids)
    assert found.scripts == 1
    drawings = svgs(page)
    assert len(drawings) == 1 + 2 * 4
    for drawing in drawings:
        assert ElementTree.fromstring(drawing).find("title").text


def test_only_the_vocabulary_is_drawn_too(report):
    report["sets"] = {"vocabulary": report["sets"]["vocabulary"]}
    outline(render_comparison_page(compare_reports(report, report)))


def test_it_is_written_whole(report, after, tmp_path):
    document = compare_reports(report, after)
    path = write_comparison(document, tmp_path / "new")
    assert json.loads(path.read_text()) == document
    names = {file.name for file in path.parent.iterdir()}
    assert names == {"compare.html", "compare.md", "compare.json"}


def test_a_browser_opens_the_page_without_a_complaint(report, after, tmp_path):
    browser = find_browser()
    path = write_comparison(compare_reports(report, after, (NASTY_TEXT, "after")), tmp_path)
    shown, complaints = open_page(browser, path.with_suffix(".html"))
    assert shown.count("<svg") == 9
    assert complaints == []

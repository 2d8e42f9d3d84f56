"""Several checkpoints in one command, and several reports compared: curves over them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from ncfast.cli import main
from ncfast.measure.several import names_of, steps_of
from ncfast.reporting import read_report
from ncfast.reporting.series import build_series, render_series_page

SMALL = ["--quiet", "--batch-size", "8", "--block-size", "32", "--controls", "matched"]
SMALL += ["--bootstrap", "10"]


@pytest.fixture(scope="module")
def checkpoints(tiny_model, tmp_path_factory) -> list[str]:
    """Return three checkpoints whose steps are not in the order of their names."""
    import torch
    from transformers import AutoModelForCausalLM

    root = tmp_path_factory.mktemp("run")
    model = AutoModelForCausalLM.from_pretrained(tiny_model("causal"))
    folders = []
    for step in (1000, 20, 300):
        folder = root / f"checkpoint-{step}"
        shutil.copytree(tiny_model("causal"), folder)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.ones_like(parameter).cumsum(0))
        model.save_pretrained(folder)
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        folders.append(str(folder))
    return folders


@pytest.fixture
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_in_an_empty_folder")
def test_checkpoints_become_curves_over_their_steps(checkpoints, tiny_text, capsys):
    loud = [word for word in SMALL if word != "--quiet"]
    assert main(["measure", *checkpoints, "--text", str(tiny_text), *loud, "--out", "all"]) == 0
    printed, _ = capsys.readouterr()
    assert "From checkpoint-20 to checkpoint-1000." in printed
    assert "Curves: all/series.html" in printed
    document = json.loads(Path("all/series.json").read_text())
    assert document["axis"] == "step"
    assert document["places"] == [20, 300, 1000]
    assert document["labels"] == ["checkpoint-20", "checkpoint-300", "checkpoint-1000"]
    for name, section in document["series"].items():
        for place, label in enumerate(document["labels"]):
            report = read_report(Path("all") / label)
            value = report["sets"][name]["metrics"]["unc3_std"]
            assert section["metrics"]["unc3_std"][place] == value
    assert set(document["series"]) == {"vocabulary", "gender", "gender/matched"}
    page = Path("all/series.html").read_text()
    assert page.count('aria-labelledby="series-') == 8
    assert "checkpoint-1000" in page
    assert "checkpoint-300" in Path("all/series.md").read_text()
    # The reports are reports: three of them compare, in the order given.
    folders = [f"all/{label}" for label in document["labels"]]
    assert main(["compare", *folders, "--label", "a", "--label", "b", "--label", "c",
                 "--out", "c"]) == 0  # fmt: skip
    compared = json.loads(Path("c/compare.json").read_text())
    assert (compared["labels"], compared["axis"]) == (["a", "b", "c"], "model")
    assert compared["series"] == document["series"]
    assert main(["compare", *folders]) == 0
    assert "checkpoint-300" in capsys.readouterr().out


@pytest.mark.usefixtures("_in_an_empty_folder")
def test_one_model_and_text_in_both_forms_is_one_report(checkpoints, tiny_text):
    model, text = checkpoints[0], str(tiny_text)
    assert main(["measure", model, text, *SMALL, "--out", "a"]) == 0
    assert main(["measure", model, "--text", text, *SMALL, "--out", "b"]) == 0
    one, two = read_report("a"), read_report("b")
    assert one["sets"] == two["sets"]
    assert not Path("b/series.json").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["measure", "{a}"], "no TEXT"),
        (["measure", "{a}", "{a}", "--text", "{t}"], "each of them once"),
        (["measure", "{a}", "broken", "--text", "{t}"], "no global_step"),
        (["compare", "r", "r2", "r3", "--names", "x", "y"], "--names with 3 reports"),
        (["compare", "r", "r2", "r3", "--label", "x"], "--label given 1 times for 3"),
    ],
)
@pytest.mark.usefixtures("_in_an_empty_folder")
def test_what_does_not_fit_is_one_line(checkpoints, tiny_text, arguments, named, capsys):
    Path("broken").mkdir()
    Path("broken/trainer_state.json").write_text("[]")
    given = [word.format(a=checkpoints[0], t=tiny_text) for word in arguments]
    assert main(given) == 2
    printed, complaint = capsys.readouterr()
    assert printed == ""
    assert named in complaint.splitlines()[-1]
    assert not list(Path().glob("ncfast-report-*"))


def test_names_and_steps():
    assert names_of(["demo:smollm2", "x/y/"]) == ["demo-smollm2", "y"]
    assert steps_of(["no-such-folder"]) is None
    with pytest.raises(ValueError, match="expected rising numbers"):
        build_series([{}, {}], ["a", "b"], [5, 5])
    with pytest.raises(ValueError, match="a name of its own"):
        build_series([{}, {}], ["a", "a"])


def test_words_cannot_become_markup(checkpoints, tiny_text, tmp_path):
    assert main(["measure", checkpoints[0], str(tiny_text), *SMALL, "--out", str(tmp_path)]) == 0
    report = read_report(tmp_path)
    nasty = '<script>alert("x")</script>'
    page = render_series_page(build_series([report, report], [nasty, "b"]))
    assert "<script>alert" not in page
    assert len(re.findall("<script", page)) == 1

"""``ncfast compare`` and the options of ``ncfast measure`` that feed it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ncfast.catalogue import METRICS
from ncfast.cli import main
from ncfast.reporting import measured, read_report
from tests import forked

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--quiet", "--batch-size", "8", "--block-size", "32", "--controls", "random:2,matched"]
SMALL += ["--bootstrap", "20"]
REFERENCE = "model,cdnv,simcos_mean,hits,misses\na,0.1,0.2,1,3\nb,0.2,0.4,2,2\n"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NCFAST_DEBUG", raising=False)


@pytest.fixture(scope="module")
def reports(tiny_model, tiny_text, tmp_path_factory) -> tuple[str, str]:
    """Return the folders of two reports, of a causal and a masked model."""
    root = tmp_path_factory.mktemp("reports")
    folders = []
    for kind in ("causal", "masked"):
        folder = str(root / kind)
        assert (
            main(["measure", str(tiny_model(kind)), str(tiny_text), *SMALL, "--out", folder]) == 0
        )
        folders.append(folder)
    return folders[0], folders[1]


def test_two_reports_side_by_side(reports, capsys):
    Path("lc.csv").write_text(REFERENCE)
    assert main(["compare", *reports, "--out", "both", "--reference", "lc.csv"]) == 0
    printed, complaint = capsys.readouterr()
    assert complaint == ""
    for part in (
        "tiny-causal over tiny.txt",
        "Note: The kinds of model differ: causal and masked.",
        "Note: Setting labels: next in tiny-causal, masked in tiny-masked.",
        "== gender ==",
        "over random",
        "(U)NC3",
        "both/compare.html",
    ):
        assert part in printed
    assert {file.name for file in Path("both").iterdir()} == {
        "compare.html",
        "compare.json",
        "compare.md",
    }
    document = json.loads(Path("both/compare.json").read_text())
    entry = document["sets"]["gender"]["metrics"]["unc3_std"]
    values = [read_report(folder)["sets"]["gender"]["metrics"]["unc3_std"] for folder in reports]
    assert [entry["a"], entry["b"]] == values
    assert document["command"].startswith("ncfast compare ")
    assert set(document["reference"]["metrics"]) == {"cdnv2_mean", "nc3_mean"}
    assert set(document["reference"]["metrics"]["nc3_mean"]["values"]) == set(document["labels"])


def test_one_report_and_itself_under_given_names(reports, capsys):
    file = str(Path(reports[0]) / "report.json")
    assert main(["compare", reports[0], file, "--names", "before", "after"]) == 0
    printed, _ = capsys.readouterr()
    assert "after / before" in printed
    assert "Note" not in printed
    assert list(Path().iterdir()) == []
    # Same model, folder of the same name: letters tell them apart.
    assert main(["compare", reports[0], file, "--out", "same"]) == 0
    assert json.loads(Path("same/compare.json").read_text())["labels"] == ["A", "B"]


def test_a_reader_who_goes_away_costs_nothing(reports):
    command = [sys.executable, "-m", "ncfast.cli", "compare", *reports, "--out", "kept"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.wait(timeout=60)
    assert Path("kept/compare.json").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["compare", "{a}"], "B"),
        (["compare", "{a}", "nowhere"], "nowhere"),
        (["compare", "{a}", "broken"], "not a report"),
        (["compare", "{a}", "{b}", "--names", "x", "x"], "called 'x'"),
        (["compare", "{a}", "{b}", "--reference", "broken/report.json"], "no row"),
        (["compare", "{a}", "{b}", "--reference", "none.csv"], "none.csv"),
        (["compare", "{a}", "{b}", "--out", "broken/report.json"], "broken"),
        (["compare", "{a}", "foreign"], "sets.vocabulary is missing"),
        (["measure", "{m}", "{t}", *SMALL, "--nc4", "none.txt"], "none.txt"),
        (["measure", "{m}", "{t}", *SMALL, "--nc4", "{t}"], "measured text"),
        (["measure", "{m}", "{t}", *SMALL, "--nc4-max-tokens", "9"], "nc4_max_tokens"),
        (["measure", "{m}", "{t}", *SMALL, "--pairs", "5"], "pairs=5"),
        (["measure", "{m}", "{t}", *SMALL, "--bootstrap", "1"], "bootstrap=1"),
        (["measure", "{m}", "{t}", *SMALL, "--reference", "other.csv"], "no column"),
    ],
)
def test_bad_input_is_one_line_and_code_two(
    arguments, named, reports, tiny_model, tiny_text, capsys
):
    Path("broken").mkdir()
    Path("broken/report.json").write_text("{}")
    Path("other.csv").write_text("a,b\n1,2\n")
    Path("foreign").mkdir()
    foreign = read_report(reports[0])
    foreign["sets"] = {"else": {**foreign["sets"]["gender"], "kind": "words"}}
    Path("foreign/report.json").write_text(json.dumps(foreign))
    values = {"a": reports[0], "b": reports[1], "t": str(tiny_text)}
    values["m"] = str(tiny_model("encoder"))
    try:
        code = main([argument.format(**values) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    printed, complaint = capsys.readouterr()
    line = complaint.strip().splitlines()[-1]
    assert code == 2
    assert printed == ""
    assert line.startswith(f"ncfast {arguments[0]}: error: ")
    assert named in line
    assert "Traceback" not in complaint
    assert not list(Path().glob("ncfast-report-*/report.*"))


def test_every_key_is_printed(tiny_model, tiny_text, capsys):
    words = tiny_text.read_text().split()
    Path("held-out.txt").write_text("\n".join(" ".join(words[i::89]) for i in range(40)))
    loud = [argument for argument in SMALL if argument != "--quiet"]
    command = ["measure", str(tiny_model("masked")), str(tiny_text), *loud, "--nc4", "held-out.txt"]
    assert main([*command, "--pairs", "500", "--all"]) == 0
    printed, bars = capsys.readouterr()
    assert "held-out" in bars
    assert "metrics" in bars
    for part in ("nearest class mean", "NC1 with head rows", "±", "[", "held-out text", "NC4 0."):
        assert part in printed
    metrics = read_report("ncfast-report-tiny-masked")["sets"]["gender"]["metrics"]
    assert len(metrics) == len(METRICS) - 1  # nc5_mean needs features of other text
    assert [key for key, value in metrics.items() if value is None] == []


# Dies in the third batch of the second pass, as from kill -9 at that moment.
DYING = """
import os, signal, sys
from ncfast.cli import main
from ncfast.measure.heldout import HeldOutText
step = HeldOutText._step
def dying(self, *arguments, **named):
    if arguments[-1].index == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    step(self, *arguments, **named)
HeldOutText._step = dying
main(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_in_the_second_pass_and_resumed(tiny_model, tiny_text):
    words = tiny_text.read_text().split()
    Path("held-out.txt").write_text("\n".join(" ".join(words[i::89]) for i in range(40)))
    command = ["measure", str(tiny_model("masked")), str(tiny_text), *SMALL]
    command += ["--nc4", "held-out.txt", "--out"]
    assert main([*command, "whole"]) == 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = forked.run(["-c", DYING, *command, "killed"], environment, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert {file.name for file in Path("killed").iterdir()} == {"statistics.safetensors"}
    assert main([*command, "killed", "--resume"]) == 0
    assert measured(read_report("killed")) == measured(read_report("whole"))

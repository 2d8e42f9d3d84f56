"""``ncfast measure``: what it writes, how it fails, and that a kill costs nothing."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from ncfast.cli import main
from ncfast.reporting import measured, read_report
from tests import forked
from tests.forked import Forked

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--quiet", "--batch-size", "8", "--block-size", "32", "--controls", "random:2,matched"]
SMALL += ["--bootstrap", "20"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


ENVIRONMENT = {"PYTHONPATH": str(ROOT), "NCFAST_DEBUG": "0"}


def start(*arguments: str, cwd: Path | None = None) -> Forked:
    return Forked(["-m", "ncfast.cli", *arguments], os.environ | ENVIRONMENT, cwd)


def test_report_and_table(tiny_model, tiny_text, tmp_path, capsys):
    model, text = str(tiny_model("encoder")), str(tiny_text)
    loud = [argument for argument in SMALL if argument != "--quiet"]
    assert main(["measure", model, text, *loud]) == 0
    folder = tmp_path / "ncfast-report-tiny-encoder"
    assert {file.name for file in folder.iterdir()} == {
        "report.html",
        "report.json",
        "report.md",
        "statistics.safetensors",
        "vocabulary.csv",
    }
    printed, bars = capsys.readouterr()
    assert printed.lstrip().startswith("Note:")
    for part in ("vocabulary", "gender words are", "(U)NC3", "report.html", "a second", "--all"):
        assert part in printed
    assert "2 random controls" not in printed
    assert "measuring" in bars
    report = read_report(folder)
    assert report["command"].startswith("ncfast measure ")
    assert report["timing"]["statistics_share"] > 0
    # A second run with the same settings overwrites; one with others is refused.
    assert main(["measure", model, text, *SMALL]) == 0
    assert main(["measure", model, text, *SMALL, "--seed", "5"]) == 2
    assert main(["measure", model, text, *SMALL, "--seed", "5", "--force"]) == 0
    assert read_report(folder)["settings"]["seed"] == 5


def test_own_words_and_no_words(tiny_model, tiny_text, tmp_path):
    words = tmp_path / "jobs.txt"
    words.write_text("bant bard\nfont\nnobodyknows\n")
    arguments = ["measure", str(tiny_model("causal")), str(tiny_text), *SMALL, "--out"]
    assert main([*arguments, "a", "--words", "gender", "--words", str(words)]) == 0
    sets = read_report("a")["sets"]
    assert [name for name, s in sets.items() if s["kind"] == "words"] == ["gender", "jobs"]
    assert {entry["word"] for entry in sets["jobs"]["words"]["dropped"]} >= {"nobodyknows"}
    assert main([*arguments, "b", "--words", "none"]) == 0
    assert list(read_report("b")["sets"]) == ["vocabulary"]


def _wait_for(path: Path, process: Forked) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if path.exists() and _position(path) >= 2:
            return
        time.sleep(0.005)
    raise AssertionError(f"no state was saved in time: {process.communicate()}")


def _position(path: Path) -> int:
    from safetensors import safe_open

    try:
        with safe_open(str(path), "pt") as file:
            metadata = json.loads(file.metadata()["metadata"])
    except RuntimeError:  # another file took its place between a look at its size and at its bytes
        return 0
    return json.loads(metadata["measure"])["counters"]["position"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_and_resumed_gives_the_same_digits(tiny_model, tiny_text, tmp_path):
    command = [
        "measure",
        str(tiny_model("masked")),
        str(tiny_text),
        *SMALL,
        "--mask-passes",
        "10",
        "--save-every",
        "0",
        "--out",
    ]
    assert main([*command, "whole"]) == 0
    process = start(*command, "killed")
    _wait_for(tmp_path / "killed" / "statistics.safetensors", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.communicate()
    assert not (tmp_path / "killed" / "report.json").exists()
    assert main([*command, "killed"]) == 2  # an unfinished run is not overwritten
    assert main([*command, "killed", "--resume"]) == 0
    assert measured(read_report("killed")) == measured(read_report("whole"))
    assert {file.name for file in Path("killed").iterdir()} == {
        "report.html",
        "report.json",
        "report.md",
        "statistics.safetensors",
        "vocabulary.csv",
    }


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_ctrl_c_saves_and_says_how_to_go_on(tiny_model, tiny_text, tmp_path):
    command = [
        "measure",
        str(tiny_model("masked")),
        str(tiny_text),
        *SMALL,
        "--mask-passes",
        "200",
        "--save-every",
        "0",
        "--out",
        "stopped",
    ]
    process = start(*command)
    state = tmp_path / "stopped" / "statistics.safetensors"
    _wait_for(state, process)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    assert complaint.count("\n") == 1
    assert "Traceback" not in complaint
    assert complaint.endswith("--resume\n")
    assert str(_position(state)) in complaint


def _bad_cases() -> list:
    return [
        (["{model}"], "TEXT"),
        (["damaged", "{text}"], "damaged"),
        (["{model}", "no-such.txt"], "no-such.txt"),
        (["{model}", "empty.txt"], "empty.txt"),
        (["{model}", "{text}", "--words", "nosuchset"], "nosuchset"),
        (["{model}", "{text}", "--words", "strange.txt"], "no word"),
        (["{model}", "{text}", "--controls", "sometimes"], "sometimes"),
        (["{model}", "{text}", "--controls", "random:9", "--words", "most.txt"], "candidates"),
        (["{model}", "{text}", "--max-tokens", "0"], "whole number"),
        (["{model}", "{text}", "--max-tokens", "9", "--words", "rare.txt"], "at least 2"),
        (["{model}", "{text}", "--batch-size", "x"], "whole number"),
        (["{model}", "{text}", "--block-size", "4000"], "at most 64"),
        (["{model}", "{text}", "--labels", "masked", "--mask-rate", "2"], "mask_rate"),
        (["{model}", "{text}", "--preset", "mine"], "mine"),
        (["{model}", "{text}", "--device", "nosuchdevice"], "nosuchdevice"),
        (["{model}", "{text}", "--out", "empty.txt"], "empty.txt"),
        (["{model}", "{text}", "--out", "damaged", "--resume"], "damaged"),
        (["{model}", "{text}", "--resume", "--force"], "not allowed with"),
    ]


@pytest.mark.parametrize(("arguments", "named"), _bad_cases())
def test_bad_input_is_one_line_and_code_two(
    arguments, named, tiny_model, tiny_text, tmp_path, capsys, monkeypatch
):
    monkeypatch.delenv("NCFAST_DEBUG", raising=False)
    Path("empty.txt").write_text("")
    Path("strange.txt").write_text("xylophone\n")
    Path("rare.txt").write_text("she\nking\n")
    words = " ".join(
        f"{a}{b}"
        for a in ("ba", "ce", "di", "fo", "gu", "ka", "le", "mi", "no")
        for b in ("nt", "rd", "lk", "sp", "mb")
    )
    Path("most.txt").write_text(words.replace(" ", "\n"))
    Path("damaged").mkdir()
    Path("damaged/statistics.safetensors").write_bytes(b"nothing of ours")
    values = {"model": str(tiny_model("masked")), "text": str(tiny_text)}
    given = ["measure", *(a.format(**values) for a in arguments), "--quiet"]
    try:
        code = main(given)
    except SystemExit as stop:
        code = stop.code
    printed, complaint = capsys.readouterr()
    line = complaint.strip().splitlines()[-1]
    assert code == 2
    assert printed == ""
    assert line.startswith("ncfast measure: error: ")
    assert named in line
    assert "Traceback" not in complaint
    assert not list(tmp_path.glob("*/report.*"))


def test_debug_shows_the_traceback(monkeypatch, tiny_model):
    monkeypatch.setenv("NCFAST_DEBUG", "1")
    with pytest.raises(ValueError, match=r"no-such\.txt"):
        main(["measure", str(tiny_model("masked")), "no-such.txt", "--quiet"])


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    import ncfast.measure

    def broken(*args, **kwargs):
        return json.loads("{")  # a ValueError, but not one that ncfast raised

    monkeypatch.setattr(ncfast.measure, "measure", broken)
    with pytest.raises(json.JSONDecodeError):
        main(["measure", "model", "text"])


SMALL_DISK = """
import resource, signal, sys
from ncfast.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, 2 * (int(sys.argv[1]),))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX resource limits")
@pytest.mark.parametrize("limit", [60_000, 20_000])
def test_a_full_disk_is_one_line_and_loses_nothing(limit, tiny_model, tiny_text, tmp_path):
    command = ["measure", str(tiny_model("encoder")), str(tiny_text), *SMALL, "--out", "full"]
    assert main(command) == 0
    before = {file.name: file.read_bytes() for file in Path("full").iterdir()}
    assert len(before["report.json"]) > limit

    done = forked.run(
        ["-c", SMALL_DISK, str(limit), *command, "--resume"], os.environ | ENVIRONMENT, timeout=60
    )
    complaint = done.stderr
    assert done.returncode == 2, complaint
    assert complaint.strip().splitlines()[-1].startswith("ncfast measure: error: ")
    assert "Traceback" not in complaint
    kept = {file.name: file.read_bytes() for file in Path("full").iterdir()}
    assert kept["report.json"] == before["report.json"]
    assert kept["statistics.safetensors"] == before["statistics.safetensors"]
    assert not [name for name in kept if name.startswith(".")]


@pytest.mark.network
def test_a_real_model_on_the_command_line(tmp_path):
    process = start(
        "measure",
        "demo:bert-tiny",
        "demo:text",
        "--max-tokens",
        "5000",
        "--words",
        "gender",
        cwd=tmp_path,
    )
    printed, complaint = process.communicate(timeout=300)
    assert process.returncode == 0, complaint
    assert "gender" in printed
    report = read_report(tmp_path / "ncfast-report-demo-bert-tiny")
    assert report["model"]["vocab_size"] == 30522
    assert report["text"]["tokens"] == 5000
    assert 0 < report["sets"]["gender"]["metrics"]["unc3_std"] < 1

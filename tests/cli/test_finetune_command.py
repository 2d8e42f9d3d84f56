"""``ncfast finetune``: what it writes, how it fails, and that a kill costs nothing."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from ncfast.cli import main
from ncfast.training.log import read_log
from tests.forked import Forked

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--quiet", "--batch-size", "8", "--block-size", "32", "--lr", "1e-3", "--words", "gender"]
FAST = [*SMALL, "--measure-tokens", "0"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def curve(folder: str) -> list[dict]:
    lines = read_log(Path(folder) / "steps.jsonl")
    return [{key: value for key, value in x.items() if key != "seconds"} for x in lines]


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_the_result_loads_and_the_report_says_what_changed(tiny_model, tiny_text, kind, capsys):
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    loud = [word for word in SMALL if word != "--quiet"]
    term = ["--nc3", "1", "--metrics-every", "10", "--steps", "30", "--out", "out"]
    assert main(["finetune", str(tiny_model(kind)), str(tiny_text), *loud, *term]) == 0
    printed, bars = capsys.readouterr()
    for part in ("gender: unc3_std", "Its own value", "perplexity", "measured", "out/model"):
        assert part in printed
    assert "Memory plan, in MiB" in bars
    report = json.loads(Path("out/finetune.json").read_text())
    assert report["perplexity"]["after"] < report["perplexity"]["before"]
    assert report["sets"]["gender"]["unc3_std"]["change"] is not None
    assert report["terms"]["nc3"]["tokens"] > 0
    assert report["memory"]["measured"] > 0
    load = AutoModelForMaskedLM if kind == "masked" else AutoModelForCausalLM
    _, info = load.from_pretrained("out/model", output_loading_info=True)
    assert not info["missing_keys"]
    assert {path.name for path in Path("out").iterdir()} == {
        *("model", "before", "after", "steps.jsonl", "finetune.json", "finetune.md"),
        *("checkpoint-30", "compare.html", "compare.md", "compare.json"),
    }
    assert "Before and after: out/compare.html" in printed
    comparison = json.loads(Path("out/compare.json").read_text())
    assert comparison["labels"] == ["before", "after"]
    entry = comparison["sets"]["gender"]["metrics"]["unc3_std"]
    assert [entry["a"], entry["b"]] == [
        report["sets"]["gender"]["unc3_std"][when] for when in ("before", "after")
    ]
    assert f"perplexity of held-out text: {report['perplexity']['before']:.4g} before" in (
        Path("out/compare.md").read_text()
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_and_resumed_gives_the_same_curve(tiny_model, tiny_text, tmp_path):
    steps = ["--nc3", "1", "--steps", "40", "--metrics-every", "7", "--save-every", "0"]
    command = ["finetune", str(tiny_model("masked")), str(tiny_text), *FAST, *steps, "--out"]
    assert main([*command, "whole"]) == 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = Forked(["-m", "ncfast.cli", *command, "killed"], environment)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if len(read_log("killed/steps.jsonl")) >= 5:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    assert main([*command, "killed"]) == 2  # an unfinished run is not overwritten
    assert main([*command, "killed", "--resume", "--seed", "3"]) == 2  # nor mixed with another
    assert main([*command, "killed", "--resume"]) == 0
    assert curve("killed") == curve("whole")
    first, second = (
        (tmp_path / name / "model" / "model.safetensors").read_bytes()
        for name in ("whole", "killed")
    )
    assert first == second


def test_a_finished_run_needs_no_room(tiny_model, tiny_text, monkeypatch):
    from ncfast.finetune import train
    from ncfast.training.memory_limit import DoesNotFit

    command = ["finetune", str(tiny_model("masked")), str(tiny_text), *FAST, "--memory-limit"]
    command += ["2GiB", "--out", "out", "--steps"]
    assert main([*command, "2"]) == 0
    trained = Path("out/model/model.safetensors").read_bytes()

    def fit(*_):  # a process that has trained before holds more besides
        raise DoesNotFit("2 GiB is too small")

    monkeypatch.setattr(train, "fit", fit)
    assert main([*command, "2", "--resume"]) == 0
    assert Path("out/model/model.safetensors").read_bytes() == trained
    with pytest.raises(DoesNotFit):  # what is left to run has to fit
        main([*command[:-2], "other", "--steps", "2"])


def test_a_new_head_must_be_asked_for(tiny_model, tiny_text, capsys):
    command = ["finetune", str(tiny_model("encoder")), str(tiny_text), *FAST, "--steps", "2"]
    assert main(command) == 2
    assert "--new-head" in capsys.readouterr().err
    assert main([*command, "--new-head"]) == 0


@pytest.mark.parametrize(
    "extra",
    [
        ["--lora", "2"],
        ["--preset", "official"],
        ["--precision", "bf16"],
        ["--term-gradient", "head", "--class-means", "ema"],
    ],
)
def test_variants_run(tiny_model, tiny_text, extra, capsys):
    from transformers import AutoModelForCausalLM

    model = str(tiny_model("causal"))
    steps = ["--steps", "3", "--nc3", "1", "--out", "out", "--accumulate", "2", "--nc1", "0.1"]
    capsys.readouterr()  # of the fixture
    assert main(["finetune", model, str(tiny_text), *FAST, *steps, *extra]) == 0
    assert capsys.readouterr() == ("", "")  # quiet
    trained = AutoModelForCausalLM.from_pretrained("out/model")
    before = AutoModelForCausalLM.from_pretrained(model)
    names = [name for name, _ in before.named_parameters()]
    assert names == [name for name, _ in trained.named_parameters()]
    pairs = zip(before.parameters(), trained.parameters(), strict=True)
    assert any(not a.equal(b) for a, b in pairs)


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        (["--nc3", "-1"], "the weight nc3 is -1.0; expected 0 or more"),
        (["--task", "clm"], "expected 'mlm'"),
        (["--optimizer", "LBFGS"], "there is no optimizer 'LBFGS'"),
        (["--mask-words", "1.5"], "mask_words=1.5"),
        (["--memory-limit", "1MiB"], "of 1 MiB is too small"),
        (["--memory-limit", "200"], "of 200 bytes is too small"),
        (["--memory-limit", "much"], "is not a size"),
        (["--held-out", "1"], "held_out=1.0"),
        (["--validation", "odd.txt", "--held-out", "0.1"], "not allowed with argument"),
        (["--validation", "{text}"], "is the text that is trained on or a part of it (100% of it)"),
        (["--validation", "missing.txt"], "there is no text file or folder missing.txt"),
        (["--text-column", "body"], "which has no columns"),
        (["--accumulate", "9"], "accumulate=9 of 8 blocks"),
        (["--words", "odd.txt", "--nc3", "1"], "in the vocabulary"),
        (["--alignment", "1"], "expected nc3 above 0 too"),
        (["--nc3", "1", "--term-spread", "none"], "nc3 does nothing; expected one"),
        (["--nc3", "1", "--preset", "official", "--term-spread", "var"], "which has 'std'"),
        (["--lr", "0"], "lr=0.0"),
        (
            ["--nc3", "1", "--preset", "official", "--term-gradient", "features"],
            "the official preset, which moves the head",
        ),
    ],
)
def test_one_line_errors(tiny_model, tiny_text, capsys, extra, complaint):
    Path("odd.txt").write_text("zzzz\nqqqq\n")
    command = ["finetune", str(tiny_model("masked")), str(tiny_text), *FAST, "--steps", "2"]
    try:
        code = main([*command, *(word.format(text=tiny_text) for word in extra)])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(said) == 1
    assert complaint in said[0]


def test_a_validation_text_takes_the_place_of_a_share(tiny_model, tiny_text):
    lines = tiny_text.read_text().splitlines()
    Path("train.csv").write_text("id,body\n" + "\n".join(f"{i},{x}" for i, x in enumerate(lines)))
    turned = [" ".join(reversed(line.split())) for line in lines[:200]]
    Path("test.jsonl").write_text("\n".join(json.dumps({"body": line}) for line in turned))
    command = ["finetune", str(tiny_model("causal")), "train.csv", *FAST, "--epochs", "1"]
    assert main([*command, "--validation", "test.jsonl", "--out", "out"]) == 0
    report = json.loads(Path("out/finetune.json").read_text())
    assert report["perplexity"]["before"] > report["perplexity"]["after"] > 1
    assert report["settings"]["validation"] == ["test.jsonl"]
    assert main([*command, "--out", "share"]) == 0
    steps = [json.loads(Path(f"{n}/finetune.json").read_text())["steps"] for n in ("out", "share")]
    assert steps[0] > steps[1]  # every block is trained on
    before = json.loads(Path("share/finetune.json").read_text())["perplexity"]["before"]
    assert before != report["perplexity"]["before"]


def test_a_validation_text_that_is_trained_on_in_part_is_warned_about(tiny_model, tiny_text):
    command = ["finetune", str(tiny_model("causal")), str(tiny_text), *FAST, "--steps", "1"]
    command += ["--validation", str(tiny_text), "--max-tokens", "1500", "--out", "out"]
    with pytest.warns(UserWarning, match=r"\d\d% of the validation text .* is trained on"):
        assert main(command) == 0


def test_classes_that_never_occur_are_warned_about(tiny_model, tmp_path):
    from ncfast.losses import NoClassesWarning

    (tmp_path / "plain.txt").write_text("bant bard balk cent cerd font\n" * 200)
    command = ["finetune", str(tiny_model("masked")), "plain.txt", *FAST, "--steps", "2"]
    with pytest.warns(NoClassesWarning, match="0 of the 10 classes of the terms occur"):
        assert main([*command, "--nc3", "1", "--out", "out"]) == 0
    assert "10 of its classes never came" in Path("out/finetune.md").read_text()


@pytest.mark.parametrize("extra", [["--mask-words", "0.5"], ["--mask-rate", "0.3"]])
def test_shares_to_mask_say_nothing_to_a_causal_model(tiny_model, tiny_text, capsys, extra):
    command = ["finetune", str(tiny_model("causal")), str(tiny_text), *FAST, "--steps", "2"]
    assert main([*command, *extra]) == 2
    assert "with task 'clm', which masks nothing; expected neither" in capsys.readouterr().err


def test_a_new_head_where_there_is_one_is_warned_about(tiny_model, tiny_text):
    # And no more than that: the protocols of experiments/ have asked for it with such a model.
    command = ["finetune", str(tiny_model("masked")), str(tiny_text), *FAST, "--steps", "2"]
    with pytest.warns(UserWarning, match="has a language-model head, which is kept"):
        assert main([*command, "--new-head"]) == 0

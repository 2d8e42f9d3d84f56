"""``ncfast doctor``, and the command line's own words."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys

import pytest

from ncfast import dispatch
from ncfast.cli import main
from ncfast.cli.doctor import sample_arguments


def test_doctor_names_every_op_and_why(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for op in dispatch.ops():
        assert f"  {op} " in printed
    for part in ("torch", "C++ library", "TRITON_INTERPRET=1", "Every op has a backend"):
        assert part in printed


def test_doctor_names_what_runs_gpu_kernels_without_a_gpu(capsys, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"  cuda-host +available.*; \d+ of \d+ ops", printed)
    installed = importlib.util.find_spec("triton") is not None
    state = "available for tests: set TRITON_INTERPRET=1" if installed else "not available: triton"
    assert f"  triton-interpret {state}" in printed
    # Every row of an op is named, with its reason.
    line = next(line for line in printed.splitlines() if line.startswith("  class_moments "))
    for backend in dispatch.BACKENDS:
        assert backend in line


def test_doctor_says_the_same_to_programs(capsys, monkeypatch):
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts["ops"]["cpu"]) == set(dispatch.ops())
    for op, one in facts["ops"]["cpu"].items():
        named = {one["chosen"]}.union(*one["others"].values())
        assert named == set(dispatch.BACKENDS), op
    monkeypatch.setenv("NCFAST_BACKEND", "cuda")
    assert main(["doctor", "--json", "--device", "cpu"]) == 1
    assert json.loads(capsys.readouterr().out)["ops"]["cpu"]["class_moments"]["chosen"] is None


def test_doctor_fails_where_nothing_can_run(capsys, monkeypatch):
    monkeypatch.setenv("NCFAST_BACKEND", "cuda")
    assert main(["doctor", "--device", "cpu"]) == 1
    printed = capsys.readouterr().out
    assert "NCFAST_BACKEND=cuda" in printed
    assert "Nothing can run: " in printed


def test_doctor_says_what_a_missing_library_means(capsys, monkeypatch):
    from ncfast import native

    gone = {"path": None, "capability": None, "reason": "no compiler was found", "built": []}
    monkeypatch.setattr(native, "describe", lambda: gone)
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "not loaded" in printed
    assert "no compiler was found" in printed
    assert "the reference backend serves" in printed


@pytest.mark.parametrize("op", dispatch.ops())
def test_samples_suit_every_backend_of_an_op(op):
    verdicts = {v.backend: v for v in dispatch.explain(op, *sample_arguments(op, "cpu"))}
    assert verdicts["reference"].accepts
    cpu = verdicts["cpu"]
    assert cpu.accepts or "library" in cpu.reason


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--version"], 0, "ncfast 0."),
        (["--help"], 0, "measure neural collapse"),
        (["measure", "--help"], 0, "--resume"),
        (["doctor", "--help"], 0, "backends"),
        ([], 2, "COMMAND"),
        (["meazure"], 2, "invalid choice"),
        (["doctor", "--nonsense"], 2, "--nonsense"),
    ],
)
def test_help_and_mistakes(arguments, code, said, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    printed, complaint = capsys.readouterr()
    assert stop.value.code == code
    assert said in (printed if code == 0 else complaint)
    assert code == 0 or complaint.count("\n") == 1


def test_it_runs_as_a_module_as_launchers_want_it():
    command = [sys.executable, "-m", "ncfast", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ncfast 0.")


def test_the_command_line_is_there_without_the_heavy_libraries():
    code = "import sys, ncfast.cli; print('transformers' in sys.modules, 'datasets' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]

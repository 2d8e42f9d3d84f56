"""The table of faults fits the sources it is planted in."""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from . import noticing, renamed
from .__main__ import at_its_place, of_tests_there, read_killers
from .scratch import Outcome
from .table import FIRST_SURVIVORS, KINDS, ROOT, faults

EVERY = faults()


@pytest.mark.parametrize("fault", EVERY, ids=lambda fault: fault.name)
def test_a_fault_can_be_planted(fault):
    text = (ROOT / fault.file).read_text(encoding="utf-8")
    assert fault.planted(text) != text
    assert fault.kind in KINDS
    assert bool(fault.reason) == bool(fault.gpu_test), "a reason needs the test a GPU would fail"


def test_there_are_faults_of_every_kind_everywhere():
    assert len(EVERY) >= 120
    assert {fault.kind for fault in EVERY} == KINDS
    assert {fault.name for fault in EVERY} >= set(FIRST_SURVIVORS)
    assert max(Counter(fault.name for fault in EVERY).values()) == 1
    for folder in ("csrc/cuda", "csrc/cpu", "csrc/common", "ncfast/kernels", "ncfast/losses"):
        assert sum(fault.file.startswith(folder) for fault in EVERY) >= 10, folder


@pytest.mark.parametrize("fault", [f for f in EVERY if f.file.startswith("csrc/")][::7])
def test_native_faults_have_tests_that_could_notice(fault, tmp_path):
    runs = list(noticing.runs_for(fault, tmp_path / "none.json"))
    assert runs
    for run in runs:
        paths = [a for a in run.arguments if a.startswith("tests/")]
        assert paths
        assert all((ROOT / path.partition("::")[0]).exists() for path in paths)
        assert "::" in paths[0] or "-k" in run.arguments or paths == [noticing.RAW]
        assert bool(run.sources) == fault.file.startswith("csrc/cuda/")
    if runs[0].sources:  # what has the fault is compiled with it, at the latest where all is
        built = {name for run in runs for name in run.sources}
        assert len(max((run.sources for run in runs), key=len)) == len(built)


def test_what_killed_before_is_run_first(tmp_path):
    fault = next(fault for fault in EVERY if fault.file == "csrc/cuda/gram.cuh")
    by = "tests/ops/test_cuda_host.py::test_agreement[within_class_scatter-torch.float32] on small"
    first = next(noticing.runs_for(fault, tmp_path / "none.json", by))
    assert first.arguments == (by.partition(" on ")[0],)
    assert (first.kind, first.sources) == ("small", ("within_class_scatter.cu",))
    assert first.variables == {"NCFAST_TEST_EMULATOR": "small"}
    fault = next(fault for fault in EVERY if fault.file == "ncfast/kernels/grams.py")
    for by in (
        "tests/kernels/interpreted_small.py::test_bad_data",
        "tests/aot/test_triton.py::test",
    ):
        first = next(noticing.runs_for(fault, tmp_path / "none.json", by))
        assert first.arguments == (by,)
        assert ("TRITON_INTERPRET" in first.variables) == ("interpreted" in by)  # or it is skipped
    gone = "tests/ops/test_that_is_gone.py::test_it"
    assert not next(noticing.runs_for(fault, tmp_path / "none.json", gone)).known


@pytest.mark.parametrize(
    ("name", "beside", "elsewhere"),
    [
        ("products-copies", "products-after-wait", "find-not-finite-suspect"),
        ("triton-argmax-tie", "triton-argmax-rival", "triton-decision-overflow"),
    ],
)
def test_a_result_stands_while_its_function_does(name, beside, elsewhere):
    fault, near, far = (next(f for f in EVERY if f.name == n) for n in (name, beside, elsewhere))
    text = (ROOT / fault.file).read_text(encoding="utf-8")
    assert near.file == far.file == fault.file
    assert fault.key_in(far.planted(text)) == fault.key_in(text) == fault.key(ROOT)
    assert fault.key_in(near.planted(text)) != fault.key_in(text)


@pytest.mark.parametrize(
    ("change", "carried"),
    [
        (("buffer", "half"), True),
        (("  // the last tile may still be read", ""), True),
        (("buffer", "width"), False),  # which the function has
        (("start(0, 0)", "start(0, 1)"), False),
        (("__syncthreads", "commit_copies"), False),
    ],
)
def test_a_result_is_carried_over_new_names_alone(change, carried):
    fault = next(f for f in EVERY if f.name == "products-wait-none")
    text = (ROOT / fault.file).read_text(encoding="utf-8")
    today = text.replace(*change)
    assert today != text
    before, after = (renamed.tokens(fault.around(t), python=False) for t in (text, today))
    used = (renamed.names(t, python=False) for t in (text, today))
    assert renamed.only_renamed(before, after, *used) == carried


def test_a_kill_by_a_test_that_is_gone_is_no_result():
    there = "tests/mutants/test_table.py::test_who_includes_a_header on races"
    rows = [
        Outcome("a", "file", "tie", what, by, 1.0, "key")
        for what, by in [
            ("killed", there),
            ("killed", f"{there.partition(' ')[0]}[gone]"),
            ("survived", ""),
        ]
    ]
    assert of_tests_there(rows) == [rows[0], rows[2]]


@pytest.mark.parametrize(
    ("now", "by"),
    [
        ("tests/new.py::test[1-a] on small", "tests/new.py::test[1-a] on small"),
        ("tests/new.py::test[1-a]", "tests/old.py::test[1-a] on small"),
        ("tests/new.py::other", "tests/old.py::test[1-a] on small"),
        ("", "tests/old.py::test[1-a] on small"),
    ],
)
def test_a_kill_goes_where_its_test_went(now, by):
    row = Outcome("a", "file", "tie", "killed", "tests/old.py::test[1-a] on small", 1.0, "key")
    assert at_its_place(row, {"a": now}).by == by
    nobody = replace(row, by="pytest ended with 3")
    assert at_its_place(nobody, {"a": now}) == nobody


def test_what_only_some_processors_run_is_planted_on_those(tmp_path):
    fault = next(fault for fault in EVERY if fault.needs)
    assert not replace(fault, needs="no_such_instructions").runs_here()
    runs = list(noticing.runs_for(fault, tmp_path / "none.json", read_killers()[fault.name]))
    assert all(run.variables == noticing.NARROW for run in runs)  # which are used if asked for


def test_who_includes_a_header():
    sources = sorted(ROOT.glob("csrc/cuda/*.cu"))
    names = {p.name for p in noticing.including(ROOT / "csrc/cuda/gram.cuh", sources)}
    assert names >= {"within_class_scatter.cu", "accumulate_class_moments_.cu"}
    assert "linear_argmax.cu" not in names
    # A source that has a header of its name is used by whoever includes that.
    names = {p.name for p in noticing.including(ROOT / "csrc/cuda/symmetric.cu", sources)}
    assert "within_class_scatter_backward.cu" in names


@pytest.mark.slow
def test_a_twentieth_of_the_faults_is_noticed(capsys):
    """Another one every day; what is not reached in three and a half minutes is left out."""
    day = str(datetime.date.today().toordinal())
    command = [sys.executable, "-m", "tests.mutants", "--twentieth", day, "--jobs", "2"]
    command += ["--whole", "210", "--seconds", "120"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    with capsys.disabled():
        print(f"\n{done.stdout.strip().splitlines()[-1]}", end=" ")
    assert done.returncode == 0, done.stdout + done.stderr

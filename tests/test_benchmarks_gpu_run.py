"""The GPU run without a GPU: its phases, what they leave, and the first run on a bare machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import time
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu import build, phases, suite, timing
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.archive import ARCHIVE, pack
from benchmarks.gpu.calls import call
from benchmarks.gpu.phases import PHASES, WHOLE_SECONDS, Phase, limit_of
from benchmarks.gpu.processes import run_all
from benchmarks.gpu.settings import WITHOUT, read
from ncfast import dispatch
from tests.gpu.on_device import contract_of
from tests.test_benchmarks_gpu import ROOT


def test_a_command_that_does_not_end_is_ended_with_all_it_started(tmp_path):
    flag = tmp_path / "flag"
    commands = {
        "stands": ["bash", "-c", f"(sleep 2; touch {flag}) & wait"],
        "passes": [sys.executable, "-c", "print('here')"],
        "waits": ["true"],
    }
    ended = run_all(commands, seconds=1, logs=tmp_path)
    assert {n: e.outcome for n, e in ended.items()} == dict.fromkeys(commands, "out of time")
    ended = run_all({"passes": commands["passes"], "fails": ["false"]}, seconds=60, logs=tmp_path)
    assert (ended["passes"].outcome, ended["passes"].tail) == ("passed", "here")
    assert ended["fails"].outcome == "failed, exit 1"
    time.sleep(1.5)
    assert not flag.exists()


def test_a_phase_that_fails_hides_no_other(tmp_path, monkeypatch, capsys):
    listed = (Phase("first", "no_such_module", "", 9), Phase("ceilings", "ceilings", "", 60))
    monkeypatch.setattr(phases, "PHASES", listed)
    assert phases.run(tmp_path / "out", dry_run=True) == 1
    rows = read([tmp_path / "out/phases.csv"])
    assert [(r["phase"], r["outcome"]) for r in rows] == [
        ("first", "failed, exit 1"),
        ("ceilings", "passed"),
    ]
    assert "No module named" in capsys.readouterr().out
    assert "| first | failed, exit 1 |" in (tmp_path / "out/summary.md").read_text()
    with pytest.raises(SystemExit, match="not empty"):
        phases.run(tmp_path / "out", dry_run=True)


def test_a_build_that_fails_is_said_once(tmp_path, monkeypatch):
    """Its backend is left out of the phases after it, which run."""
    listed = (
        Phase("build", "no_such_module", "", 9),
        Phase("ceilings", "ceilings", "", 60),
    )
    monkeypatch.setattr(phases, "PHASES", listed)
    given = []
    monkeypatch.setattr(
        phases, "run_all", lambda *a, **k: given.append(k["environment"]) or run_all(*a, **k)
    )
    assert phases.run(tmp_path / "out", dry_run=True) == 1
    assert WITHOUT not in given[0]
    assert given[1][WITHOUT] == "cuda-host"
    monkeypatch.setenv(WITHOUT, "cuda-host")
    assert suite.Settings(tmp_path, True, 1.0).backends == ("triton-interpret", "cpu")


def test_only_the_card_that_is_there_is_compiled_for(monkeypatch):
    for capability, options in (
        ((9, 0), ["--architectures", "90a"]),
        ((8, 9), ["--architectures", "80"]),
        ((10, 0), ["--architectures", "100a"]),
        ((12, 0), []),  # by the PTX that is there where all are asked for
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda found=capability: found)
        assert build.architectures() == options


def test_a_build_needs_no_pip_and_leaves_its_note(tmp_path, monkeypatch):
    ran = []
    folder = tmp_path / "ncfast/_native"
    folder.mkdir(parents=True)
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "architectures", lambda: ["--architectures", "90a"])
    done = SimpleNamespace(returncode=0)
    monkeypatch.setattr(build.subprocess, "run", lambda command, **_: ran.append(command) or done)
    assert build.main(["--out", str(tmp_path / "out")]) == 0
    assert ran[0][1:3] == [str(tmp_path / "csrc/build_cuda.py"), "device"]
    assert ran[0][-2:] == ["--architectures", "90a"]
    assert (folder / "build_cuda.txt").read_text() == "built for 90a\n"


def test_what_a_phase_leaves_goes_to_those_after_it():
    first, last = PHASES[0], PHASES[-1]
    whole = sum(phase.share for phase in PHASES)
    assert limit_of(first, whole) == pytest.approx(first.share)
    assert limit_of(last, 77.0) == 77.0
    left = 840.0
    for phase in PHASES:  # each uses all that it may
        limit = limit_of(phase, left)
        assert limit >= phase.share  # fourteen minutes are more than nine
        left -= limit
    assert left == pytest.approx(0, abs=1e-6)


def test_three_files_come_out(tmp_path):
    folder, out = tmp_path / "run", tmp_path / "out"
    (folder / "repeat").mkdir(parents=True)
    (folder / "summary.md").write_text("# GPU run\n")
    (folder / "times.csv").write_text("op,median_ms\nalignment,1.5\n")
    (folder / "repeat/alignment.csv").write_text("op,repeat\nalignment,same bits\n")
    for _ in range(2):  # after every phase anew
        pack(folder, out)
    assert sorted(p.name for p in out.iterdir()) == ["results.csv", "run.tar.gz", "summary.md"]
    rows = read([out / "results.csv"])
    assert [(r["table"], r["op"]) for r in rows] == [
        ("repeat/alignment", "alignment"),
        ("times", "alignment"),
    ]
    assert (rows[0]["repeat"], rows[1]["median_ms"]) == ("same bits", "1.5")
    with tarfile.open(out / ARCHIVE) as archive:
        assert "run/repeat/alignment.csv" in archive.getnames()


def test_what_was_asked_for_first_is_timed_first(tmp_path, monkeypatch):
    monkeypatch.setattr(timing.Settings, "ops", lambda _: dispatch.ops())
    monkeypatch.setattr(timing.Settings, "kernels", lambda *_: ["triton", "cuda"])
    found = list(timing.jobs(timing.Settings(tmp_path, False, 1.0)))
    assert len(found) == len(set(found))
    first = found[: 4 * 2 * 2]  # ops x backends x dtypes
    assert {job.op for job in first} == set(timing.FIRST)
    assert {job.head.name for job in first} == {"Llama-3"}
    assert {job.provider for job in first} == {"triton", "cuda"}


BARE = (
    "csrc",
    "ncfast",
    "benchmarks",
    "tests",
    "pyproject.toml",
    "conftest.py",
    "README.md",
)


@pytest.fixture
def bare_machine(tmp_path):
    """Return a tree without git, and variables under which no index, pip or git answers."""
    tree, tools, broken = tmp_path / "tree", tmp_path / "tools", tmp_path / "broken"
    ignore = shutil.ignore_patterns("__pycache__", "_native")
    for name in BARE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=ignore)
        else:
            shutil.copy2(ROOT / name, tree / name)
    tools.mkdir()
    called = tmp_path / "called"
    for name in ("git", "pip", "pip3"):
        (tools / name).write_text(f"#!/bin/sh\necho {name} >> {called}\nexit 1\n")
        (tools / name).chmod(0o755)
    for name in ("setuptools", "pip"):
        (broken / name).mkdir(parents=True)
        (broken / name / "__init__.py").write_text(f"raise ImportError('no {name} here')\n")
    variables = {
        **{k: v for k, v in os.environ.items() if not k.startswith("NCFAST_")},
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(broken),
        "PYTHON": sys.executable,
        "PIP_NO_INDEX": "1",
        "NCFAST_OBJECT_CACHE": os.environ.get("NCFAST_OBJECT_CACHE", str(ROOT / "build/objects")),
    }
    yield tree, variables
    assert not called.exists(), called.read_text()


@pytest.mark.slow
def test_the_first_run_on_a_bare_machine(bare_machine, tmp_path, cuda_host):
    tree, variables = bare_machine
    script, out = tree / "benchmarks/gpu/first_run.sh", tmp_path / "found"
    command = ["bash", str(script), str(out), "9", "--dry-run", "--only", "build", "ceilings"]
    done = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(p.name for p in out.iterdir()) == ["results.csv", "run.tar.gz", "summary.md"]
    rows = read([out / "results.csv"])
    assert [(r["phase"], r["outcome"]) for r in rows] == [
        ("build", "passed"),
        ("ceilings", "passed"),
    ]
    assert list((tree / "build").glob("libncfast_cuda_host-*.so"))
    usage = subprocess.run(["bash", str(script)], capture_output=True, text=True)
    assert usage.returncode == 2
    assert "OUT [MINUTES]" in usage.stderr


@pytest.mark.slow
def test_the_library_is_built_for_one_card_on_a_bare_machine(bare_machine):
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc")
    tree, variables = bare_machine
    # Three sources show for which card they are compiled; tests/aot compiles all of them for it.
    for source in tree.glob("csrc/cuda/*.cu"):
        if source.stem not in ("class_moments", "logits", "symmetric"):
            source.unlink()
    library = tree / "ncfast/_native/libncfast_cuda.so"
    words = ["csrc/build_cuda.py", "device", str(library), "--architectures", "90a"]
    done = subprocess.run([sys.executable, *words], env=variables, cwd=tree, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"sm_90a" in library.read_bytes()
    assert b"sm_80" not in library.read_bytes()


def test_a_gpu_tests_every_contract_in_three_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(suite.Settings, "ops", lambda _: dispatch.ops())
    commands = suite.commands(suite.Settings(tmp_path, False, 1.0))
    forward = [op for op in dispatch.ops() if not op.endswith("_backward")]
    assert len(commands) == 3 * len(forward) + 1
    for op in forward:
        name = contract_of(op).__name__
        targets = {commands[f"{op} {part}"][-3].rpartition("::")[2] for part in suite.PARTS}
        assert targets == {name}
        assert name in commands["others"][-1]


def test_all_phases_fit_in_nine_minutes():
    assert sum(phase.share for phase in PHASES) <= WHOLE_SECONDS < 9 * 60
    for phase in PHASES:
        assert (ROOT / f"benchmarks/gpu/{phase.module}.py").exists()


def test_without_a_gpu_the_run_is_refused(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path)])
    assert "no CUDA device is here; --dry-run" in capsys.readouterr().err


def test_a_kernel_that_cannot_be_called_fails_the_phase_and_hides_no_row(tmp_path, monkeypatch):
    monkeypatch.setattr(timing.peers, "PLAIN", {})
    kernels = {"alignment": ["triton-interpret", "cpu"]}
    monkeypatch.setattr(timing.Settings, "kernels", lambda _, op: kernels.get(op, []))
    if os.environ.get("TRITON_INTERPRET", "0") == "1":
        pytest.skip("here it can be called")
    assert timing.main(["alignment", "--out", str(tmp_path), "--dry-run"]) == 1
    rows = {row["provider"]: row for row in read([tmp_path / "times.csv"])}
    assert "BackendError: alignment: backend 'triton-interpret'" in rows["triton-interpret"]["note"]
    assert float(rows["cpu"]["median_ms"]) > 0
    assert rows["torch"]["note"] == "has no such op of its own"


def test_no_wrong_kernel_is_timed(monkeypatch):
    setting = "alignment", "cpu", torch.float32, torch.device("cpu")
    timing.gate.cache_clear()
    timing.gate(*setting)
    timing.gate.cache_clear()
    asked = []

    def wrong(op, given):
        asked.append(op)  # the third call is the backend's, after the truth and the baseline
        return tuple(t + 1e-4 * (len(asked) == 3) for t in call(op, given))

    monkeypatch.setattr(timing, "call", wrong)
    with pytest.raises(AssertionError, match="output 0 of alignment"):
        timing.gate(*setting)


@pytest.mark.slow
def test_dry_run(tmp_path, cuda_host, monkeypatch):
    """The one command, on a CPU: every phase ends, every op is repeated and timed."""
    pytest.importorskip("triton")
    monkeypatch.setenv(build.HOST_LIBRARY, str(cuda_host))
    out = tmp_path / "gpu"
    assert main(["--dry-run", "--out", str(out)]) == 0
    outcomes = {row["phase"]: row["outcome"] for row in read([out / "phases.csv"])}
    assert list(outcomes) == [phase.name for phase in PHASES]
    assert set(outcomes.values()) <= {"passed", "left out"}
    assert [n for n, o in outcomes.items() if o == "left out"] in ([], ["sanitize"])
    tests = read([out / "tests.csv"])
    assert sum(int(row["passed"]) for row in tests) >= 7
    repeated = read(sorted((out / "repeat").glob("*.csv")))
    timed = read([out / "times.csv"])
    for op in dispatch.ops():
        assert {r["repeat"] for r in repeated if r["op"] == op} == {"same bits"}
        own = [r for r in timed if r["op"] == op and r["provider"] in ("cpu", "cuda-host")]
        assert own, op
        assert all(r["median_ms"] and not r["note"] for r in own)
    assert {r["provider"] for r in timed} >= {"torch", "torch.compile", "reference", "cuda-host"}
    assert {r["clock"] for r in timed} == {"CPU clock: not a GPU's time"}
    text = (out / "summary.md").read_text()
    assert "says nothing of any GPU" in text

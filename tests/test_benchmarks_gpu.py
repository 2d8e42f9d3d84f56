"""What is said of GPUs without one: predictions by hand, and the plumbing of the GPU run."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu import build, peers, phases, suite, timing
from benchmarks.gpu import predict as predicting
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.archive import ARCHIVE, pack
from benchmarks.gpu.calls import arguments, call
from benchmarks.gpu.heads import HEADS, TINY, Head
from benchmarks.gpu.phases import PHASES, WHOLE_SECONDS, Phase, limit_of
from benchmarks.gpu.predict import Gpu, Prediction, predict, read_again, render, roofline
from benchmarks.gpu.processes import run_all
from benchmarks.gpu.repeat import same_bits
from benchmarks.gpu.settings import WITHOUT, read
from benchmarks.gpu.tiles import Tile, rows_of, tiles_of
from benchmarks.gpu.work import WORK, Product, Work
from ncfast import dispatch
from ncfast.bench import bounds
from tests.gpu.on_device import contract_of

ROOT = Path(__file__).parent.parent
# Round numbers: 100 bytes/s, 1,000 bf16, 300 tf32 (100 in threes), 10 float32 operations/s.
SMALL = Gpu("small", 100.0, 1000.0, 300.0, 10.0, cache=200, multiprocessors=2, older=0.5)


def test_panels_read_again_by_hand():
    # 8 x 6 in tiles of 2 x 3: 4 down, 2 across. Two at a time are one row of tiles: 4 waves, each
    # reading 2 rows and 6 rows of depth 10, 4 bytes. Each operand is past half the cache.
    product = Product(8, 6, 10)
    left, right = 4 * 2 * 10 * 4 - 8 * 10 * 4, 4 * 6 * 10 * 4 - 6 * 10 * 4
    assert (left, right) == (0, 720)
    assert read_again(product, Tile(2, 3, "tf32x3"), SMALL, 4) == 720
    # The other way round, two tiles of a column at a time: 2 x 2 waves of 4 rows and 3 rows.
    other = Product(8, 6, 10, fast="rows")
    assert read_again(other, Tile(2, 3, "tf32x3"), SMALL, 4) == (4 * 4 - 8) * 40 + (4 * 3 - 6) * 40
    # What fits in half the cache is read once, and what is on chip not at all.
    roomy = Gpu("roomy", 1, 1, 1, 1, cache=640, multiprocessors=2, older=1)
    assert read_again(product, Tile(2, 3, "tf32x3"), roomy, 4) == 0
    assert read_again(Product(8, 6, 10, on_chip=True), Tile(2, 3, "tf32x3"), SMALL, 4) == 0
    # Of a symmetric product 3 of 4 tiles are needed: 2 waves of one row and two columns of tiles.
    half = Product(8, 8, 10, symmetric=True)
    assert read_again(half, Tile(4, 4, "tf32x3"), SMALL, 4) == (2 * 8 - 8) * 40
    # By squares of two, four at a time: all 16 tiles in 4 waves of 8 rows and 8 columns, not of 4
    # rows and all 16 columns.
    square, whole = (
        Product(16, 16, 10),
        Gpu("four", 1, 1, 1, 1, cache=0, multiprocessors=4, older=1),
    )
    assert read_again(square, Tile(4, 4, "tf32x3", square=2), whole, 4) == 2 * (4 * 8 - 16) * 40
    assert read_again(square, Tile(4, 4, "tf32x3"), whole, 4) == (4 * 16 - 16 + 4 * 4 - 16) * 40


def test_a_prediction_by_hand(monkeypatch):
    head = Head("toy", classes=6, width=10, tokens=8)
    assert WORK["linear_argmax"](head, 4) == Work(
        8 * (40 + 8) + 240 + 96, (Product(8, 6, 10, fast="rows"),)
    )
    monkeypatch.setattr(predicting, "tiles_of", lambda *_: (Tile(4, 4, "tf32x3"),))
    # 2 x 2 tiles of 4 x 4: 2 * 64 * 10 operations at half of 300 / 3. Two tiles of a column at a
    # time: 2 waves of 8 and 4 rows; x is read twice, the head 8 / 6 times.
    found = predict("linear_argmax", "cuda", head, torch.float32, SMALL)
    assert found.products == pytest.approx(1280 / 50)
    assert found.memory == pytest.approx((720 + 8 * 40 + 2 * 40) / 100)
    assert found.seconds == found.products
    assert found.limiter == "tensor cores"
    assert found.roofline == pytest.approx(2 * 8 * 6 * 10 / 100)
    assert found.fraction == pytest.approx(9.6 / 25.6)
    faster = predict("linear_argmax", "triton", head, torch.float32, SMALL)
    assert faster.products == pytest.approx(1280 / 100)


def test_the_work_at_llama_3_is_that_of_the_plan():
    """68 ms of products for every pair; 0.94 ms of traffic for alignment in 2 + 4 bytes."""
    llama, h100 = HEADS[2], predicting.GPUS[1]
    assert (llama.classes, llama.width) == (128_256, 4_096)
    pairs = roofline(WORK["pair_stats"](llama, 2), h100, torch.bfloat16)
    assert 1e3 * pairs == pytest.approx(68.1, abs=0.1)
    assert 1e3 * WORK["alignment"](llama, 3).bytes / h100.bandwidth == pytest.approx(0.94, abs=0.01)
    scatter = roofline(WORK["between_class_scatter"](llama, 2), h100, torch.bfloat16)
    assert 1e3 * scatter == pytest.approx(2.2, abs=0.1)


@pytest.mark.parametrize("op", dispatch.ops())
def test_every_op_has_work_and_a_call(op):
    """An op that is added later must say both, or it would be left out of what a GPU runs."""
    head = TINY[0]
    work = WORK[op](head, 2)
    assert work.bytes > head.width
    assert work.flops + work.vector_flops > 0
    given = arguments(op, head, torch.float32, torch.device("cpu"))
    for out in call(op, given):
        assert out.is_floating_point() is False or out.isfinite().all()


def test_every_gpu_kernel_is_predicted_and_the_goal_is_stated():
    pytest.importorskip("triton")
    rows = rows_of()
    backends = {backend for _, backend in rows}
    assert backends == {"cuda", "triton"}
    assert ("linear_argmax", "triton") in rows
    text = render(list(predicting.predictions(TINY)))
    for op, backend in rows:
        for dtype in ("bfloat16", "float32"):
            assert re.search(rf"\| {op} \| {backend} \| tiny \| {dtype} \|", text), (op, backend)
    assert text.startswith("# Predicted, not measured")
    whole = render(
        [predict("pair_stats", "cuda", HEADS[2], torch.float32, gpu) for gpu in predicting.GPUS]
    )
    assert "under 150 ms on an H100" in whole
    assert re.search(r"cuda, float32: predicted \d+ ms \(.+\), (NOT )?within the goal", whole)


def test_tiles_are_those_of_the_kernels():
    pytest.importorskip("triton")
    from ncfast.kernels import decisions, grams

    for op, configuration in (
        ("between_class_scatter", grams.GRAM[0]),
        ("linear_argmax", decisions.NARROW[0]),
    ):
        (tile,), tiles = tiles_of(op, "triton", torch.bfloat16), configuration.tiles
        assert tile.rows == tiles.get("ROWS", tiles.get("SIDE"))
        assert tile.columns == tiles.get("COLUMNS", tiles.get("SIDE"))
    assert tiles_of("linear_argmax", "triton", torch.bfloat16)[0].precision == "bf16"
    assert tiles_of("linear_argmax", "triton", torch.float32)[0].precision == "tf32x3"
    assert tiles_of("alignment", "triton", torch.float32) == ()
    every = {"triangle": False}
    assert tiles_of("linear_argmax", "cuda", torch.bfloat16) == (Tile(128, 128, "bf16", **every),)
    assert tiles_of("pair_stats", "cuda", torch.bfloat16) == (Tile(128, 128, "bf16", square=8),)
    pairs, panels = tiles_of("pair_stats_backward", "cuda", torch.bfloat16)
    assert pairs == Tile(128, 128, "bf16", **every)
    assert panels == Tile(128, 128, "tf32x3", **every)
    # As its means are float32.
    assert tiles_of("nearest_center", "cuda", torch.bfloat16) == (
        Tile(128, 128, "tf32x3", **every),
    )
    # Of points as they are, and of panels of float32 coefficients.
    for op, sizes in (("pair_stats", (128,)), ("pair_stats_backward", (64, 64))):
        found = tiles_of(op, "triton", torch.bfloat16)
        assert tuple(t.rows for t in found) == sizes
        assert [t.precision for t in found] == ["bf16", "tf32x3"][: len(sizes)]
    assert tiles_of("pair_stats", "triton", torch.bfloat16, 10) == (Tile(64, 64, "bf16", square=8),)


def test_the_work_of_a_gpu_is_that_of_a_cpu_in_float32():
    head = Head("toy", classes=96, width=24, tokens=61)
    size = bounds.Size(tokens=61, width=24, classes=96, occurring=61, itemsize=4)
    for name in (
        "class_moments",
        "accumulate_class_moments_",
        "within_class_scatter",
        "between_class_scatter",
    ):
        assert WORK[name](head, 4).bytes == getattr(bounds, name)(size).bytes, name
    for name in ("within_class_scatter", "between_class_scatter", "pair_stats"):
        assert WORK[name](head, 4).flops == getattr(bounds, name)(size).flops, name


def test_what_limits_is_named():
    def limited(memory: float, products: float, vector: float, reads: float = 1.0) -> str:
        numbers = (1.0, memory, products, vector, "", reads)
        return Prediction("op", "cuda", "toy", "float32", "small", *numbers).limiter

    assert limited(3, 2, 1) == "HBM"
    assert limited(3, 2, 1, reads=4) == "HBM, panels read 4.0 times"
    assert limited(1, 2, 1) == "tensor cores"
    assert limited(1, 1, 2) == "float32 arithmetic"
    assert math.isclose(predicting.GOAL[3], 150)


# -- the run itself, without a GPU


@pytest.mark.parametrize("op", sorted(peers.PLAIN))
def test_plain_torch_computes_what_the_op_does(op):
    """Or its time beside ours would say nothing."""
    given = arguments(op, TINY[0], torch.float32, torch.device("cpu"))
    copies = [a.clone() if isinstance(a, torch.Tensor) else a for a in given]
    plain, own = peers.PLAIN[op](*given), call(op, copies)
    if op == "pair_stats":
        plain, own = torch.stack(plain), own[0][:, 1]  # sums
        assert torch.allclose(plain, own, rtol=1e-4)
        return
    if op == "accumulate_class_moments_":
        assert torch.equal(plain[0], own[0])  # and sums in the place of means
        return
    for a, b in zip(plain, own, strict=False):
        assert torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-4), op


@pytest.mark.parametrize("op", ["class_moments", "alignment", "linear_cross_entropy"])
def test_plain_torch_has_gradients(op):
    function = peers.plain_call(
        f"{op}_backward", TINY[0], torch.float32, torch.device("cpu"), False
    )
    assert all(grad.isfinite().all() for grad in function() if grad is not None)


def test_same_bits_are_bits():
    nan = torch.tensor([math.nan, 1.0])
    assert same_bits([nan], [nan.clone()])
    assert not same_bits([torch.tensor([0.0])], [torch.tensor([-0.0])])
    assert not same_bits([torch.tensor([1.0])], [torch.tensor([1.0 + 2**-23])])


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
    library = tree / "ncfast/_native/libncfast_cuda.so"
    command = [sys.executable, "csrc/build_cuda.py", "device", str(library)]
    done = subprocess.run(
        [*command, "--architectures", "90a"], env=variables, cwd=tree, capture_output=True
    )
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

"""The compiled library: what is said without it, which products it takes, and its portable twin."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ncfast import native

ROOT = Path(__file__).parent.parent
BUILT = [native._library_path(c) for c in native.describe()["built"]]


def run(code: str, *, path: Path | None = None, **environment: str) -> str:
    """Run Python in a process of its own and return what it printed."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("NCFAST_")} | environment
    if path is not None:
        env["PYTHONPATH"] = str(path)
    result = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=path or ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return result.stdout


def test_describe():
    facts = native.describe()
    if facts["capability"] is None:
        assert facts["path"] is None
        assert facts["reason"]
        return
    assert facts["reason"] == ""
    assert facts["capability"] in facts["built"]
    assert Path(facts["path"]).name == f"libncfast_cpu_{facts['capability']}.so"
    assert facts["threads"] == torch.get_num_threads()
    assert native.missing("class_moments") == ""
    assert "has no nothing" in native.missing("nothing")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Return a folder with a copy of the package that was never built."""
    ignore = shutil.ignore_patterns("_native", "__pycache__")
    shutil.copytree(Path(native.__file__).parent, tmp_path / "ncfast", ignore=ignore)
    return tmp_path


SERVES = """
import logging, pathlib, torch, ncfast, ncfast.functional as F
logging.basicConfig(format="LOG %(message)s")
assert pathlib.Path(ncfast.__file__).is_relative_to(pathlib.Path.cwd()), ncfast.__file__
facts = ncfast.native.describe()
print("REASON", facts["reason"], facts["capability"], facts["built"])
x, y = torch.eye(3, requires_grad=True), torch.tensor([0, 1, 1])
with ncfast.trace() as calls:
    F.class_moments(x, y, 2)[2].sum().backward()
print("RAN", {c.backend for c in calls}, float(x.grad.abs().sum()))
print(ncfast.explain("alignment", x, x, x[0], None))
try:
    with ncfast.use_backend("cpu"):
        F.class_moments(x, y, 2)
except ncfast.BackendError as error:
    print("REFUSED", error)
"""


def test_without_a_library_the_reference_serves(bare):
    out = run(SERVES, path=bare)
    assert re.search(r"REASON the C\+\+ library for \w+ is not installed: it was never built", out)
    assert "RAN {'reference'} 4.0" in out
    assert "-> reference" in out
    assert "REFUSED class_moments: backend 'cpu' was requested but cannot serve: the C++" in out


def test_the_note_of_a_failed_build_is_the_reason(bare):
    (bare / "ncfast" / "_native").mkdir()
    (bare / "ncfast" / "_native" / "build.txt").write_text("no C++ compiler: 'c++' was not found\n")
    assert "is not installed: no C++ compiler: 'c++' was not found None []" in run(
        SERVES, path=bare
    )


def test_a_broken_library_is_a_reason(bare):
    (bare / "ncfast" / "_native").mkdir()
    for capability in native.CAPABILITIES:
        (bare / "ncfast" / "_native" / f"libncfast_cpu_{capability}.so").write_bytes(b"\x7fELF no")
    assert "REASON the C++ library cannot be loaded with torch" in run(SERVES, path=bare)


def test_strict_refuses_to_do_without(bare):
    code = """
import torch, ncfast, ncfast.functional as F
try:
    F.class_moments(torch.eye(2), torch.tensor([0, 1]), 2)
except ncfast.BackendError as error:
    print(error)
"""
    out = run(code, path=bare, NCFAST_STRICT="1")
    assert "class_moments falls back to reference: cpu: the C++ library" in out
    assert "NCFAST_STRICT is set" in out


def test_an_unknown_capability_is_one_clear_error():
    code = """
import ncfast
try:
    ncfast.native.describe()
except ValueError as error:
    print(error)
"""
    out = run(code, NCFAST_CPU_CAPABILITY="bogus")
    assert out == "NCFAST_CPU_CAPABILITY is 'bogus'; expected one of avx2, portable\n"


@pytest.mark.parametrize(
    ("variable", "expected"),
    [("NCFAST_CPU_PRODUCTS", "mm, onednn"), ("NCFAST_CPU_BFLOAT16", "widened, pairs, mkl")],
)
def test_unknown_products_are_one_clear_error(variable, expected):
    code = """
import ncfast
try:
    ncfast.native.describe()
except ValueError as error:
    print(error)
"""
    out = run(code, **{variable: "bogus"})
    assert out == f"{variable} is 'bogus'; expected one of {expected}\n"


PRODUCTS = """
import torch, ncfast
import ncfast.functional as F
try:
    said = ncfast.native.products()
except ValueError as error:
    print(error)
    raise SystemExit
print(said["float32"].split(" (")[0], "|", said["bfloat16"].split(" (")[0])
x = (torch.arange(300 * 601) % 13 - 6.0).reshape(300, 601)
for dtype in (torch.float32, torch.bfloat16):  # whole numbers: all sums are exact
    classes, margins = F.linear_argmax(x.to(dtype), x.to(dtype))
    print(int(classes.sum()), float(margins.double().sum()))
    print(float(F.linear_nll_lse(x.to(dtype), x.to(dtype), torch.arange(300))[1].double().sum()))
"""


@pytest.mark.slow
def test_products_asked_for_by_name():
    """Each is used where it is asked for, or is one error; exact sums are the same by all."""
    usual = run(PRODUCTS)
    names = {
        ("NCFAST_CPU_PRODUCTS", "mm"): "torch.mm |",
        ("NCFAST_CPU_PRODUCTS", "onednn"): "oneDNN |",
        ("NCFAST_CPU_BFLOAT16", "widened"): "| widened to float32",
        ("NCFAST_CPU_BFLOAT16", "pairs"): "| as it is, with AVX512_BF16",
        ("NCFAST_CPU_BFLOAT16", "mkl"): "| as it is, by MKL",
    }
    for (variable, value), name in names.items():
        first, *rest = run(PRODUCTS, **{variable: value}).splitlines()
        if first != f"{variable} is '{value}'; this CPU or this torch has no such products":
            assert name in first
            assert rest == usual.splitlines()[1:]


PORTABLE = """
import sys, pytest, ncfast
arguments = ["-x", "-p", "no:cacheprovider", "-m", "not slow", "-k", sys.argv[1]]
code = pytest.main([*arguments, "tests/ops"])
print("CAPABILITY", ncfast.native.describe()["capability"])
sys.exit(code)
"""


@pytest.mark.slow
def test_the_ops_pass_on_the_portable_library():
    if native._library_path("portable") not in BUILT:
        pytest.skip(f"the portable library is not built: {native.describe()['reason']}")
    # What runs in C++, once in every dtype; registration is the same Python on both.
    selection = "cpu and not (opcheck or gradcheck or layout) or thread_count"
    env = {k: v for k, v in os.environ.items() if not k.startswith("NCFAST_")}
    # Memory comes filled with 3e38: most of what reads scratch before it is written shows.
    settings = {"NCFAST_CPU_CAPABILITY": "portable", "MALLOC_PERTURB_": "128"}
    result = subprocess.run(
        [sys.executable, "-c", PORTABLE, selection],
        env=env | settings,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-4000:]
    assert "CAPABILITY portable" in result.stdout


@pytest.mark.parametrize("told", ["bf16", "tf32", "ieee", "none"])
def test_products_keep_float32_s_digits_whatever_torch_was_told(told, monkeypatch):
    """Only CPUs with AMX follow set_float32_matmul_precision: the setting itself is watched."""
    matmul, seen = torch.backends.mkldnn.matmul, []
    before = matmul.fp32_precision

    def called(*args):
        seen.append(matmul.fp32_precision)
        if len(seen) == 1:  # one call within another, as of two threads
            native._call_cpu("an_op")
            assert matmul.fp32_precision not in ("bf16", "tf32")

    monkeypatch.setattr(native.torch.ops, "ncfast_native", SimpleNamespace(an_op=called))
    try:
        matmul.fp32_precision = told
        native._call_cpu("an_op")
        assert matmul.fp32_precision == told
    finally:
        matmul.fp32_precision = before
    assert seen == [told if told in ("ieee", "none") else "ieee"] * 2

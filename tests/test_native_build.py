"""Building the library: what a build leaves, and what a failed one says."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ncfast import native
from tests.test_native import BUILT, ROOT


def test_the_note_names_the_torch_it_was_built_with():
    note = (native._FOLDER / "build.txt").read_text(encoding="utf-8")
    assert re.match(r"built with torch \d+\.\d+", note)


def build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run setup.py's build_ext into a folder."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed: pip builds with one of its own")
    env = {k: v for k, v in os.environ.items() if not k.startswith("NCFAST_")} | environment
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    folders = ["--build-lib", str(folder / "lib"), "--build-temp", str(folder / "temp")]
    return subprocess.run([*command, *folders], env=env, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"CXX": "no-such-compiler"}, "no C++ compiler: 'no-such-compiler' was not found"),
        ({"CXX": "false"}, "compiling failed"),
        ({"NCFAST_BUILD_NATIVE": "0"}, "NCFAST_BUILD_NATIVE was 0"),
    ],
)
def test_a_build_that_cannot_be_installs_a_note(tmp_path, environment, reason):
    result = build(tmp_path, **environment)
    assert result.returncode == 0, result.stderr
    assert f"installing without the C++ library: {reason}" in result.stderr
    files = [p for p in (tmp_path / "lib").rglob("*") if p.is_file()]
    assert [p.name for p in files] == ["build.txt"]
    assert reason in files[0].read_text(encoding="utf-8")


def test_a_build_that_must_be_fails(tmp_path):
    result = build(tmp_path, CXX="no-such-compiler", NCFAST_BUILD_NATIVE="1")
    assert result.returncode != 0
    assert "ncfast: no C++ compiler: 'no-such-compiler' was not found" in result.stderr
    assert not list((tmp_path / "lib").rglob("*.so"))


def tool(name: str, *arguments: str) -> str:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed (binutils)")
    return subprocess.run([name, *arguments], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("path", BUILT, ids=lambda p: p.stem)
def test_only_the_stable_abi_is_asked_of_torch(path):
    """No C++ symbol of torch, which would tie the library to one version of it."""
    symbols = [line.split()[-1] for line in tool("nm", "-D", "--undefined-only", path).splitlines()]
    # Versioned ones are libc's and libstdc++'s, and so is all of namespace std.
    own = [s for s in symbols if "@" not in s and not re.match(r"_ZN?[KRO]*S", s)]
    # Weak: the toolchain's, and C functions of MKL where torch has MKL (csrc/common/blas.h,
    # bfloat16_products.h).
    weak = {
        "_ITM_deregisterTMCloneTable",
        "_ITM_registerTMCloneTable",
        "__gmon_start__",
        "__cxa_finalize",
        "MKL_Set_Num_Threads_Local",
        "cblas_gemm_bf16bf16f32",
    }
    stable = [s for s in own if s.startswith(("aoti_torch_", "torch_"))]
    assert len(stable) > 10
    assert set(own) - set(stable) <= weak


@pytest.mark.parametrize("path", BUILT, ids=lambda p: p.stem)
def test_little_is_exported(path):
    """Templates of the standard library may be; names of ours would clash between capabilities."""
    lines = tool("nm", "-D", "--defined-only", path).splitlines()
    strong = [line.split()[-1] for line in lines if line.split()[-2] == "T"]
    assert strong == ["ncfast_build", "ncfast_head_workspace", "ncfast_products"]


@pytest.mark.parametrize("path", BUILT, ids=lambda p: p.stem)
def test_the_portable_library_needs_no_avx(path):
    if "elf64-x86-64" not in tool("objdump", "-f", path):
        pytest.skip("AVX is of x86-64")
    wide = re.search(r"%[yz]mm", tool("objdump", "-d", path))
    assert bool(wide) == ("avx2" in path.name)

"""Fixtures of all tests: a tiny model and text, and the libraries that tests build."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.tiny import write_model, write_text

ROOT = Path(__file__).parent.parent
os.environ.setdefault("NCFAST_FILL_SCRATCH", "1")  # with NaN, in C++: parallel.h


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the folder of a random "masked", "causal" or "encoder" model."""
    pytest.importorskip("transformers")
    root, made = tmp_path_factory.mktemp("models"), {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = write_model(root / f"tiny-{kind}", kind)
        return made[kind]

    return folder


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a text of 600 lines whose words are as unequally frequent as in real text."""
    return write_text(tmp_path_factory.mktemp("text") / "tiny.txt")


@pytest.fixture(scope="session")
def cuda_host() -> Path:
    """Build the CUDA kernels on the host emulator, or find them built, and load them.

    ``NCFAST_TEST_EMULATOR=small`` or ``races`` takes that build of csrc/build_cuda.py instead.
    """
    from ncfast import native_cuda

    kind = os.environ.get("NCFAST_TEST_EMULATOR", "")
    path = _built_by("host", f"libncfast_cuda_host{kind}", *([f"--{kind}"] if kind else []))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NCFAST_CUDA_HOST_LIBRARY", str(path))
        native_cuda._load.cache_clear()
        assert native_cuda._load("cuda-host") == ""
        yield path
    native_cuda._load.cache_clear()


def _build_cuda() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_cuda", ROOT / "csrc/build_cuda.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _built_by(kind: str, name: str, *options: str) -> Path:
    """Return a library that csrc/build_cuda.py builds, from build/ if its sources are the same."""
    building = _build_cuda()
    path = ROOT / "build" / f"{name}-{building.sources_hash()}.so"
    with building.object_cache.locked(path.with_suffix(".lock")):  # of two workers one builds
        if not path.exists():
            command = [sys.executable, str(ROOT / "csrc/build_cuda.py"), kind, str(path), *options]
            result = subprocess.run(command, capture_output=True, text=True)
            assert result.returncode == 0, result.stderr[-4000:]
    return path


@pytest.fixture(scope="session")
def cuda_library() -> Path:
    """Build the library for GPUs, or find it built; skip where there is no nvcc.

    Without PTX, a seventh of the compiling: only drivers of later cards read it.
    """
    if _build_cuda().find_nvcc() is None:
        pytest.skip("no nvcc: pip install 'ncfast[cuda-build]' or set CUDA_HOME")
    return _built_by("device", "libncfast_cuda", "--no-ptx")


@pytest.fixture(scope="session")
def cuda_host_sanitized() -> Path:
    """Build the host emulator's library under AddressSanitizer and UBSan, or find it built."""
    return _built_by("host", "libncfast_cuda_host_sanitized", "--sanitize")

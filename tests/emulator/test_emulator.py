"""The host emulator: faults that are planted in kernels must be caught, and sound kernels pass."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
SOURCES = [Path(__file__).parent / "kernels.cu", *sorted(ROOT.glob("csrc/testing/*.cpp"))]
SCHEDULES = ("forward", "reverse", "random:1", "random:2")
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g1"]


def build(*options: str) -> Path:
    """Compile the kernels of this folder on the emulator, or find them compiled."""
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    folders = (Path(__file__).parent, ROOT / "csrc/testing", ROOT / "csrc/cuda")
    digest = hashlib.sha256(repr(options).encode())
    for path in sorted(p for folder in folders for p in folder.glob("*.*")):
        digest.update(path.read_bytes())
    library = ROOT / "build" / f"libemulator_test-{digest.hexdigest()[:16]}.so"
    if not library.exists():
        library.parent.mkdir(exist_ok=True)
        new = library.with_suffix(f".{os.getpid()}.new")
        flags = ["-std=c++20", "-O1", "-fPIC", "-shared", "-DNCFAST_EMULATOR", *options]
        command = ["c++", *flags, "-x", "c++", *map(str, SOURCES), "-o", str(new)]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-4000:]
        new.replace(library)
    return library


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    """Return the kernels, to call with NumPy arrays and integers."""
    return ctypes.CDLL(str(build()))


def run(library: ctypes.CDLL, name: str, *arguments: np.ndarray | int) -> str:
    """Launch a kernel; return what the emulator has to say."""
    function = getattr(library, f"run_{name}")
    function.restype = ctypes.c_char_p
    pointers = [
        a.ctypes.data_as(ctypes.c_void_p) if isinstance(a, np.ndarray) else a for a in arguments
    ]
    return function(*pointers).decode()


def outcomes(library, monkeypatch, name, size, *arguments) -> dict[str, np.ndarray]:
    """Return what a kernel computes under every schedule."""
    results = {}
    for schedule in SCHEDULES:
        monkeypatch.setenv("NCFAST_EMULATOR_SCHEDULE", schedule)
        out = np.full(size, np.nan, np.float32)
        assert run(library, name, arguments[0], arguments[1], out, *arguments[2:]) == ""
        results[schedule] = out
    return results


def test_a_missing_barrier_changes_the_answer(library, monkeypatch):
    values = np.arange(1, 257, dtype=np.float32)
    sound = outcomes(library, monkeypatch, "tree_sum", 1, 1, values)
    assert all(out[0] == values.sum() for out in sound.values())
    planted = outcomes(library, monkeypatch, "tree_sum", 1, 0, values)
    assert any(out[0] != values.sum() for out in planted.values())


def test_a_greedy_warp_shows_a_missing_trailing_barrier(library, monkeypatch):
    values = np.random.default_rng(0).integers(0, 9, 64 * 5).astype(np.float32)
    shifted = np.stack([np.roll(values.reshape(5, 64), -i, axis=1) for i in range(64)])
    expected = (shifted * np.arange(64)[:, None, None]).sum((0, 1))
    sound = outcomes(library, monkeypatch, "rotate", 64, 1, values, 5)
    assert all(np.array_equal(out, expected) for out in sound.values())
    planted = outcomes(library, monkeypatch, "rotate", 64, 0, values, 5)
    wrong = {name for name, out in planted.items() if not np.array_equal(out, expected)}
    assert wrong >= {"random:1", "random:2"}  # here every greedy one, elsewhere perhaps one only


def test_a_missing_wait_for_an_asynchronous_copy(library, monkeypatch):
    values = np.arange(128, dtype=np.float32)
    moved = np.roll(values.reshape(32, 4), -1, axis=0)
    expected = moved[:, 0] + moved[:, 3]
    for landing in ("late", "early", "mixed"):
        monkeypatch.setenv("NCFAST_EMULATOR_COPIES", landing)
        for sound in (1, 0):
            out = np.zeros(32, np.float32)
            assert run(library, "copy_through", sound, values, out) == ""
            right = np.array_equal(out, expected)
            assert right == (bool(sound) or landing == "early")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("which", "message"),
    [
        (0, "left the kernel"),
        (1, "divergence: threads of one block meet in __syncthreads at .*kernels.cu:"),
        (2, r"deadlock: 32 threads wait for ever, .* in (__syncthreads at .*kernels.cu:|__shfl)"),
        (3, "divergence: lanes of one mask meet in"),
        (4, r"__shfl_xor_sync: the mask names a lane that does not exist or has left|deadlock: 31"),
    ],
)
def test_divergence_is_reported_and_never_hangs(library, monkeypatch, schedule, which, message):
    monkeypatch.setenv("NCFAST_EMULATOR_SCHEDULE", schedule)
    error = run(library, "divergent", which, np.zeros(64, np.int32))
    assert error.startswith("emulator: block (0, 0, 0): ")
    assert re.search(message, error), error
    # The next launch is not disturbed.
    assert run(library, "primitives", np.zeros(96 * 8, np.int32)) == ""


def test_what_is_written_beyond_shared_memory_is_reported(library):
    assert run(library, "write_past_shared", 0) == ""
    for past in (1, 100):
        error = run(library, "write_past_shared", past)
        assert "a thread has written beyond the 128 bytes of shared memory" in error
    assert run(library, "write_past_shared", 0) == ""


def test_shared_memory_starts_poisoned(library):
    out = np.zeros(32, np.float32)
    assert run(library, "unpoisoned", out) == ""
    assert np.isnan(out).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_primitives(library, monkeypatch, schedule):
    monkeypatch.setenv("NCFAST_EMULATOR_SCHEDULE", schedule)
    out = np.full((96, 8), -1, np.int32)
    assert run(library, "primitives", out) == ""
    thread, lane = np.arange(96), np.arange(96) % 32
    ballot = sum(1 << i for i in range(0, 32, 3))
    expected = [
        thread // 32 * 32 + 5,
        lane ^ 3,
        np.where(lane >= 2, lane - 2, lane),
        np.where(lane % 8 < 6, lane + 2, lane),
        np.full(96, np.uint32(ballot).astype(np.int32)),
        np.full(96, 20),
        np.full(96, 2),
        lane // 8 * 8 + 1,
    ]
    assert np.array_equal(out, np.stack(expected, 1))


WIDTHS = pytest.mark.parametrize(("kind", "depth"), [("bfloat16", 16), ("half", 16), ("tf32", 8)])


@WIDTHS
def test_tensor_cores_multiply_by_the_layouts_of_the_manual(library, kind, depth):
    generator = np.random.default_rng(1)
    a = generator.integers(-8, 9, (16, depth)).astype(np.float32)
    b = generator.integers(-8, 9, (depth, 8)).astype(np.float32)
    assert np.array_equal(multiplied(library, kind, a, b), a @ b)


@WIDTHS
def test_tensor_cores_drop_what_does_not_fit(library, kind, depth):
    a, b = np.zeros((16, depth), np.float32), np.zeros((depth, 8), np.float32)
    a[:, 0], a[:, 1], b[0], b[1] = 1, 3 * 2.0**-13, 1, 2.0**-12
    a[8:] *= -1
    expected = np.repeat(np.float32([1, -1]), 8)[:, None].repeat(8, 1)
    # Three quarters of the last place of 1: to nearest it would be one more.
    assert np.array_equal(np.float32(1 + 3 * 2.0**-25), np.nextafter(np.float32(1), np.float32(2)))
    assert np.array_equal(multiplied(library, kind, a, b), expected)


def multiplied(library: ctypes.CDLL, kind: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a @ b as one mma.sync of a warp finds it, by the layouts of the PTX manual."""

    def bits(value: np.ndarray) -> np.ndarray:
        if kind == "half":
            return value.astype(np.float16).view(np.uint16).astype(np.uint32)
        whole = value.view(np.uint32)
        return whole >> 16 if kind == "bfloat16" else whole

    lane = np.arange(32)
    group, within = lane // 4, lane % 4
    if kind == "tf32":
        left = [bits(a)[group + i % 2 * 8, within + i // 2 * 4] for i in range(4)]
        right = [bits(b)[within + i * 4, group] for i in range(2)]
    else:
        pairs = [(group + i % 2 * 8, within * 2 + i // 2 * 8) for i in range(4)]
        left = [bits(a)[r, k] | bits(a)[r, k + 1] << 16 for r, k in pairs]
        right = [
            bits(b)[k, group] | bits(b)[k + 1, group] << 16 for k in (within * 2, within * 2 + 8)
        ]
    out = np.full((32, 4), np.nan, np.float32)
    number = ("bfloat16", "half", "tf32").index(kind)
    packed = [np.ascontiguousarray(np.stack(side, 1), np.uint32) for side in (left, right)]
    assert run(library, "product", *packed, out, number) == ""
    c = np.full((16, 8), np.nan, np.float32)
    for i in range(4):
        c[group + i // 2 * 8, within * 2 + i % 2] = out[:, i]
    return c


@pytest.mark.parametrize(("threads", "shared"), [(1025, 0), (0, 0), (32, 300 * 1024)])
def test_a_launch_no_gpu_would_take(library, threads, shared):
    assert "emulator: a launch of 1 blocks of" in run(library, "too_large", threads, shared)


def test_an_unknown_schedule_is_an_error(library, monkeypatch):
    monkeypatch.setenv("NCFAST_EMULATOR_SCHEDULE", "sideways")
    assert "is 'sideways'; expected forward" in run(library, "primitives", np.zeros(768, np.int32))


# -- under sanitizers, in a process of their own

SANITIZED = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
buffer = lambda size: ctypes.c_void_p(libc.malloc(size))
kernel, past = sys.argv[2], int(sys.argv[3])
getattr(library, "run_" + kernel).restype = ctypes.c_char_p
values, out = buffer(128), buffer(128)
ctypes.memset(values, 0, 128)
if kernel == "read_past_the_end":
    print("SAID", library.run_read_past_the_end(values, out, 32, past))
elif kernel == "read_past_shared":
    print("SAID", library.run_read_past_shared(out, past))
else:
    print("SAID", library.run_primitives(buffer(96 * 8 * 4)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "past", "caught"),
    [
        ("read_past_the_end", 0, False),
        ("read_past_the_end", 1, True),
        ("read_past_shared", 0, False),
        ("read_past_shared", 1, True),
        ("primitives", 0, False),
    ],
)
def test_address_sanitizer_sees_reads_past_the_end(kernel, past, caught):
    path = build(*SANITIZE)
    names = ("libasan.so", "libstdc++.so")
    found = [
        subprocess.run(["c++", f"-print-file-name={name}"], capture_output=True, text=True)
        for name in names
    ]
    environment = os.environ | {
        "LD_PRELOAD": " ".join(f.stdout.strip() for f in found),
        "ASAN_OPTIONS": "detect_leaks=0",
    }
    result = subprocess.run(
        [sys.executable, "-c", SANITIZED, str(path), kernel, str(past)],
        env=environment,
        capture_output=True,
        text=True,
    )
    if caught:
        assert result.returncode != 0
        assert "heap-buffer-overflow" in result.stderr
        assert "kernels.cu:" in result.stderr
    else:
        assert result.returncode == 0, result.stderr[-3000:]
        assert "SAID b''" in result.stdout

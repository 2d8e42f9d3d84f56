"""The race detector: every planted race is named, under every schedule; its sound twin is not."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
KERNELS = Path(__file__).parent / "races.cu"
SCHEDULES = ("forward", "reverse", "random:1", "random:2")
PLACE = r"tests/emulator/races.cu:\d+ by thread \d+ of block \d"
# Which of the two comes first is the schedule's choice.
TWO = rf"was (written|read) at {PLACE} and is (written|read) at {PLACE}"
NO_BARRIER = rf"byte \d+ of shared memory {TWO}; no barrier"
NAMED = {
    "read_without_a_barrier": NO_BARRIER,
    "write_while_others_read": NO_BARRIER,
    "lanes_without_a_sync": NO_BARRIER,
    "warps_with_a_warp_sync": NO_BARRIER,
    "half_a_warp": NO_BARRIER,
    "lanes_with_a_shuffle": NO_BARRIER,
    "copy_without_its_wait": rf"being written by cp.async, issued at {PLACE} .*before its wait",
    "copy_while_others_read": rf"(read|issued) at {PLACE} and is (read|being written by cp.async)",
    "read_what_nobody_wrote": rf"byte 252 of shared memory is read at {PLACE} and nobody wrote it",
    "bins_without_atomics": NO_BARRIER,
    "atomics_while_others_clear": rf"(atomic|writ).* at {PLACE} and is (updated|writ)",
    "threads_of_a_block": rf"global memory {TWO}; no barrier",
    "blocks_that_write_the_same": rf"was written at {PLACE} and is written .*nothing orders two bl",
    "block_that_reads_another": r"global memory .*nothing orders two blocks of a launch",
    "atomics_beside_a_plain_write": r"updated atomically at .*nothing orders two blocks",
}


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    """Compile the kernels of races.cu with hooks, and the emulator without, or find them so."""
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    sources = [KERNELS, *sorted(ROOT.glob("csrc/testing/*.cpp"))]
    digest = hashlib.sha256()
    for path in sorted([KERNELS, *ROOT.glob("csrc/testing/*.*"), *ROOT.glob("csrc/cuda/*.*h")]):
        digest.update(path.read_bytes())
    library = ROOT / "build" / f"libemulator_races-{digest.hexdigest()[:16]}.so"
    if not library.exists():
        library.parent.mkdir(exist_ok=True)
        new = library.with_suffix(f".{os.getpid()}.new")
        flags = ["-std=c++20", "-O1", "-g1", "-fPIC", "-DNCFAST_EMULATOR", "-DNCFAST_RACES"]
        objects = [new.with_suffix(f".{i}.o") for i in range(len(sources))]
        for source, made in zip(sources, objects, strict=True):
            watched = ["-fsanitize=thread"] if source == KERNELS else []
            command = ["c++", *flags, *watched, "-x", "c++", "-c", str(source), "-o", str(made)]
            subprocess.run(command, check=True)
        subprocess.run(["c++", "-shared", *map(str, objects), "-o", str(new)], check=True)
        for made in objects:
            made.unlink()
        new.replace(library)
    return ctypes.CDLL(str(library))


def run(library: ctypes.CDLL, name: str, sound: bool) -> str:
    """Launch one of the twins; return what the emulator has to say."""
    library.run_race.restype = ctypes.c_char_p
    values, out = np.ones(64, np.int32), np.zeros(64, np.int32)
    pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (values, out)]
    return library.run_race(name.encode(), int(sound), *pointers).decode()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", NAMED)
def test_a_race_is_named_and_its_sound_twin_is_not(library, monkeypatch, name, schedule):
    monkeypatch.setenv("NCFAST_EMULATOR_SCHEDULE", schedule)
    assert run(library, name, sound=True) == ""
    said = run(library, name, sound=False)
    assert f" in {name}<false>: " in said
    assert re.search(NAMED[name], said), said

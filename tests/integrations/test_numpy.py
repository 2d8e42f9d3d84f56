"""Features in NumPy files: the same statistics, no copies, the memory of one part, refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import ncfast
from ncfast.bench.memory import method
from ncfast.integrations.numpy import statistics_of_files

ROOT = Path(__file__).parents[2]
N, D, V = 101, 5, 7


@pytest.fixture
def files(tmp_path):
    """Return features, labels, and the files they are in."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((N, D)).astype("float32")
    y = generator.integers(0, V, N)
    y[::9] = -100
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    return x, y, tmp_path / "x.npy", tmp_path / "y.npy"


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("rows", [1, 13, N, 1000])
def test_equals_updates_with_the_same_parts(files, dtype, rows):
    x, y, x_path, y_path = files
    x = x.astype(dtype)
    np.save(x_path, x)
    found = statistics_of_files(x_path, str(y_path), V, part_bytes=rows * D * x.itemsize)
    kind = torch.float64 if dtype == "float64" else torch.float32
    wanted = ncfast.ClassStatistics(V, D, dtype=kind)
    for begin in range(0, N, rows):
        part = slice(begin, begin + rows)
        wanted.update(torch.from_numpy(x[part]), torch.from_numpy(y[part]))
    assert found.dtype == kind
    assert torch.equal(found.counts, wanted.counts)
    assert torch.equal(found.means, wanted.means)
    assert torch.equal(found.m2, wanted.m2)
    assert torch.equal(found.scatter["all"], wanted.scatter["all"])
    assert (found.tokens, found.ignored) == (wanted.tokens, wanted.ignored)


def test_parts_are_the_file_itself_and_outlive_the_call(files, monkeypatch):
    x, y, x_path, y_path = files
    parts = []
    monkeypatch.setattr(
        ncfast.ClassStatistics, "update", lambda self, *tensors: parts.append(tensors)
    )
    statistics_of_files(x_path, y_path, V, part_bytes=10 * D * 4)
    assert [len(part) for part, _ in parts] == [10] * 10 + [1]
    for i, tensors in enumerate(parts):
        for tensor, first in zip(tensors, parts[0], strict=True):
            row = tensor.stride(0) * tensor.element_size()
            assert tensor.data_ptr() == first.data_ptr() + 10 * i * row
    assert np.array_equal(torch.cat([part for part, _ in parts]).numpy(), x)
    assert np.array_equal(torch.cat([labels for _, labels in parts]).numpy(), y)


def test_settings_and_no_rows(files):
    *_, x_path, y_path = files
    found = statistics_of_files(x_path, y_path, V, classes=[2, 4], scatter=False)
    assert (found.counts.numel(), found.scatter) == (2, {})
    np.save(x_path, np.zeros((0, D), "float32"))
    np.save(y_path, np.zeros(0, "int64"))
    assert statistics_of_files(x_path, y_path, V).tokens == 0


METER = """
import sys, numpy, torch
from ncfast.bench.memory import peak_extra_bytes
from ncfast.integrations.numpy import statistics_of_files
torch.set_num_threads(1)
folder, rows, width = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for part in map(int, sys.argv[4:]):
    call = lambda: statistics_of_files(folder + "/x.npy", folder + "/y.npy", 9, part_bytes=part)
    call()
    print(peak_extra_bytes(call))
"""


def test_memory_is_that_of_a_part(tmp_path):
    if method() != "VmHWM":
        pytest.skip("this system does not let a process reset its peak of memory")
    rows, width, part = 1 << 19, 64, 4 << 20
    size = rows * width * 4  # 128 MiB of zeros, which take no room on the disk
    whole = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", "float32", (rows, width))
    np.save(tmp_path / "y.npy", np.arange(rows) % 9)
    del whole
    command = [sys.executable, "-c", METER, str(tmp_path), *map(str, (rows, width, part, size))]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    by_parts, at_once = map(int, out.stdout.split())
    # A part of features, one of labels, and what the op works in.
    assert by_parts < 2 * part + (8 << 20)
    assert at_once > size


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (np.zeros((3, 2), "int32"), [0] * 3, TypeError, r"features .*x.npy: holds <i4"),
        (np.zeros((3, 2), ">f4"), [0] * 3, TypeError, "holds >f4"),
        (np.zeros(3, "float32"), [0] * 3, ValueError, r"features .*: is \[3\]; expected \[N, D\]"),
        (np.zeros((3, 0), "float32"), [0] * 3, ValueError, r"is \[3, 0\]"),
        (np.zeros((3, 2), "float32", order="F"), [0] * 3, ValueError, "Fortran order"),
        (np.zeros((3, 2), "float32"), np.zeros(3, "float64"), TypeError, "labels .*: holds <f8"),
        (np.zeros((3, 2), "float32"), np.zeros(3, "uint64"), TypeError, "labels .*: holds <u8"),
        (np.zeros((3, 2), "float32"), np.zeros((3, 1), "int64"), ValueError, r"expected \[N\]"),
        (np.zeros((3, 2), "float32"), [0] * 4, ValueError, r"are \[4\] and features .*\[3, 2\]"),
        (np.zeros((3, 2), "float32"), [0, 1, V], ncfast.DataError, r"rows \[2, 3\) .*y\[0\] is 7"),
        (np.array([[0, 1], [np.nan, 1]], "float32"), [0, 1], ncfast.DataError, r"rows \[1, 2\)"),
        (np.array([[{}]]), [0], ncfast.DataError, "no .npy file of numbers"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(tmp_path, x, y, error, message):
    np.save(tmp_path / "x.npy", x, allow_pickle=True)
    np.save(tmp_path / "y.npy", np.asarray(y))
    with pytest.raises(error, match=message):
        statistics_of_files(tmp_path / "x.npy", tmp_path / "y.npy", V, part_bytes=8)


@pytest.mark.parametrize("dtype", ["int32", "int16", "int8", "uint32", "uint16", "uint8"])
def test_labels_of_other_integers_are_the_same_classes(files, dtype):
    *_, x_path, y_path = files
    y = np.where(np.load(y_path) < 0, V - 1, np.load(y_path))
    if not dtype.startswith("u"):
        y[3] = -100
    np.save(y_path, y)
    expected = statistics_of_files(x_path, y_path, V)
    np.save(y_path, y.astype(dtype))
    found = statistics_of_files(x_path, y_path, V)
    assert torch.equal(found.counts, expected.counts)
    assert torch.equal(found.means, expected.means)
    assert found.ignored == expected.ignored == (0 if dtype.startswith("u") else 1)


def test_what_is_no_npy_file_is_told_how_to_become_one(files):
    *_, x_path, y_path = files
    table = x_path.with_suffix(".csv")
    table.write_text("1.0,2.0\n3.0,4.0\n")
    with pytest.raises(ncfast.DataError, match=r"x.csv: is no .npy file; numpy.save writes one"):
        statistics_of_files(table, y_path, V)
    with pytest.raises(TypeError, match=r"features is a ndarray; expected the path .*update"):
        statistics_of_files(np.zeros((3, 2)), y_path, V)


def test_damaged_and_missing_files_are_refused(files):
    *_, x_path, y_path = files
    x_path.write_bytes(x_path.read_bytes()[:-1])
    with pytest.raises(ncfast.DataError, match=r"x.npy: no .npy file of numbers"):
        statistics_of_files(x_path, y_path, V)
    np.savez(x_path.with_suffix(".npz"), np.zeros((N, D)))
    with pytest.raises(ncfast.DataError, match="an archive"):
        statistics_of_files(x_path.with_suffix(".npz"), y_path, V)
    with pytest.raises(FileNotFoundError, match=r"nowhere.npy"):
        statistics_of_files("nowhere.npy", y_path, V)


def test_the_mapping_itself_checks_the_file(files):
    from ncfast._native.streaming import stream

    *_, x_path, y_path = files
    kinds = np.dtype("float32"), np.dtype("int64")
    with pytest.raises(ValueError, match=r"x.npy holds \d+ bytes; expected"):
        stream(str(x_path), kinds[0], 128, N + 1, D, str(y_path), kinds[1], 128, 9, print)
    with pytest.raises(FileNotFoundError):
        stream("nowhere", kinds[0], 128, N, D, str(y_path), kinds[1], 128, 9, print)

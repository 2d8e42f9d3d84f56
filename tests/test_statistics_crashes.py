"""Statistics in files: whole after forks, interrupts, full disks and kills at any moment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ncfast import ClassStatistics, DataError, durable_file
from ncfast.statistics import storage
from tests.test_statistics_storage import D, V, assert_same, batches, fill, full_disk


def test_a_fork_changes_nothing_of_its_parent(tmp_path):
    stats = fill(ClassStatistics(V, D, storage=tmp_path / "a"), 2)
    stats.commit()
    expected = fill(ClassStatistics(V, D), 2)
    child = os.fork()
    if not child:
        try:
            fill(stats, 1, seed=1)
        except ValueError as error:
            os._exit(7 if "was opened by process" in str(error) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert_same(stats, expected)


def test_an_interrupt_within_a_record_of_the_journal_is_no_damage(tmp_path, monkeypatch):
    stats = fill(ClassStatistics(V, D, storage=tmp_path / "a"), 2)
    stats.commit()
    expected = fill(ClassStatistics(V, D), 2)
    x = torch.ones(1, D)
    stats.update(x, torch.tensor([0]))
    write = storage._write

    def interrupted(journal, record):
        write(journal, record[: len(record) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(storage, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stats.update(x, torch.tensor([1]))
    stats.update(x, torch.tensor([2]))
    del stats  # dies without a commit
    assert_same(ClassStatistics.load(tmp_path / "a"), expected)


def test_a_commit_that_fails_once_its_file_has_its_name_is_done_again(tmp_path, monkeypatch):
    stats = fill(ClassStatistics(V, D, storage=tmp_path / "a"), 2)
    expected = fill(ClassStatistics(V, D), 2)
    sync = durable_file.sync

    def fails(path):
        if os.path.isdir(path):
            raise OSError("I/O error")
        sync(path)

    with monkeypatch.context() as patched:
        patched.setattr(durable_file, "sync", fails)
        with pytest.raises(OSError, match="I/O error"):
            stats.commit()
    with pytest.raises(DataError, match="expected another commit, or the folder"):
        fill(stats, 1, seed=1)
    assert_same(stats, expected)
    stats.commit()
    fill(stats, 1, seed=1)
    del stats  # dies without a commit
    assert_same(ClassStatistics.load(tmp_path / "a"), expected)


@pytest.mark.parametrize("place", ["_write", "sync"])
def test_a_full_disk_leaves_state_and_commit(place, tmp_path, monkeypatch):
    stats = fill(ClassStatistics(V, D, storage=tmp_path / "a"), 1)
    stats.commit()
    expected = stats.to("cpu")
    x, y = next(batches(1, seed=4))
    with monkeypatch.context() as patched:
        patched.setattr(storage if place == "_write" else durable_file, place, full_disk)
        with pytest.raises(OSError, match="full"):
            stats.update(x, y)
        assert_same(stats, expected)
    stats.update(x, y)
    with monkeypatch.context() as patched:
        patched.setattr(durable_file, "sync", full_disk)
        with pytest.raises(OSError, match="full"):
            stats.commit()
    del stats
    stats = ClassStatistics.load(tmp_path / "a")
    assert_same(stats, expected)
    expected.update(x, y)
    stats.update(x, y)
    stats.commit()
    del stats
    assert_same(ClassStatistics.load(tmp_path / "a"), expected)


def test_the_disk_has_old_rows_before_new_and_new_rows_before_the_commit(tmp_path, monkeypatch):
    """What a power cut asks for: the order in which things are put on the disk."""
    stats = fill(ClassStatistics(V, D, storage=tmp_path / "a"), 1)
    stats.commit()
    rows, put = (tmp_path / "a" / "means").read_bytes(), []
    sync = durable_file.sync

    def noted(path):
        put.append(Path(path).name)
        if put[-1] == "journal":
            assert (tmp_path / "a" / "means").read_bytes() == rows
        sync(path)

    monkeypatch.setattr(durable_file, "sync", noted)
    fill(stats, 1, seed=1)
    assert put == ["journal"]
    assert (tmp_path / "a" / "means").read_bytes() != rows
    fill(stats, 1, seed=1)
    assert put.count("journal") <= 2
    put.clear()
    stats.commit()
    assert put[0] == "means"
    assert put[1:] == ["state.safetensors", "a"]


def test_a_kill_at_any_moment_leaves_a_commit(tmp_path):
    """At random moments, and at every write and sync there is."""
    script = Path(__file__).with_name("killed_storage.py")
    found = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "commits" in found.stdout

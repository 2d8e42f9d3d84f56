"""Statistics whose rows live in files: what memory would hold, and damage that is seen."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from ncfast import ClassStatistics, DataError, neural_collapse
from ncfast.statistics import storage, stored

if sys.platform != "linux":
    pytest.skip("storage= is for Linux", allow_module_level=True)

V, D = 13, 5
KEPT = {
    "all": {},
    "float64": {"dtype": torch.float64},
    "axes": {"diagonal": True},
    "some": {"classes": [1, 4, 7, 9], "scatter": {"all": None, "two": [4, 7]}, "diagonal": True},
}
ROWS = ("means", "diagonal_m2")


def batches(count: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        y = torch.randint(-1, V, (17,), generator=generator)
        yield torch.randn(17, D, generator=generator), torch.where(y < 0, -100, y)


def fill(stats: ClassStatistics, count: int, seed: int = 0) -> ClassStatistics:
    for x, y in batches(count, seed):
        stats.update(x, y)
    return stats


def assert_same(found: ClassStatistics, expected: ClassStatistics) -> None:
    """To the bit."""
    for name, tensor in expected._tensors().items():
        assert torch.equal(found._tensors()[name], tensor), name
    assert found.feature_roundoff == expected.feature_roundoff
    assert found._configuration() == expected._configuration()


def damaged(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1 << (position % 8)
    path.write_bytes(content)


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("held", [1 << 30, 1])
def test_it_is_what_memory_holds_to_the_bit(kept, held, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_HELD_BYTES", held)
    monkeypatch.setattr(storage, "_PART_BYTES", 3 * D * 4)
    own = ClassStatistics(V, D, **KEPT[kept])
    kept_in_files = ClassStatistics(V, D, **KEPT[kept], storage=tmp_path / "a")
    assert_same(kept_in_files, own)
    fill(own, 3), fill(kept_in_files, 3)
    kept_in_files.commit({"text": "wiki"})
    other = fill(ClassStatistics(V, D, **KEPT[kept]), 2, seed=1)
    own.merge(other), kept_in_files.merge(other)
    assert_same(kept_in_files, own)
    other.merge(kept_in_files)
    head = torch.randn(V, D, generator=torch.Generator().manual_seed(3))
    reports = [neural_collapse(stats, head).to_dict() for stats in (own, kept_in_files)]
    assert str(reports[0]) == str(reports[1])
    kept_in_files.save(tmp_path / "copy")
    assert_same(ClassStatistics.load(tmp_path / "copy"), own)
    assert_same(kept_in_files.to("cpu"), own)
    kept_in_files.commit()
    del kept_in_files
    again = ClassStatistics.load(tmp_path / "a")
    assert_same(again, own)
    assert again.metadata == {}
    again.reset(), own.reset()
    assert_same(again, own)
    assert_same(fill(again, 1), fill(own, 1))


@pytest.mark.parametrize("kept", KEPT)
def test_what_was_not_committed_is_taken_back_and_seen_again(kept, tmp_path):
    expected = fill(ClassStatistics(V, D, **KEPT[kept]), 2)
    stats = fill(ClassStatistics(V, D, **KEPT[kept], storage=tmp_path / "a"), 2)
    stats.commit({"text": "wiki"})
    fill(stats, 2, seed=1)
    stats.merge(fill(ClassStatistics(V, D, **KEPT[kept]), 1, seed=2))
    stats.reset()
    fill(stats, 1, seed=5)
    del stats
    for _ in range(2):  # what is taken back stays so, without a commit
        stats = ClassStatistics.load(tmp_path / "a")
        assert_same(stats, expected)
        assert stats.metadata == {"text": "wiki"}
        del stats
    stats = fill(ClassStatistics.load(tmp_path / "a"), 2, seed=3)
    assert_same(stats, fill(expected, 2, seed=3))
    stats.commit()
    del stats
    assert_same(ClassStatistics.load(tmp_path / "a"), expected)


def test_a_refused_batch_changes_nothing(tmp_path):
    stats = fill(ClassStatistics(V, D, storage=tmp_path / "a"), 1)
    expected = stats.to("cpu")
    for x, y in ((torch.full((1, D), torch.nan), [3]), (torch.ones(1, D), [V])):
        with pytest.raises(DataError):
            stats.update(x, torch.tensor(y))
    assert_same(stats, expected)


def full_disk(*_: object) -> int:
    raise OSError("the disk is full")


@pytest.fixture
def folder(tmp_path):
    """Return the folder of a state with a commit, and a journal of changes after it."""
    stats = fill(ClassStatistics(V, D, **KEPT["axes"], storage=tmp_path / "a"), 2)
    stats.commit()
    fill(stats, 2, seed=1)
    return tmp_path / "a"


@pytest.mark.parametrize("position", [0, 9, 40, 133, 251])
@pytest.mark.parametrize("name", [*ROWS, "state.safetensors", "journal"])
def test_a_bit_turned_is_seen(name, position, folder):
    if name in ROWS:  # what the journal holds is put back, damaged or not
        ClassStatistics.load(folder).commit()
    damaged(folder / name, position)
    said = "damaged|has format|no checksum" if name == "state.safetensors" else "damaged"
    with pytest.raises(DataError, match=rf"^ClassStatistics\.load: .*/a.* ({said})"):
        ClassStatistics.load(folder)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("name", [*ROWS, "state.safetensors", "journal"])
def test_a_file_that_was_cut_or_is_gone_is_named(name, share, folder):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"^ClassStatistics\.load: .*a.* damaged"):
        ClassStatistics.load(folder)
    (folder / name).unlink()
    with pytest.raises(DataError, match=r"a( is damaged: .*No such file| is no file)"):
        ClassStatistics.load(folder)


def test_a_record_that_was_being_written_had_changed_nothing(folder, tmp_path):
    expected = fill(ClassStatistics(V, D, **KEPT["axes"]), 2)
    with open(folder / "journal", "ab") as journal:
        journal.write(storage._RECORD.pack(3, 2, 12345) + bytes(20))
    assert_same(ClassStatistics.load(folder), expected)


def test_rows_that_were_zero_cost_the_journal_their_numbers(tmp_path):
    stats = ClassStatistics(1000, 64, storage=tmp_path / "a")
    x, y = torch.ones(1000, 64), torch.arange(1000)
    stats.update(x, y)
    assert (tmp_path / "a" / "journal").stat().st_size < 9 * 1000
    del stats
    stats = ClassStatistics.load(tmp_path / "a")
    assert not stats.means.any()
    stats.update(x, y)
    stats.commit()
    stats.update(2 * x, y)
    assert (tmp_path / "a" / "journal").stat().st_size > 4 * 64 * 1000
    del stats
    assert torch.equal(ClassStatistics.load(tmp_path / "a").means, x)


def test_one_opens_a_folder_at_a_time(tmp_path):
    stats = ClassStatistics(V, D, storage=tmp_path / "a")
    with pytest.raises(DataError, match=r"/a is open in another state or process; expected one"):
        ClassStatistics.load(tmp_path / "a")
    del stats
    ClassStatistics.load(tmp_path / "a")


def test_no_row_stays_in_memory_once_all_were_changed(tmp_path, monkeypatch):
    one, two = (fill(ClassStatistics(V, D, storage=tmp_path / n), 2) for n in "ab")
    held = {id(t): True for s in (one, two) for t in s._storage.rows.values()}
    release = storage.mapped.release
    monkeypatch.setattr(storage.mapped, "release", lambda t: (release(t), held.pop(id(t), None)))
    one.merge(two)
    assert not held
    held = {id(t): True for t in one._storage.rows.values()}
    one.reset()
    assert not held


def test_what_was_committed_is_read_when_nobody_else_can_commit(tmp_path, monkeypatch):
    ClassStatistics(V, D, storage=tmp_path / "a").commit()
    read = stored.read

    def read_it(*given):
        with pytest.raises(DataError, match="is open in another state"):
            storage.locked(tmp_path / "a")
        return read(*given)

    monkeypatch.setattr(stored, "read", read_it)
    ClassStatistics.load(tmp_path / "a")


def test_what_cannot_be_is_said_before_anything_is_made(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    with pytest.raises(FileExistsError, match=r"storage='.*a' exists; expected a new folder"):
        ClassStatistics(V, D, storage=tmp_path / "a")
    with pytest.raises(ValueError, match="storage is given and device is meta; expected cpu"):
        ClassStatistics(V, D, device="meta", storage=tmp_path / "b")
    with pytest.raises(ValueError, match="lives in memory; expected one made with storage"):
        ClassStatistics(V, D).commit()
    stats = ClassStatistics(V, D, storage=tmp_path / "b")
    with pytest.raises(TypeError, match=r"commit: metadata\['a'\] is int"):
        stats.commit({"a": 1})
    del stats
    with pytest.raises(ValueError, match="is a folder, whose state lives in its files"):
        ClassStatistics.load(tmp_path / "b", "meta")
    monkeypatch.setattr(os, "posix_fallocate", full_disk)
    with pytest.raises(OSError, match="full"):
        ClassStatistics(V, D, storage=tmp_path / "c")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}

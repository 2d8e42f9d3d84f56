"""Two runs into one folder: the second is told so, before it has changed anything there."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from ncfast import durable_file
from ncfast.cli import main

CROWS = ",sent_more,sent_less,stereo_antistereo,bias_type\n0,she bant,he bant,stereo,gender\n"
SMALL = ["--quiet", "--block-size=32", "--max-tokens=1500", "--out=out"]


@contextmanager
def another_run(folder: Path):
    """Claim a folder as another process does: locks belong to the opened file."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def words(tiny_model, tiny_text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model("masked"), "model")
    shutil.copy(tiny_text, "text.txt")
    Path("crows_pairs_anonymized.csv").write_text(CROWS)
    return {
        "measure": ["model", "text.txt", "--bootstrap=0", "--controls=random:1", *SMALL],
        "finetune": ["model", "text.txt", "--steps=2", "--measure-tokens=0", *SMALL],
        "evaluate": ["model", "--on=crows-pairs", "--data=.", "--quiet", "--out=out"],
    }


@pytest.mark.parametrize("command", ["measure", "finetune", "evaluate"])
def test_the_second_run_is_told(command, words, capsys):
    assert main([command, *words[command]]) == 0
    Path("out/.report.json.partial").write_text("of the other run")
    before = contents(Path("out"))
    again = ["--force"] if command != "evaluate" else []
    with another_run(Path("out")):
        assert main([command, *words[command], *again]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "another run is writing there" in said
    assert "out" in said
    assert contents(Path("out")) == before
    assert main([command, *words[command], *again]) == 0  # nothing is held by who has ended


def test_a_folder_that_cannot_be_locked_is_not_cleared(words, monkeypatch):
    """NFS locks no folder: what another run is saving there may not be removed."""
    assert main(["measure", *words["measure"]]) == 0
    partial = Path("out/.report.json.partial-of-another")
    partial.write_text("of the other run")

    def no_locks(*given):
        raise OSError(9, "Bad file descriptor")

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", no_locks)
        assert main(["measure", *words["measure"], "--force"]) == 0
    assert partial.exists()
    assert main(["measure", *words["measure"], "--force"]) == 0
    assert not partial.exists()


def test_a_run_that_fails_holds_nothing(words):
    assert main(["measure", *words["measure"]]) == 0
    assert main(["measure", *words["measure"], "--seed=3"]) == 2  # another measurement's folder
    with another_run(Path("out")):
        pass


def test_a_child_that_lives_on_holds_nothing(tmp_path):
    """A worker that was forked shares the lock; the job's end takes it back from both."""
    heard, told = os.pipe()

    @durable_file.releases_claims
    def job() -> int:
        assert durable_file.claim(tmp_path)
        if child := os.fork():
            return child
        os.close(told)
        os.read(heard, 1)  # until the parent is done
        os._exit(0)

    child = job()
    try:
        assert durable_file.releases_claims(durable_file.claim)(tmp_path)
    finally:
        os.close(told)
        os.waitpid(child, 0)

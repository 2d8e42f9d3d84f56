"""Processes that tests fork are as those that they would start: in threads, and at their end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forked

ROOT = Path(__file__).parents[1]
COUNT = ["-c", "import torch; print(torch.get_num_threads())"]
# A test that fails before it has ended what it began; the server imports nothing for it.
LEFT_RUNNING = """
from tests import forked
forked.IMPORTED = ()
program = forked.Forked(["-c", "import time; print('on', flush=True); time.sleep(600)"])
while not program.read(0):
    assert program.poll() is None
print(program.pid)
"""


def rank_that_counts(rank: int, folder: str) -> None:
    import torch

    Path(folder, str(rank)).write_text(str(torch.get_num_threads()))


def test_what_is_left_running_ends_with_the_process_that_began_it():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", LEFT_RUNNING],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not Path("/proc", done.stdout.strip()).exists()


@pytest.mark.parametrize("threads", ["1", "2"])  # of which the server itself may have one
def test_programs_and_ranks_have_the_threads_they_are_told(threads, monkeypatch, tmp_path):
    monkeypatch.setenv(forked.THREADS, threads)
    assert forked.run(COUNT, check=True).stdout.strip() == threads
    forked.run_ranks(rank_that_counts, (str(tmp_path),))
    assert [(tmp_path / rank).read_text() for rank in "01"] == [threads, threads]


def test_without_a_number_there_are_as_many_threads_as_in_a_fresh_process():
    environment = {name: value for name, value in os.environ.items() if name != forked.THREADS}
    fresh = subprocess.run(
        [sys.executable, *COUNT], env=environment, capture_output=True, text=True, check=True
    )
    assert forked.run(COUNT, environment, check=True).stdout == fresh.stdout

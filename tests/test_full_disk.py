"""A disk that is full: one sentence, and the run goes on to the numbers of a whole one."""

from __future__ import annotations

import functools
import os
import signal
import sys
from pathlib import Path

import pytest

from ncfast.cli import main
from tests import kills
from tests.fuzzing.targets import quiet

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX resource limits")


def under_a_limit(words: list[str], limit: int, said: Path) -> int:
    """Run a command in a child whose files end at so many bytes; return its exit code."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    import resource

    code = 99
    try:
        with quiet() as (_, err), open(said, "w") as file:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            code = main(words)
            file.write(err.getvalue()[-limit + 1 :])
    finally:
        os._exit(code)


@pytest.fixture(scope="module")
def whole_of(tmp_path_factory):
    """Return a function that runs a job whole, once, and returns it and what it found."""
    root = tmp_path_factory.mktemp("disk")
    jobs = kills.jobs(root)

    @functools.cache
    def run(name):
        assert main([*jobs[name].words, "--out", str(root / name)]) == 0
        return jobs[name], jobs[name].found(root / name)

    return run


# What is cut: the journal or the first report; a checkpoint; the weights; what a cell found.
@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("evaluate", 1_000),
        ("finetune", 2_000),
        ("finetune", 20_000),
        pytest.param("experiment", 400, marks=pytest.mark.slow),
        pytest.param("experiment", 20_000, marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_is_one_sentence_and_costs_no_number(name, limit, whole_of, tmp_path):
    job, whole = whole_of(name)
    words, said = [*job.words, "--out", str(tmp_path / "out")], tmp_path / "said.txt"
    assert under_a_limit(words, limit, said) == 2
    complaint = said.read_text()
    assert f"ncfast {name}: error: " in complaint
    assert "File too large" in complaint
    assert "Traceback" not in complaint
    again = job.again if (tmp_path / "out").exists() else []
    assert main([*words, *again]) == 0
    assert job.found(tmp_path / "out") == whole
    assert not list((tmp_path / "out").rglob(".*partial*"))

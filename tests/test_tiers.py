"""What conftest.py does to every test: torch's threads, and the cores of workers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"

# Of torch, conftest.py asks for these two functions: to import it takes seconds.
THREADS = """
import sys
import types

threads = [3]
torch = types.ModuleType("torch")
torch.get_num_threads = lambda: threads[-1]
torch.set_num_threads = threads.append
sys.modules["torch"] = torch


def test_that_changes_them():
    torch.set_num_threads(5)


def test_that_comes_after():
    assert torch.get_num_threads() == 3
"""

WORKER = """
import os
import sys


def test_a_worker():
    assert os.environ["PYTEST_XDIST_WORKER"]
    assert at_import == (False, CORES)


# Torch reads the variable when it is imported.
at_import = "torch" in sys.modules, os.environ.get("OMP_NUM_THREADS")
"""

# Seconds of CPU that nobody spends.
LONG = """
import pytest

import conftest

spent = [0.0]
before = conftest._cpu_seconds
conftest._cpu_seconds = lambda: before() + spent[0]


@pytest.fixture(scope="session")
def built():
    spent[0] += 12


@pytest.fixture(scope="session")
def built_of_it(request):
    request.getfixturevalue("built")
    spent[0] += 12


@pytest.fixture
def own():
    spent[0] += 12


def test_the_first_that_asks(built_of_it):
    pass


def test_the_second(built_of_it):
    pass


def test_its_own_fixture(own):
    pass


def test_itself():
    spent[0] += 13
"""


def run(
    folder: Path,
    text: str,
    *options: str,
    cores: str | None = None,
    paths: tuple[str, ...] = ("test_some.py",),
) -> str:
    """Run a file of tests under the tree's conftest.py, and return what pytest says."""
    shutil.copy(CONFTEST, folder / "conftest.py")
    (folder / "test_some.py").write_text(text, encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "PYTEST_"))}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # others take seconds
    environment |= {} if cores is None else {"OMP_NUM_THREADS": cores}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, *paths]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.stdout + done.stderr


def test_torch_gets_its_threads_back(tmp_path):
    said = run(tmp_path, THREADS)
    assert "2 passed" in said, said


def test_what_many_tests_share_makes_none_of_them_long(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = .\nmarkers = slow\n")
    said = run(tmp_path, LONG, paths=())
    assert "4 passed" in said, said
    assert re.search(r"CPU seconds of 4 tests: 49\b", said), said
    named = re.findall(r"^(\d+) CPU seconds, .*::(\w+) ", said, re.MULTILINE)
    assert named == [("13", "test_itself"), ("12", "test_its_own_fixture")], said


@pytest.mark.parametrize(("given", "found"), [(None, "1"), ("2", "2")])
def test_a_worker_takes_one_core_unless_told(tmp_path, given, found):
    pytest.importorskip("xdist")
    said = run(
        tmp_path, WORKER.replace("CORES", repr(found)), "-p", "xdist", "-n", "1", cores=given
    )
    assert "1 passed" in said, said

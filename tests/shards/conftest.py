"""What two and four ranks find in every case, run once."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable

import pytest
from torch import distributed


@pytest.fixture
def ranks(request: pytest.FixtureRequest) -> Callable[[int], list[dict]]:
    """Return a function: number of ranks -> what each found, by case."""
    return lambda count: request.getfixturevalue(f"ranks_{count}")


@pytest.fixture(scope="session")
def ranks_2(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Return what each of two ranks found."""
    return found_by(2, tmp_path_factory)


@pytest.fixture(scope="session")
def ranks_4(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Return what each of four ranks found."""
    return found_by(4, tmp_path_factory)


def found_by(count: int, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Run every case on ranks, or load what another worker's found."""
    if not (distributed.is_available() and distributed.is_gloo_available()):
        pytest.skip("torch was built without gloo")
    from tests.shards import every_case

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of two workers one runs it
    folder = root / f"ranks-{count}"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        failed = folder / "failed"  # not again for each test
        assert not failed.exists(), f"{count} ranks have failed in another test"
        failed.touch()
        done = (folder / f"{count - 1}.pt").exists() and (folder / "0.pt").exists()
        found = (every_case.load if done else every_case.run)(count, folder)
        failed.unlink()
    return found

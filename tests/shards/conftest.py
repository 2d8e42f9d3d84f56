"""What two and four ranks find in every case, run once."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable

import pytest
from torch import distributed


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[dict]]:
    """Return a function: number of ranks -> what each found, by case."""
    if not (distributed.is_available() and distributed.is_gloo_available()):
        pytest.skip("torch was built without gloo")
    from tests.shards import every_case

    root, known = tmp_path_factory.getbasetemp(), {}
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of two workers one runs it

    def found(count: int) -> list[dict]:
        folder = root / f"ranks-{count}"
        folder.mkdir(exist_ok=True)
        with open(folder / "lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            failed = folder / "failed"  # not again for each test
            assert not failed.exists(), f"{count} ranks have failed in another test"
            if count not in known:
                failed.touch()
                done = (folder / f"{count - 1}.pt").exists() and (folder / "0.pt").exists()
                known[count] = (every_case.load if done else every_case.run)(count, folder)
                failed.unlink()
        return known[count]

    return found

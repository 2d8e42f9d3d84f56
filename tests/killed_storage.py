"""Kill processes that write class statistics to files; hold what is left to what they committed.

Run by ``test_statistics_crashes.py`` in a process of its own: children are forked, which a process
whose threads have computed must not do.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from ncfast import ClassStatistics, durable_file, sealed_file
from ncfast.statistics import storage

V, D, COMMITS, UPDATES = 40, 6, 3, 2


def work(stats: ClassStatistics, told) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(COMMITS):
        for _ in range(UPDATES):
            y = torch.randint(0, V, (9,), generator=generator)
            stats.update(torch.randn(9, D, generator=generator), y)
        told(stats)


def dies_at(moment: int) -> None:
    """Let this process be killed at its ``moment``-th write or sync: before, halfway or after."""
    left = [moment]

    def dying(call, half=None):
        def called(*arguments):
            for now in ("before", "halfway", "after"):
                if left[0] == 0:
                    if now == "halfway" and half:
                        half(*arguments)
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                if now == "halfway":
                    result = call(*arguments)
            return result

        return called

    write = storage._write
    storage._write = dying(write, lambda file, content: write(file, content[: len(content) // 2]))
    durable_file.sync = dying(durable_file.sync)
    durable_file.replace = dying(durable_file.replace)
    sealed_file.save_tensors = dying(sealed_file.save_tensors)


def child(folder: Path, pipe: int, moment: int | None) -> None:
    stats = ClassStatistics(V, D, diagonal=True, storage=folder)
    os.write(pipe, b"0")
    if moment is not None:
        dies_at(moment)

    def told(stats: ClassStatistics) -> None:
        stats.commit()
        os.write(pipe, b"+")

    work(stats, told)


def killed(folder: Path, moment: int | None, seconds: float) -> tuple[int, bool]:
    """Return how many commits were told of, and whether the child came to its end."""
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(read)
        try:
            child(folder, write, moment)
        finally:
            os._exit(0)
    os.close(write)
    if moment is None:
        os.read(read, 1)
        time.sleep(seconds)
        os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    told = b""
    while part := os.read(read, 100):
        told += part
    os.close(read)
    return told.count(b"+"), os.WIFEXITED(status)


def hold(folder: Path, told: int, expected: list[ClassStatistics]) -> int:
    stats = ClassStatistics.load(folder)
    assert stats._storage is not None
    found = stats._storage.generation
    assert told <= found <= told + 1, f"{found} commits are there, {told} were told of"
    for name, tensor in expected[found]._tensors().items():
        assert torch.equal(stats._tensors()[name], tensor), f"{folder}: {name} after {found}"
    return found


def main(place: Path) -> None:
    expected = [ClassStatistics(V, D, diagonal=True)]
    work(ClassStatistics(V, D, diagonal=True), lambda stats: expected.append(stats.to("cpu")))
    begun = time.perf_counter()
    assert killed(place / "whole", 10**9, 0.0) == (COMMITS, True)
    whole = time.perf_counter() - begun
    met, moment, ended = set(), 0, False
    while not ended:
        told, ended = killed(place / f"moment{moment}", moment, 0.0)
        met.add(hold(place / f"moment{moment}", told, expected))
        moment += 1
    assert moment > 3 * COMMITS * (UPDATES + 2), moment
    draw = random.Random(0)
    for trial in range(15):
        told, _ = killed(place / f"trial{trial}", None, whole * draw.random())
        met.add(hold(place / f"trial{trial}", told, expected))
    assert met == set(range(COMMITS + 1)), met
    print(f"{moment} moments and 15 kills, {sorted(met)} commits met")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))

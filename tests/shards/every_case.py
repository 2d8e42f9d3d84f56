"""Run the cases of all files of this folder in one group of processes: importing takes longest."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from tests.forked import run_ranks
from tests.shards import (
    test_sharded_choices,
    test_sharded_cross_entropy,
    test_sharded_errors,
    test_sharded_metrics,
    test_sharded_terms,
    test_sharded_training,
)

MODULES = (
    test_sharded_choices,
    test_sharded_cross_entropy,
    test_sharded_terms,
    test_sharded_metrics,
    test_sharded_training,
    test_sharded_errors,
)


def _rank_main(rank: int, ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["NCFAST_STRICT"] = "1"
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=ranks,
        timeout=datetime.timedelta(seconds=120),
    )
    found: dict[str, Any] = {}
    for module in MODULES:
        found |= module.cases_of_rank(rank, ranks)
    distributed.barrier()
    # The last rank dies, and the others call something that needs it.
    if rank < ranks - 1:
        found["a rank died"] = test_sharded_errors.sentence_after_a_death(rank, ranks)
    torch.save(found, f"{folder}/{rank}.pt")
    os._exit(0)  # see ncfast.testing.end_rank


def run(ranks: int, folder: Path) -> list[dict[str, Any]]:
    """Return what every rank found, by case."""
    run_ranks(_rank_main, (ranks, str(folder)), ranks)
    return load(ranks, folder)


def load(ranks: int, folder: Path) -> list[dict[str, Any]]:
    """Return what :func:`run` found in this folder."""
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(ranks)]

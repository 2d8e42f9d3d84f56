"""The training loops that ``benchmarks.training`` compares, each in a process of its own.

``python -m benchmarks.training_loops LOOP FOLDER`` prints one line of JSON for every step, and one
at the end. ``FOLDER`` holds a causal model and ``rows.pt``, one batch [B, T] of token ids a step.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ncfast.training.process_memory import give_memory_back, peak_memory, reset_peak

LEARNING_RATE = 5e-5
TERM_CLASSES = 300
ROWS = "rows.pt"
Steps = Iterator[float]


def transformers_loop(folder: Path, batches: Tensor) -> Steps:
    """Train as a user of transformers would; yield the loss of each step."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    for input_ids in batches:
        optimizer.zero_grad()
        loss = model(input_ids=input_ids, labels=input_ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield loss.item()


class _Rows:
    """Give the batches of a file to the loop of ncfast."""

    def __init__(self, batches: Tensor) -> None:
        self.batches = batches

    def epoch_of(self, step: int) -> int:
        return 0

    def __call__(self, step: int, rank: int = 0, ranks: int = 1) -> Any:
        from ncfast.training import TrainingBatch

        ids = self.batches[step]
        labels = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-100)
        return TrainingBatch(ids, torch.ones_like(ids), labels, labels, ids.numel())


def ncfast_loop(
    folder: Path, batches: Tensor, report: Callable[..., None], limit: int, term: bool
) -> Steps:
    """Train as ``ncfast finetune --memory-limit`` does; yield the cross-entropy of each step."""
    from ncfast.language import LanguageModel
    from ncfast.losses import DualityRegularizer
    from ncfast.training import LoopSettings, Objective, Training, make_optimizer
    from ncfast.training.memory_limit import fit
    from ncfast.training.process_memory import warm_up

    give_memory_back()
    model = LanguageModel.load(str(folder), progress=False)
    model.model.train()
    terms = {}
    if term:
        place = (model.vocab_size, model.hidden_size, range(TERM_CLASSES))
        terms["nc3"] = DualityRegularizer(*place, weight=0.1).train()
    objective = Objective(model, terms)
    optimizer = make_optimizer(model.model, lr=LEARNING_RATE)
    settings = LoopSettings(
        len(batches), LEARNING_RATE, "constant", metrics_every=0, progress=False
    )
    rows: Any = _Rows(batches)
    start = time.perf_counter()
    plan = fit(objective, optimizer, rows(0), limit, warm_up(objective, rows(0)))
    report(
        predicted=plan.peak,
        recompute=plan.recompute,
        micro_batches=plan.micro_batches,
        head_budget=plan.head_budget,
        planned_in=time.perf_counter() - start,
    )
    training = Training(objective, optimizer, rows, settings)
    for _ in batches:
        yield training.one_step()["cross_entropy"]


def forbid_more_than(extra: int) -> None:
    """Let the system refuse this process more private memory than it has now and ``extra``."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    now = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (now + extra, now + extra))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one loop and print what it took."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_loops")
    parser.add_argument("loop", choices=("transformers", "ncfast", "ncfast-nc3"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="bytes that the plan may take")
    parser.add_argument("--hard-limit", type=int, help="bytes beyond which the system refuses")
    options = parser.parse_args(arguments)
    import transformers  # its modules are no part of the training's memory

    assert transformers.AutoModelForCausalLM is not None
    torch.set_num_threads(options.threads)
    batches = torch.load(options.folder / ROWS)

    def report(**values: Any) -> None:
        print(json.dumps(values), flush=True)

    start = reset_peak()
    if options.hard_limit:
        forbid_more_than(options.hard_limit)
    if options.loop == "transformers":
        steps = transformers_loop(options.folder, batches)
    else:
        term = options.loop == "ncfast-nc3"
        steps = ncfast_loop(options.folder, batches, report, options.limit, term)
    wall, cpu = time.perf_counter(), time.process_time()
    for loss in steps:
        now = time.perf_counter(), time.process_time()
        # The first step's time has the loading of the model in it, and nobody looks at it.
        report(loss=loss, seconds=now[0] - wall, cpu_seconds=now[1] - cpu)
        wall, cpu = time.perf_counter(), time.process_time()
    report(peak=peak_memory("cpu", start))
    return 0


if __name__ == "__main__":
    sys.exit(main())

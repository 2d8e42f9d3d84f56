"""What this process really takes: its peak, and what libraries take of it."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Mapping
from pathlib import Path

import torch

from ..huge_pages import ask_for_huge_pages
from ..language.labels import IGNORE
from ..language.modes import modes_kept
from .batches import TrainingBatch
from .objective import Objective

_MMAP_THRESHOLD = -3  # glibc's name of the setting
_MMAP_MOST, _MMAP_LEAST = 1 << 20, 1 << 17
# Smaller blocks share a heap that keeps what they leave. With all below 1 MiB in it, a run of
# BERT-tiny planned at 135 MiB took 178; with those below a 512th of the plan, 145.
_SHARE_OF_PEAK = 512
_WARM_TOKENS = 1024


def warm_up(objective: Objective, batch: TrainingBatch) -> int:
    """Let libraries take now what they keep from their first use on; return the bytes of growth.

    Up to 1,024 tokens go through the model and back: products keep buffers of their size. Buffers,
    threads and code pages then are there (20 MiB for BERT-tiny); what a step takes beyond them are
    its tensors. No gradient, statistic or random state changes. 0 on a GPU, whose allocator is
    measured apart.
    """
    model = objective.model.model
    if objective.model.device.type != "cpu":
        return 0
    length = min(batch.input_ids.shape[1], _WARM_TOKENS)
    ids = batch.input_ids[: _WARM_TOKENS // length, :length]
    nothing = torch.full_like(ids, IGNORE)
    few = TrainingBatch(ids, torch.ones_like(ids), ids, nothing, ids.numel())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = _kept()
    with modes_kept(model), torch.random.fork_rng(devices=[]):
        model.train()
        for part in objective.prepare(few):
            features, _ = objective.forward(part, 0, 0)
            loss = objective.cross_entropy(features, part, ids.numel())
            torch.autograd.grad(loss, trained, allow_unused=True)
    del features, loss
    return max(0, _kept() - before)


def _kept() -> int:
    """Return the bytes resident, less freed small tensors: a step uses those again."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return _status("VmRSS")


def give_memory_back(peak: int | None = None) -> bool:
    """Let freed tensors of 1 MiB and more return to the system at once, for the whole process.

    Where a small ``peak`` (bytes) is planned, so do smaller tensors: from a 512th of it on, at
    least 128 KiB. glibc by default learns to keep freed blocks of up to 32 MiB, and then the
    process is larger than its tensors. What is returned must be asked for again, page by page,
    which costs time: SmolLM2's layers, forward and back over 1,024 tokens, take 4.9 s and 2,783 MiB
    with glibc's own rule, 5.5 s and 2,103 MiB from 1 MiB on, 6.7 s and 1,837 MiB from 256 KiB on.
    Huge pages, which this asks for too, make up for some of it. False where the system's allocator
    has no such setting.

    >>> give_memory_back() in (True, False)
    True
    """
    ask_for_huge_pages()
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    share = _MMAP_MOST if peak is None else peak // _SHARE_OF_PEAK
    return bool(mallopt and mallopt(_MMAP_THRESHOLD, min(max(share, _MMAP_LEAST), _MMAP_MOST)))


def reset_peak() -> int:
    """Forget the peak of this process's memory so far, and return the bytes resident now.

    >>> reset_peak() > 0
    True
    """
    # Elsewhere than on Linux, or where it is not allowed, the peak is that of the whole run.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_memory(device: torch.device | str = "cpu", start: int = 0) -> int | None:
    """Return the most bytes used: the allocator's on a GPU, resident above ``start`` on the CPU.

    ``start``: resident before the model was loaded. None where the system does not tell.

    >>> peak_memory("cpu", 0) > 0
    True
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = _status("VmHWM")
    return peak - start if peak else None


def _status(key: str) -> int:
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    found: Mapping[str, str] = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return int(found.get(key, "0 kB").split()[0]) * 1024

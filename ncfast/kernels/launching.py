"""Launches kernels in one of a few named configurations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import triton

__all__ = ["Configuration", "architecture", "dot_precision", "launch", "run", "tuning"]


@dataclass(frozen=True)
class Configuration:
    """Name the tile sizes of a kernel, with its warps and pipeline stages."""

    name: str
    warps: int
    stages: int
    tiles: dict[str, int] = field(hash=False)
    registers: int | None = None  # at most, of a thread; else a compiler may spill to use fewer

    def options(self) -> dict[str, int]:
        """Return what Triton is told besides the tiles; AMD's compiler knows no such limit."""
        limit = {"maxnreg": self.registers} if self.registers and not torch.version.hip else {}
        return {"num_warps": self.warps, "num_stages": self.stages, **limit}


_tuning = False


@contextmanager
def tuning() -> Iterator[None]:
    """Time the configurations of every kernel launched inside, and use the fastest.

    Outside, the first configuration of a kernel is always used: other tiles add in another order,
    so a choice by the clock could change the last bits from run to run.
    """
    global _tuning
    before, _tuning = _tuning, True
    try:
        yield
    finally:
        _tuning = before


@functools.cache
def _tuned(kernel: Any, configurations: tuple[Configuration, ...], key: tuple[str, ...]) -> Any:
    choices = [triton.Config(dict(c.tiles), **c.options()) for c in configurations]
    return triton.autotune(choices, key=list(key))(kernel)


def launch(
    kernel: Any,
    grid: Callable[[dict[str, Any]], tuple[int, ...]],
    configurations: tuple[Configuration, ...],
    *args: Any,
    key: tuple[str, ...] = (),
    **constants: Any,
) -> None:
    """Run a kernel over a grid that its tile sizes decide.

    ``grid`` makes of them the number of programs along each axis; nothing runs if one is 0. The
    first of ``configurations`` is the default. ``key`` names arguments whose values a tuned choice
    depends on: only a kernel that reads nothing it writes has one, as timing runs it many times.
    ``constants`` are its compile-time arguments other than tile sizes.
    """
    default = configurations[0]
    programs = grid(default.tiles)
    if not all(programs):
        return
    if _tuning and key and len(configurations) > 1:
        _tuned(kernel, configurations, key)[grid](*args, **constants)
        return
    run(kernel, programs, default, args, constants)


def run(
    kernel: Any,
    programs: tuple[int, ...],
    configuration: Configuration,
    args: tuple[Any, ...],
    constants: dict[str, Any],
) -> None:
    """Run a kernel; the one place it happens, so that tests can record what would be compiled."""
    kernel[programs](*args, **constants, **configuration.tiles, **configuration.options())


def architecture(device: torch.device) -> int:
    """Return an NVIDIA GPU's major compute capability; 0 of an AMD one; 9 in the interpreter."""
    if device.type != "cuda":
        return 9
    return 0 if torch.version.hip else torch.cuda.get_device_capability(device)[0]


def dot_precision() -> str:
    """Return how a dot keeps the digits of its operands.

    bfloat16 and float16 products are exact in float32 anyway. float32 goes through the tensor
    cores as three tf32 products; AMD's have no such mode, and multiply in full precision.
    """
    return "ieee" if torch.version.hip else "tf32x3"

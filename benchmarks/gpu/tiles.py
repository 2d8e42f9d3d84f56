"""Which ops have GPU kernels, and the tiles that those launch: asked of the kernels themselves."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from ncfast import dispatch, explain, native

from .calls import arguments
from .heads import Head

__all__ = ["Tile", "rows_of", "tiles_of"]

SOURCES = Path(__file__).parents[2] / "csrc/cuda"
# Multiples of 16 as real sizes are; launches are recorded, and nothing is computed.
PROBE = Head("probe", 640, 1_024, 512)


@dataclass(frozen=True)
class Tile:
    """Hold the tile of a product, how its operands are multiplied, and which tiles there are.

    ``square``: tiles follow one another by squares of so many, not by lines. ``triangle``: those of
    a symmetric product below the diagonal are left out.
    """

    rows: int
    columns: int
    precision: str  # "bf16" or "tf32x3"
    square: int = 1
    triangle: bool = True


def rows_of() -> list[tuple[str, str]]:
    """Return each (op, backend) of the dispatch table for which there is a kernel."""
    kernels = "".join(path.read_text(encoding="utf-8") for path in SOURCES.glob("*.cu"))
    found = []
    for op in dispatch.ops():
        listed = explain(op, *arguments(op, PROBE, torch.float32, torch.device("cpu")))
        for backend in (v.backend for v in listed if v.available):
            # An op may have a row for a kernel that the library does not hold yet.
            if backend == "triton" or (backend == "cuda" and f"NCFAST_KERNEL({op})" in kernels):
                found.append((op, backend))
    return found


@functools.cache
def tiles_of(op: str, backend: str, dtype: torch.dtype, architecture: int = 9) -> tuple[Tile, ...]:
    """Return the tiles of an op's products, kernel by kernel, in the default configuration.

    Of two launches of which the device chooses one, that of points as stored: its choice where the
    center does not dominate.
    """
    return _triton_tiles(op, dtype, architecture) if backend == "triton" else _cuda_tiles(op, dtype)


def _cuda_tiles(op: str, dtype: torch.dtype) -> tuple[Tile, ...]:
    side, text = _number("kTile", "products.cuh"), _kernel_text(op)
    # How a kernel says that it multiplies 16-bit rows as they are, where their center allows it.
    # A nearest mean's means are float32 whatever its features are.
    narrow = "ProductMemory" in text and dtype != torch.float32 and op != "nearest_center"
    tile = Tile(
        side,
        side,
        "bf16" if narrow else "tf32x3",
        square=_number("kSquare", "triangle.cuh") if "TriangleWalk" in text else 1,
        triangle="triangle" in text,
    )
    # Panels of weights, which are float32, are the products after it.
    return (tile, replace(tile, precision="tf32x3")) if "add_panel" in text else (tile,)


def _number(name: str, file: str) -> int:
    """Return a constant of a CUDA header; of NCFAST_SIZE's two, that of a GPU."""
    found = re.search(
        rf"{name} = (?:NCFAST_SIZE\()?(\d+)", (SOURCES / file).read_text(encoding="utf-8")
    )
    if found is None:
        raise ValueError(f"csrc/cuda/{file}: expected '{name} = <number>'")
    return int(found[1])


def _kernel_text(op: str) -> str:
    """Return an op's CUDA source with what it includes, but for the file of products itself."""
    source = SOURCES / f"{op}.cu"
    if not source.exists():
        source = SOURCES / f"{op.removesuffix('_backward')}.cu"
    text = source.read_text(encoding="utf-8") if source.exists() else ""
    for name in re.findall(r'#include "(\w+\.cuh)"', text):
        if (
            name not in ("products.cuh", "tensor_cores.cuh", "triangle.cuh")
            and (SOURCES / name).exists()
        ):
            # What a header declares is often in the source of its name.
            for part in (SOURCES / name, (SOURCES / name).with_suffix(".cu")):
                text += part.read_text(encoding="utf-8") if part.exists() else ""
    return text


def _triton_tiles(op: str, dtype: torch.dtype, architecture: int) -> tuple[Tile, ...]:
    if importlib.util.find_spec("triton") is None:
        raise ValueError("triton is not installed: its tiles cannot be asked for (pip install it)")
    found: dict[str, Tile] = {}
    from ncfast.kernels.tiles import MIN_SPLITS

    for kernel, constants in _launches(op, dtype, architecture):
        rows, columns = (constants.get(n, constants.get("SIDE")) for n in ("ROWS", "COLUMNS"))
        if "PRECISION" in constants and rows and columns:
            narrow = dtype != torch.float32 and constants["PRECISION"] != "tf32x3"
            tile = Tile(
                rows,
                columns,
                "bf16" if narrow else "tf32x3",
                square=constants.get("GROUP", MIN_SPLITS if "BAND" in constants else 1),
                triangle=kernel != "_pair_weights",  # of a gradient: every pair, from both sides
            )
            found.setdefault(kernel, tile)
    return tuple(found.values())


def _launches(op: str, dtype: torch.dtype, architecture: int) -> list[tuple[str, dict[str, Any]]]:
    """Return the kernel and compile-time arguments of everything one call launches."""
    launching = importlib.import_module("ncfast.kernels.launching")
    pairs = importlib.import_module("ncfast.kernels.pair_stats")
    module = importlib.import_module(f"ncfast.kernels.{op.removesuffix('_backward')}")
    given = arguments(op, PROBE, dtype, torch.device("cpu"))
    seen: list[tuple[str, dict[str, Any]]] = []

    def record(
        kernel: Any, programs: Any, configuration: Any, args: Any, constants: dict[str, Any]
    ) -> None:
        seen.append((kernel.fn.__name__, {**constants, **configuration.tiles}))

    def allocate(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    with (
        mock.patch.object(launching, "run", record),
        mock.patch.object(pairs, "architecture", return_value=architecture),
        mock.patch.object(native, "allocate", allocate),
    ):
        getattr(module, op)(*given)
    return seen

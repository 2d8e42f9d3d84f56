"""Rows that are long, lie in wider memory, or come in two dtypes; and many of them.

Kernels of GPUs go over a row 256 columns at a time or more, those of CPUs over 4,096; they read
packed rows as 16-byte words, and multiply 16-bit rows as they are. The samples of the contract have
at most 136 columns, without gaps, of one dtype.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ncfast import use_backend
from ncfast.testing import poison, tiny_tokens

from .backends import EVERY, OPS
from .test_cuda_host import contract_of

ROOT = Path(__file__).parents[2]
CLASSES = 4
KINDS = ("cdnv", "log_distance", "cosine", "log_distance_raw")
MATRICES = ("linear_argmax", "nearest_center", "alignment", "linear_cross_entropy")  # of two
# Columns: three rounds of 256, of 512 for alignment. Scatters multiply in their number, too.
WIDTHS = {"alignment": 1301, "within_class_scatter": 301, "between_class_scatter": 301}
OTHERS = 549
OF_CPUS = 8221  # three rounds of 4,096, but for scatters
# How far the loops over columns of csrc/cuda step, at most.
STEPS = {
    "kWarp": 32,
    "kStep": 32,
    "kThreads": 256,
    "kMergeThreads": 256,
    "kWarp * kVec8": 256,
    "kInFlight * kStep": 512,  # of alignment alone
}


def arguments(
    op: str, width: int, dtypes: tuple[torch.dtype, ...], lay: Callable[[Tensor], Tensor]
) -> tuple[Any, ...]:
    """Return an op's arguments with rows of a width, as they are laid into memory."""
    (x, y), own = tiny_tokens(150, width, CLASSES, dtypes[0]), dtypes[-1]
    y[20:110] = 1  # one class of two segments
    few, rows = lay(x[:9]), lay(tiny_tokens(9, width, 2, own, seed=1)[0] - 1)
    index, bias = torch.tensor([4, 0, 7, 3]), torch.linspace(-1, 1, 9)
    counts = torch.tensor([3, 0, 5, 2])
    means = tiny_tokens(CLASSES, width, 2, seed=2)[0] * (counts > 0)[:, None]
    return {
        "class_moments": (lay(x), y, CLASSES + 1),  # one is absent
        "accumulate_class_moments_": (counts, means, counts.double(), None, lay(x), y),
        "within_class_scatter": (lay(x[:90]), y[:90], lay(means)),
        "between_class_scatter": (rows, torch.linspace(0.5, 2, 4), "classes", index),
        "alignment": (few, rows, "classes", None),
        "pair_stats": (rows, bias.square(), "classes", KINDS, None, (0.0, 0.1, 0.0, 0.5)),
        "linear_argmax": (few, rows, bias, index),
        "nearest_center": (few, rows, index),
        "linear_cross_entropy": (few, rows, y[:9], bias, 0.0, 0, 0.1, 0, None),
    }[op]


def check(backend: str, op: str, args: tuple[Any, ...]) -> None:
    """Compare outputs and gradients with plain torch's, by the rule of the contract."""
    contract = contract_of(op)()
    leaves = contract.leaves(args)
    with use_backend(backend), poison():
        out = contract.call(*leaves)
        upstream = contract.upstream(out)
        found = contract.gradients(leaves, out, upstream) if upstream else {}
    contract.assert_outputs(args, [t.detach() for t in out])
    if found:
        contract.assert_gradients(args, found, upstream)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("op", OPS)
def test_long_rows(backend, op, dtype):
    width = WIDTHS.get(op, OTHERS)
    if backend == "cpu" and "scatter" not in op:
        width = OF_CPUS
    check(backend, op, arguments(op, width, (dtype,), lambda t: t))


@pytest.mark.slow
@pytest.mark.skipif("cuda-host" not in EVERY, reason="the host emulator needs a C++ compiler")
@pytest.mark.parametrize(("emulated", "op"), [("cuda-host", "between_class_scatter")])
def test_columns_of_several_blocks(emulated, op):
    """A block of ``between_class_scatter_backward`` and of alignment has 1,024 columns: the next
    one starts there, and not where the last threads of the first would hide it.
    """
    check(emulated, op, arguments(op, 1301, (torch.float32,), lambda t: t))


def beside(values: Tensor) -> Tensor:
    """Return a matrix of 12 columns in memory of 16, NaN around it."""
    memory = torch.full((len(values) + 2, 16), torch.nan, dtype=values.dtype)
    memory[1:-1, :12] = values
    return memory[1:-1, :12]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("op", OPS)
def test_what_lies_beside_a_row_is_never_read(backend, op, dtype):
    check(backend, op, arguments(op, 12, (dtype,), beside))


@pytest.mark.parametrize("op", MATRICES)
def test_two_dtypes(backend, op):
    for pair in itertools.permutations((torch.bfloat16, torch.float16, torch.float32), 2):
        check(backend, op, arguments(op, 16, pair, lambda t: t))


def test_every_loop_over_columns_goes_round():
    """What a loop that is new steps by has to be less than the rows here are long."""
    loop = r"for \([^;{]*;[^;{]*width[^;{]*;\s*\w+ \+= ([^),]+)[,)]"
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "csrc/cuda").glob("*.cu*")]
    assert {step for text in sources for step in re.findall(loop, text)} == set(STEPS)
    assert WIDTHS["alignment"] > 2 * STEPS["kInFlight * kStep"]
    shortest = min(OTHERS, *WIDTHS.values())
    assert all(shortest > step for name, step in STEPS.items() if name != "kInFlight * kStep")

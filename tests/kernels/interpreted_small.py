"""Every op at sizes so small that each loop of its kernels goes round three times, raggedly.

``test_interpreted.py`` runs this file in a process with TRITON_INTERPRET=1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ncfast import check_device_errors, use_backend
from ncfast.kernels import pair_gradients
from ncfast.kernels.interpreted_programs import watched
from ncfast.testing import poison, sample_inputs, tiny_tokens
from tests.kernels import interpreted, interpreted_tiles
from tests.kernels.interpreted_contract import BACKEND, found_later
from tests.kernels.small_sizes import (
    NO_SIZES,
    SIZES,
    Rounds,
    loops,
    make_small,
    modules,
    numbers,
    short,
)
from tests.ops import test_accumulate_class_moments_
from tests.ops.backends import OPS
from tests.ops.contract import GradientContract

CLASSES = {
    found.op: found
    for module in (interpreted, interpreted_tiles)
    for found in vars(module).values()
    if isinstance(found, type) and getattr(found, "op", None)
}
ROUNDS = Rounds(loops(Path(str(module.__file__)) for module in modules()))
N, D, V, K = 113, 13, 3, 43  # tokens, width, classes of many tokens, classes to choose from


def _pairs(dtype: torch.dtype) -> tuple[Any, ...]:
    (sample,) = (s for s in sample_inputs("pair_stats", dtype) if s.name == "histogram")
    points = tiny_tokens(75, D, V, dtype)[0]
    points[7::9] = points[0::9][: len(points[7::9])] + 2**-5  # near ones, in every tile
    edges = sample.args[-1][:, :1] + torch.linspace(0, 1.25, 21, dtype=torch.float64)  # 21: odd
    return (points, torch.rand(75) + 0.1, *sample.args[2:-1], edges)


def arguments(op: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """Return arguments whose every size is three small tiles and a part of one, or more."""
    torch.manual_seed(0)
    (x, y), head = tiny_tokens(N, D, V, dtype), tiny_tokens(K, D, V, dtype, seed=1)[0]
    index = torch.randperm(K)[:41]
    wide = tiny_tokens(29, 33, V, dtype)[0], tiny_tokens(29, 33, V, dtype, seed=1)[0]
    wide[0][[3, 17]] *= 2**-60  # whose squares are found again, of scaled rows
    return {
        "class_moments": (x, y, V),
        # Classes of 61 occur in no batch, and leave gaps among those that do.
        "accumulate_class_moments_": (*test_accumulate_class_moments_.empty(61, D), x, y),
        "within_class_scatter": (x, y, torch.randn(V, D)),
        "between_class_scatter": (x, torch.rand(N), "classes", None),
        "alignment": (*wide, "classes", None),
        "linear_argmax": (x, head, head[:, 0].float(), index),
        "nearest_center": (x, head, index),
        "pair_stats": _pairs(dtype),
        "linear_cross_entropy": (x, head, y, head[:, 0].clone(), 0.0, 0, 0.1, 0, K - 2),
    }[op]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Make sizes small, and count rounds."""
    make_small(monkeypatch)
    for module in modules():
        monkeypatch.setattr(module, "range", ROUNDS.count, raising=False)
        if hasattr(module, "next_row"):
            monkeypatch.setattr(module, "next_row", ROUNDS.follow(module.next_row))


def results(contract: Any, args: tuple[Any, ...], seen: list[Any]) -> list[torch.Tensor]:
    """Return an op's outputs and gradients."""
    leaves = contract.leaves(args)
    with use_backend(BACKEND), poison():
        out = list(contract.call(*leaves))
        upstream = contract.upstream(out)
        found = contract.gradients(leaves, out, upstream) if upstream else {}
    check_device_errors()
    seen[:] = [out, found, upstream]
    return out + list(found.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("op", OPS)
def test_contract(op, dtype):
    contract, args = CLASSES[op](), arguments(op, dtype)
    first: list[Any] = []
    for order in ("forward", "shuffled") if dtype == torch.float32 else ("reverse",):
        seen: list[Any] = []
        with watched(order):
            results(contract, args, seen)
        first = first or seen
        every = [[*s[0], *s[1].values()] for s in (first, seen)]
        assert all(torch.equal(a, b) for a, b in zip(*every, strict=True)), order
    out, found, upstream = first
    contract.assert_outputs(args, out)
    if isinstance(contract, GradientContract):
        contract.assert_gradients(args, found, upstream)


def test_panels_of_several_tiles(monkeypatch):
    """In the sizes above a panel is one tile wide, or there would not be three panels."""
    monkeypatch.setattr(pair_gradients, "PANEL_COLUMNS", 96)
    contract, args = CLASSES["pair_stats"](), arguments("pair_stats", torch.float32)
    kinds, powers, targets = (part[-1:] for part in args[3:6])  # one that close pairs matter to
    args = (*args[:3], kinds, powers, targets, None, None)
    seen: list[Any] = []
    results(contract, args, seen)
    contract.assert_gradients(args, *seen[1:])


@pytest.mark.parametrize("op", ["class_moments", "linear_argmax"])
def test_bad_data(op):
    args = arguments(op, torch.float32)
    args[0][N - 2, D - 1] = float("nan")
    found_later(rf"x\[{N - 2}\] holds a NaN", op, *args)


def test_every_size_is_made_small():
    named = {(short(m), name) for m in modules() for name in numbers(m) - NO_SIZES}
    assert named == {(module, name) for module, sizes in SIZES.items() for name in sizes}


def test_every_loop_went_round_three_times_and_ended_raggedly():
    if len(ROUNDS.most) < 10:
        pytest.skip("the other tests of this file were not run")
    lacking = ROUNDS.lacking()
    assert not lacking, "\n".join(lacking)

"""The C++ kernels at sizes at which every loop over tiles, units and panels goes round three times.

The constants that cut work are read from the sources: each must be reached, with a ragged end, by
a size used here. The headline shape (N=65,536, D=768) is cut by the same ones, and a block of rows
holds 512 of them at 3 columns of float32 as at 768, so it takes no path that is not taken here.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import ncfast.functional as F
from ncfast import DataError, use_backend
from ncfast.testing import assert_matches, poison, rounding_floor, tiny_tokens

from .test_accumulate_class_moments_ import empty

ROOT = Path(__file__).parents[2]
ROWS, TOKENS, MANY, WIDTH, FEW = 1573, 805, 6007, 301, 7
OF_ONE = int(torch.bincount(tiny_tokens(ROWS, 13, FEW)[1].clamp(min=0)).max())  # of one class
# Sizes that the loops cut by a constant run over, in the cases below.
REACHED = {
    # By test_tiles_of_full_size of the loss and of linear_argmax: classes, pairs of columns.
    "csrc/common/bfloat16_products.h": {"kPanelColumns": 1001, "kPanelPairs": 601 // 2 + 1},
    "csrc/common/finite.h": {"block": ROWS},
    "csrc/common/gram.h": {
        **{"kGramPanel": WIDTH, "kGramPanelOnednn": WIDTH, "kSide": WIDTH, "kTurned": WIDTH},
        "block": TOKENS,
    },
    "csrc/common/labels.h": {"kUnitRows": ROWS},
    "csrc/common/head_panels.h": {"kTokenTile": ROWS, "kClassTile": MANY},
    "csrc/common/moments.h": {"kBlockRows": OF_ONE, "kRowsAhead": OF_ONE},
    "csrc/common/pairs.h": {"block": ROWS},
    "csrc/common/products.h": {"kProductStep": ROWS},
    "csrc/common/rows.h": {"kMostBlockRows": ROWS},
    "csrc/cpu/accumulate_class_moments_.cpp": {"block": 211},
    "csrc/cpu/alignment.cpp": {"kTileRows": ROWS},
    "csrc/cpu/between_class_scatter.cpp": {"kTileRows": TOKENS},
    "csrc/cpu/class_moments.cpp": {"block": 211},
    "csrc/cpu/decisions.h": {"block": ROWS},
    "csrc/cpu/linear_cross_entropy_backward.cpp": {
        "kPackBlock": ROWS,
        "kGradientRows": ROWS,
        "block": MANY,
    },
    "csrc/cpu/linear_cross_entropy.cpp": {"block": MANY},  # of a smoothed label
    "csrc/cpu/within_class_scatter.cpp": {"kTileRows": TOKENS},
}
UNCUT = {"kIgnoreIndex"}  # no size of a piece of work


def rows(n: int, width: int = 13, seed: int = 0) -> Any:
    return tiny_tokens(n, width, FEW, seed=seed)[0]


CASES = {
    "class_moments": lambda: (*tiny_tokens(ROWS, 13, FEW), FEW),
    "class_moments-211": lambda: (*tiny_tokens(ROWS, 13, 211), 211),
    "accumulate_class_moments_": lambda: (
        *empty(FEW, 13)[:3],
        None,
        *tiny_tokens(ROWS, 13, FEW),
    ),
    "accumulate_class_moments_-211": lambda: (
        *empty(211, 13)[:3],
        None,
        *tiny_tokens(ROWS, 13, 211),
    ),
    "within_class_scatter": lambda: (
        *tiny_tokens(TOKENS, WIDTH, FEW),
        rows(FEW, WIDTH, seed=1),
    ),
    "between_class_scatter": lambda: (rows(TOKENS, WIDTH), None, "classes", None),
    "between_class_scatter-float64": lambda: (  # by torch.mm on every CPU
        rows(TOKENS, WIDTH).double(),
        None,
        "classes",
        None,
    ),
    "alignment": lambda: (rows(ROWS), rows(ROWS, seed=1), "classes", None),
    "pair_stats": lambda: (
        rows(ROWS),
        rows(ROWS)[:, 0].square(),
        "classes",
        ("cdnv", "log_distance", "cosine", "riesz"),
        (1, 1, 1, 11),
    ),
    "linear_argmax": lambda: (rows(ROWS, 5), rows(MANY, 5, seed=1), None, None),
    "nearest_center": lambda: (rows(ROWS, 3), rows(ROWS, 3, seed=1), None),
    "linear_cross_entropy": lambda: (
        rows(ROWS),
        rows(MANY, seed=1),
        torch.arange(ROWS) * 2 % MANY,
        *(rows(MANY, 1, seed=2)[:, 0], 0.0, 0, 0.1, 0, None),
    ),
}


def sizes_in(path: Path) -> dict[str, int]:
    """Return the constants of a source that are plain numbers."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"\b(k[A-Z]\w+|block) = (-?[1-9]\d*)[;,]", text)
    return {name: int(value) for name, value in found if name not in UNCUT}


def test_every_size_that_cuts_work_is_reached():
    there = {
        str(path.relative_to(ROOT)): sizes_in(path)
        for folder in ("cpu", "common")
        for path in sorted((ROOT / "csrc" / folder).glob("*"))
    }
    there = {name: sizes for name, sizes in there.items() if sizes}
    assert {n: set(s) for n, s in there.items()} == {n: set(s) for n, s in REACHED.items()}
    for name, sizes in there.items():
        for constant, size in sizes.items():
            reached = REACHED[name][constant]
            assert reached > 2 * size, f"{name}: {constant} cuts {reached} in fewer than three"
            assert reached % size, f"{name}: {constant} leaves no ragged end of {reached}"


def test_blocks_of_rows_are_alike_from_narrow_to_the_headline_width():
    text = (ROOT / "csrc/common/rows.h").read_text(encoding="utf-8")
    most = sizes_in(ROOT / "csrc/common/rows.h")["kMostBlockRows"]
    bounds = re.search(r"row_bytes, 1\) / \d+ \* (\d+), (\d+), kMostBlockRows\)", text)
    step, least = map(int, bounds.groups())
    for source in ("decisions.h", "pair_stats.cpp", "pair_stats_backward.cpp"):
        text = (ROOT / f"csrc/cpu/{source}").read_text(encoding="utf-8")
        assert len(re.findall(r"block_rows\(", text)) == 2
    for budget, row in ((4 << 20, 4), (3 << 19, 4)):
        for width in (3, 5, 13, 768):
            assert min(max(budget // (width * row) // step * step, least), most) == most
    # Backward of pair_stats keeps 16 bytes a column: 341 fit at 768 columns, a multiple of 32 less.
    assert min(max((4 << 20) // (768 * 16) // step * step, least), most) == 320
    assert divmod(ROWS, most)[0] >= 3
    assert divmod(ROWS, most)[1]
    assert MANY / most / 4 > 2  # tiles of classes in each of the 16 / 4 groups


@pytest.mark.parametrize("case", CASES)
def test_agreement_over_many_tiles(case):
    op = case.partition("-")[0]
    module = importlib.import_module(f".test_{op}", __package__)
    contract = next(v for v in vars(module).values() if getattr(v, "op", None) == op)()
    args = CASES[case]()
    leaves = contract.leaves(args)
    with use_backend("cpu"), poison():
        out = contract.call(*leaves)
        upstream = contract.upstream(out)
        gradients = contract.gradients(leaves, out, upstream) if upstream else {}
    dtype = contract.accumulation(args)
    with torch.no_grad():
        truth, plain = (contract.plain(d, *args) for d in (torch.float64, dtype))
    for name, found, exact, same in zip(contract.outputs, out, truth, plain, strict=False):
        floor = rounding_floor(exact, dtype, found.dtype, contract.output_scale(args, name))
        assert_matches(found.detach(), exact, same, floor=floor, name=name)
    if gradients:
        contract.assert_gradients(args, gradients, upstream)


def test_units_of_several_tiles_of_pairs():
    """From 4,096 tiles on, as the 49,152 rows of a head make, a unit has more than one."""
    points = tiny_tokens(46_500, 2, 2)[0].abs() + 0.5
    with use_backend("cpu"):
        stats, _, coincident = F.pair_stats(points, None, "none", ("cosine",))
    units = points.double() / points.double().norm(dim=1, keepdim=True)
    total, count = units.sum(0), len(points)
    assert stats[0, 0] == count * (count - 1) // 2
    assert int(coincident) == 0
    expected = float(total @ total - count) / 2
    assert abs(float(stats[0, 1]) - expected) <= 1e-6 * expected


def test_the_first_value_that_is_not_finite_is_named_among_many():
    x, y = tiny_tokens(ROWS, 13, FEW)
    y[:] = 0
    for row in (ROWS - 1, 1300, 700, 100):  # every one in another unit of 256 rows
        x[row, 5] = torch.nan
        with use_backend("cpu"), pytest.raises(DataError, match=rf"x\[{row}, 5\] is nan"):
            F.class_moments(x, y, FEW)

"""Named sample arguments of every op, one table: shapes, layouts and label patterns that matter.

To add an op: write a function that yields its samples and name it in ``_SAMPLES``, at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .reference.checks import IGNORE_INDEX

__all__ = ["Sample", "matrix", "sample_inputs", "tiny_tokens"]


def tiny_tokens(
    n: int, width: int, classes: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return random features [n, width] away from the origin and labels, a tenth ignored.

    >>> x, y = tiny_tokens(11, 3, 5)
    >>> x.shape, bool((y == -100).any())
    (torch.Size([11, 3]), True)
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=generator, dtype=torch.float64) + 1.5
    y = torch.randint(0, classes, (n,), generator=generator)
    y[::10] = IGNORE_INDEX
    return x.to(dtype), y


@dataclass(frozen=True)
class Sample:
    """Hold the arguments of one call of a public function, and what is special about them."""

    name: str
    args: tuple[Any, ...]

    def __repr__(self) -> str:
        return self.name


def sample_inputs(op: str, dtype: torch.dtype = torch.float32) -> list[Sample]:
    """Return named samples of an op's arguments: shapes, layouts and label patterns that matter.

    Args:
        op: The op's name.
        dtype: The dtype of features and points; class means follow at float32 or wider.

    Returns:
        Samples with the arguments of ``ncfast.functional``'s function of that name. Arguments that
        an op updates in place belong to the sample: clone them.

    >>> [s.name for s in sample_inputs("alignment") if "index" in s.name]
    ['index-shuffled', 'index-empty', 'index-strided']
    """
    if op not in _SAMPLES:
        raise ValueError(f"no samples of {op!r}; expected one of {sorted(_SAMPLES)}")
    return list(_SAMPLES[op](dtype))


def matrix(
    rows: int, width: int, dtype: torch.dtype, layout: str = "contiguous", seed: int = 0
) -> Tensor:
    """Return a random matrix whose memory is laid out in one of the ways users' tensors are."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return (torch.randn(*shape, generator=generator, dtype=torch.float64) + 0.75).to(dtype)

    if layout == "transposed":
        return draw(width, rows).T
    if layout == "expanded-rows":
        # Eighths: equal rows then have exactly their own mean, and no spread, in every dtype.
        return (draw(width).mul(8).round() / 8).expand(rows, width)
    if layout == "expanded-columns":
        return draw(rows, 1).expand(rows, width)
    if layout == "sliced":
        return draw(2 * rows + 3, width + 9)[3 : 2 * rows + 3 : 2, 5 : 5 + width]
    return draw(rows, width)


# name: tokens, width, classes, layout of x, labels
_TOKENS: dict[str, tuple[int, int, int, str, str]] = {
    "primes": (61, 13, 7, "contiguous", "mixed"),
    "more-classes-than-tokens": (31, 29, 101, "contiguous", "mixed"),
    "no-tokens": (0, 5, 3, "contiguous", "mixed"),
    "one-token": (1, 11, 3, "contiguous", "last"),
    "one-class": (37, 11, 1, "contiguous", "mixed"),
    "all-ignored": (17, 11, 3, "contiguous", "ignored"),
    "ignored-nan": (43, 11, 5, "contiguous", "nan"),
    "transposed": (47, 19, 5, "transposed", "mixed"),
    "expanded-rows": (41, 17, 5, "expanded-rows", "mixed"),
    "expanded-columns": (41, 17, 5, "expanded-columns", "mixed"),
    "sliced": (53, 23, 5, "sliced", "mixed"),
    "strided-labels": (53, 11, 5, "contiguous", "strided"),
    "long-class": (1103, 33, 11, "contiguous", "long"),
    "long-class-transposed": (1103, 7, 3, "transposed", "long"),
    "many-units": (4999, 37, 257, "contiguous", "long"),
    "width-0": (13, 0, 3, "contiguous", "mixed"),
    "width-1": (29, 1, 5, "contiguous", "mixed"),
    "width-1-transposed": (29, 1, 5, "transposed", "mixed"),
    "width-7": (29, 7, 5, "contiguous", "mixed"),
    "width-8": (29, 8, 5, "contiguous", "mixed"),
    "width-129": (59, 129, 5, "contiguous", "mixed"),
}


def _tokens(name: str, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, int]:
    """Return the features, labels and number of classes of a row of the table."""
    n, width, classes, layout, labels = _TOKENS[name]
    x = matrix(n, width, dtype, layout, seed)
    _, y = tiny_tokens(n, 1, classes, seed=seed + 1)
    if labels == "last":
        y = torch.full((n,), classes - 1)
    elif labels == "ignored":
        y = torch.full((n,), IGNORE_INDEX)
    elif labels == "nan":
        x[y == IGNORE_INDEX] = math.nan
    elif labels == "strided":
        y = torch.stack([y, torch.full((n,), 10**6), y + 10**6], 1).flatten()[::3]
    elif labels == "long":
        y[:1087] = 1  # two segments of 512 and 61 tokens more
        y[: 2 * 13 : 2] = IGNORE_INDEX
    return x, y, classes


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _wide_tokens(dtype: torch.dtype) -> tuple[Tensor, Tensor, int]:
    """Return features, labels and classes wide and whole enough for the scatters' large tiles."""
    return matrix(37, 136, dtype, seed=17), tiny_tokens(37, 1, 5, seed=18)[1], 5


def _class_moments(dtype: torch.dtype) -> Iterator[Sample]:
    for name in _TOKENS:
        yield Sample(name, _tokens(name, dtype))


def _within_class_scatter(dtype: torch.dtype) -> Iterator[Sample]:
    for name in _TOKENS:
        x, y, classes = _tokens(name, dtype)
        layout = _TOKENS[name][3]
        means = matrix(classes, x.shape[1], _wide(dtype), layout, seed=2)
        yield Sample(name, (x, y, means))
    x, y, classes = _wide_tokens(dtype)
    yield Sample("width-136", (x, y, matrix(classes, 136, _wide(dtype), seed=2)))
    if dtype != torch.float64:
        x, y, classes = _tokens("primes", dtype)
        yield Sample("means-float64", (x, y, matrix(classes, 13, torch.float64, seed=2)))


def _state(classes: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return running moments of which every third class is still empty."""
    generator = torch.Generator().manual_seed(3)
    counts = torch.randint(1, 40, (classes,), generator=generator)
    counts[::3] = 0
    means = matrix(classes, width, dtype, seed=4) * (counts > 0)[:, None]
    m2 = torch.rand(classes, generator=generator, dtype=torch.float64) * counts
    root = matrix(width, width, torch.float64, seed=5)
    return counts, means, m2, root @ root.T


def _accumulate(dtype: torch.dtype) -> Iterator[Sample]:
    for name in _TOKENS:
        x, y, classes = _tokens(name, dtype)
        counts, means, m2, scatter = _state(classes, x.shape[1], _wide(dtype))
        yield Sample(name, (counts, means, m2, None, x, y))
        yield Sample(f"{name}-scatter", (counts, means, m2, scatter, x, y))
    x, y, classes = _wide_tokens(dtype)
    yield Sample("width-136-scatter", (*_state(classes, 136, _wide(dtype)), x, y))
    if dtype != torch.float64:
        x, y, classes = _tokens("long-class", dtype)
        counts, means, m2, scatter = _state(classes, x.shape[1], torch.float64)
        yield Sample("state-float64", (counts, means, m2, scatter, x, y))


# name: classes, width, layout, center, index
_POINTS: dict[str, tuple[int, int, str, str, str]] = {
    "primes": (23, 13, "contiguous", "classes", ""),
    "center-none": (23, 13, "contiguous", "none", ""),
    "center-tensor": (23, 13, "contiguous", "tensor", ""),
    "index-shuffled": (47, 11, "contiguous", "classes", "shuffled"),
    "index-empty": (23, 11, "contiguous", "classes", "empty"),
    "index-strided": (47, 11, "transposed", "tensor", "strided"),
    "no-rows": (0, 5, "contiguous", "classes", ""),
    "one-row": (1, 11, "contiguous", "none", ""),
    "many-tiles": (4999, 37, "contiguous", "tensor", ""),
    "transposed": (31, 19, "transposed", "classes", ""),
    "expanded-rows": (17, 13, "expanded-rows", "none", ""),
    "expanded-columns": (17, 13, "expanded-columns", "classes", ""),
    "sliced": (31, 23, "sliced", "tensor", ""),
    "width-0": (13, 0, "contiguous", "none", ""),
    "width-1": (23, 1, "contiguous", "tensor", ""),
    "width-1-transposed": (23, 1, "transposed", "tensor", ""),
    "width-7": (23, 7, "contiguous", "tensor", ""),
    "width-8": (23, 8, "contiguous", "tensor", ""),
    "width-33": (29, 33, "contiguous", "classes", ""),
    "width-129": (29, 129, "contiguous", "tensor", ""),
}


def _points(name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor | str, Tensor | None]:
    """Return the points, the center and the index of a row of the table."""
    rows, width, layout, center, pattern = _POINTS[name]
    generator = torch.Generator().manual_seed(6)
    index = {
        "": None,
        "shuffled": torch.randperm(rows, generator=generator)[: rows // 3],
        "strided": torch.randperm(rows, generator=generator)[::3],
        "empty": torch.zeros(0, dtype=torch.int64),
    }[pattern]
    middle = matrix(1, width, _wide(dtype), seed=7)[0] if center == "tensor" else center
    return matrix(rows, width, dtype, layout, seed=8), middle, index


def _between_class_scatter(dtype: torch.dtype) -> Iterator[Sample]:
    for name in _POINTS:
        means, center, index = _points(name, dtype)
        yield Sample(name, (means, None, center, index))
        count = means.shape[0] if index is None else index.shape[0]
        weights = matrix(count, 1, torch.float64, seed=9)[:, 0].abs()
        weights[::5] = 0
        yield Sample(f"{name}-weighted", (means, weights.to(_wide(dtype)), center, index))
    wide, _, _ = _wide_tokens(dtype)
    yield Sample("width-136", (wide, None, "classes", torch.arange(36, 0, -2)))


def _alignment(dtype: torch.dtype) -> Iterator[Sample]:
    for name in _POINTS:
        points, center, index = _points(name, dtype)
        rows, width = points.shape
        head_weight = matrix(rows, width, dtype, _POINTS[name][2], seed=10)
        yield Sample(name, (head_weight, points, center, index))
    points, _, _ = _points("primes", dtype)
    head_weight = matrix(23, 13, dtype, seed=10)
    yield Sample("head-float32", (head_weight.to(_wide(dtype)), points, "classes", None))
    zeros = head_weight.clone(), points.clone()
    zeros[0][3], zeros[1][5] = 0, 0
    yield Sample("zero-rows", (*zeros, "none", None))


_ALL_KINDS = ("cdnv", "cdnv", "log_distance", "cosine", "log_distance_raw")
_ALL_POWERS, _ALL_TARGETS = (1, 2, 1, 1, 1), (0.0, 0.1, -0.25, -1 / 22, 0.5)


def _pairs_of(
    points: Tensor, center: Tensor | str, index: Tensor | None, edges: Tensor | None = None
) -> tuple[Any, ...]:
    spread = matrix(points.shape[0], 1, _wide(points.dtype), seed=11)[:, 0].square() + 0.25
    return points, spread, center, _ALL_KINDS, _ALL_POWERS, _ALL_TARGETS, index, edges


def _pair_stats(dtype: torch.dtype) -> Iterator[Sample]:
    for name in _POINTS:
        if name in ("many-tiles", "expanded-columns"):
            continue  # millions of pairs; parallel points, whose directions differ by rounding
        points, center, index = _points(name, dtype)
        if points.shape[1] == 1:
            points += 3 * torch.arange(len(points))[:, None]  # or some pairs drown all others
        yield Sample(name, _pairs_of(points, center, index))
    points, center, _ = _points("primes", dtype)
    yield Sample("two-tiles", _pairs_of(matrix(577, 17, dtype, seed=12), "classes", None))
    yield Sample("cdnv-only", (points, *_pairs_of(points, center, None)[1:3], ("cdnv",)))
    parallel, middle, _ = _points("expanded-columns", dtype)
    kinds = ("cosine", "log_distance_raw")
    yield Sample("expanded-columns", (parallel, None, middle, kinds))
    low = torch.tensor([0.0, 0.0, -1.0, -0.75, -2.0], dtype=torch.float64)
    edges = low[:, None] + torch.linspace(0, 1.1875, 20, dtype=torch.float64)
    yield Sample("histogram", _pairs_of(points, center, None, edges))
    zeros = points.clone()
    zeros[3], zeros[5] = 0, 0
    yield Sample("zero-rows", _pairs_of(zeros, "none", None))
    twins = points.clone()
    twins[7], twins[11] = twins[2], twins[2]
    yield Sample("zero-distance", _pairs_of(twins, "classes", None))


# name: tokens, classes, width, layout, bias, index
_DECISIONS: dict[str, tuple[int, int, int, str, bool, str]] = {
    "primes": (61, 23, 13, "contiguous", True, ""),
    "no-bias": (61, 23, 13, "contiguous", False, ""),
    "no-tokens": (0, 5, 3, "contiguous", True, ""),
    "one-token": (1, 23, 11, "contiguous", True, ""),
    "two-classes": (31, 2, 7, "contiguous", True, ""),
    "index-shuffled": (47, 61, 11, "contiguous", True, "shuffled"),
    "index-strided": (47, 61, 11, "transposed", True, "strided"),
    "transposed": (47, 31, 19, "transposed", True, ""),
    "sliced": (47, 31, 19, "sliced", True, ""),
    "expanded-columns": (29, 17, 13, "expanded-columns", False, ""),
    "many-tiles": (1103, 787, 17, "contiguous", True, ""),
    "width-1": (29, 7, 1, "contiguous", True, ""),
    "width-7": (29, 13, 7, "contiguous", True, ""),
    "width-8": (29, 13, 8, "contiguous", True, ""),
    "width-129": (29, 13, 129, "contiguous", True, ""),
}


def _decision(name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return the tokens, the classes, a bias and an index of a row of the table."""
    tokens, classes, width, layout, biased, pattern = _DECISIONS[name]
    generator = torch.Generator().manual_seed(13)
    order = torch.randperm(classes, generator=generator)
    index = {"": None, "shuffled": order[: classes // 3], "strided": order[::3]}[pattern]
    bias = matrix(classes, 1, _wide(dtype), seed=14)[:, 0] if biased else None
    rows = matrix(classes, width, dtype, layout, seed=16)
    return matrix(tokens, width, dtype, layout, seed=15), rows, bias, index


def _linear_argmax(dtype: torch.dtype) -> Iterator[Sample]:
    for name in _DECISIONS:
        yield Sample(name, _decision(name, dtype))


def _nearest_center(dtype: torch.dtype) -> Iterator[Sample]:
    for name in _DECISIONS:
        x, means, _, index = _decision(name, dtype)
        yield Sample(name, (x, means, index))
    if dtype != torch.float64:
        x, means, _, _ = _decision("primes", dtype)
        yield Sample("means-float64", (x, means.double(), None))


# name: tokens, width, classes, then what differs from the defaults of linear_cross_entropy
_HEADS: dict[str, tuple[int, int, int, dict[str, Any]]] = {
    "many-classes": (61, 13, 1103, {}),
    "softcap": (61, 13, 1103, {"softcap": 3.0}),
    "smoothed": (61, 13, 601, {"label_smoothing": 0.1}),
    "shard": (61, 13, 601, {"vocab_start": 300, "vocab_size": 1103}),
    "padded": (61, 13, 601, {"vocab_size": 523, "label_smoothing": 0.2}),
    "stored-some": (61, 13, 1103, {"memory_budget": 250_000}),
    "stored-all": (61, 13, 601, {"memory_budget": 1 << 30}),
    "stored-softcap": (61, 13, 601, {"memory_budget": 1 << 18, "softcap": 5.0}),
    "extreme": (61, 13, 601, {}),
    "row-tiles": (523, 7, 37, {}),
}


def _linear_cross_entropy(dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name: str, x: Tensor, y: Tensor, rows: int, layout: str, **other: Any) -> Sample:
        head = matrix(rows, x.shape[1], dtype, layout, seed=12)
        bias = None if name in ("one-class", "width-8") else matrix(rows, 1, dtype, seed=13)[:, 0]
        names = ("softcap", "vocab_start", "label_smoothing", "memory_budget", "vocab_size")
        defaults = {"softcap": 0.0, "label_smoothing": 0.0, "vocab_size": None}
        settings = {name: 0 for name in names} | defaults | other
        return Sample(name, (x, head, y, bias, *(settings[name] for name in names)))

    for name in _TOKENS:
        if name != "many-units":
            x, y, classes = _tokens(name, dtype)
            yield sample(name, x, y, classes, _TOKENS[name][3])
    for name, (tokens, width, classes, other) in _HEADS.items():
        x = matrix(tokens, width, dtype, seed=14)
        y = tiny_tokens(tokens, 1, other.get("vocab_size") or classes, seed=15)[1]
        # Logits of some 1e4, whose exponentials overflow in every dtype.
        yield sample(name, x * 1000 if name == "extreme" else x, y, classes, "contiguous", **other)


_SAMPLES: dict[str, Callable[[torch.dtype], Iterator[Sample]]] = {
    "accumulate_class_moments_": _accumulate,
    "alignment": _alignment,
    "between_class_scatter": _between_class_scatter,
    "class_moments": _class_moments,
    "linear_argmax": _linear_argmax,
    "linear_cross_entropy": _linear_cross_entropy,
    "nearest_center": _nearest_center,
    "pair_stats": _pair_stats,
    "within_class_scatter": _within_class_scatter,
}

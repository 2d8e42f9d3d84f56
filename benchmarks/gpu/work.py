"""The least work of every op on a GPU, by the name it has in the dispatch table.

Every input is read once and every output written once. Features, head rows and points take the
dtype's bytes; class means, running state and D x D sums do not follow it: 4 and 8 bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .heads import Head

__all__ = ["PAIR_KINDS", "WORK", "Product", "Work"]

PAIR_KINDS = 2  # terms of the pair_stats that is predicted and timed: CDNV and log distance
PAIR_FLOPS = 30  # of one term of one pair, counted in the source: a division, a logarithm, six sums


@dataclass(frozen=True)
class Product:
    """Hold a product of [rows, depth] with [columns, depth]^T.

    ``symmetric``: with itself, so that half is enough. ``fast``: which tiles follow one another.
    ``on_chip``: of tiles that are there already, whose reading another product counts.
    """

    rows: int
    columns: int
    depth: int
    symmetric: bool = False
    fast: str = "columns"
    on_chip: bool = False

    @property
    def flops(self) -> int:
        """Return the multiplications and additions that are needed."""
        return (1 if self.symmetric else 2) * self.rows * self.columns * self.depth


@dataclass(frozen=True)
class Work:
    """Hold the least bytes of HBM, the matrix products, and the float32 operations beside them."""

    bytes: int
    products: tuple[Product, ...] = ()
    vector_flops: int = 0

    @property
    def flops(self) -> int:
        """Return the arithmetic of all products."""
        return sum(product.flops for product in self.products)


def _class_moments(h: Head, e: int) -> Work:
    return Work(_tokens(h, e) + _rows(h, 4) + 12 * h.classes, (), 3 * h.tokens * h.width)


def _class_moments_backward(h: Head, e: int) -> Work:
    gathered = 2 * 4 * _occurring(h) * h.width
    return Work(2 * _tokens(h, e) + gathered, (), 3 * h.tokens * h.width)


def _accumulate(h: Head, e: int) -> Work:
    return Work(_tokens(h, e) + 2 * 4 * _occurring(h) * h.width, (), 3 * h.tokens * h.width)


def _within(h: Head, e: int) -> Work:
    moved = _tokens(h, e) + 4 * _occurring(h) * h.width + 8 * h.width**2
    return Work(moved, (Product(h.width, h.width, h.tokens, symmetric=True),))


def _within_backward(h: Head, e: int) -> Work:
    moved = 2 * _tokens(h, e) + 2 * 4 * _occurring(h) * h.width + 8 * h.width**2
    return Work(moved, (Product(h.tokens, h.width, h.width, fast="rows"),))


def _between(h: Head, e: int) -> Work:
    product = Product(h.width, h.width, h.classes, symmetric=True)
    return Work(_rows(h, e) + 8 * h.width**2, (product,))


def _between_backward(h: Head, e: int) -> Work:
    product = Product(h.classes, h.width, h.width, fast="rows")
    return Work(2 * _rows(h, e) + 8 * h.width**2, (product,))


def _alignment(h: Head, e: int) -> Work:
    return Work(2 * _rows(h, e) + 4 * h.classes, (), 6 * h.classes * h.width)


def _alignment_backward(h: Head, e: int) -> Work:
    return Work(4 * _rows(h, e) + 4 * h.classes, (), 12 * h.classes * h.width)


def _pair_stats(h: Head, e: int) -> Work:
    pairs = h.classes * (h.classes - 1) // 2
    product = Product(h.classes, h.classes, h.width, symmetric=True)
    return Work(_rows(h, e) + 8 * h.classes, (product,), PAIR_KINDS * PAIR_FLOPS * pairs)


def _pair_stats_backward(h: Head, e: int) -> Work:
    # The products again, then their coefficients times the points: 3 V^2 D.
    pairs = h.classes * (h.classes - 1) // 2
    again = Product(h.classes, h.classes, h.width, symmetric=True)
    gradient = Product(h.classes, h.width, h.classes, on_chip=True)
    moved = 2 * _rows(h, e) + 16 * h.classes
    return Work(moved, (again, gradient), PAIR_KINDS * PAIR_FLOPS * pairs)


def _linear_argmax(h: Head, e: int) -> Work:
    return Work(_tokens(h, e) + _rows(h, e) + 12 * h.tokens, (_logits(h),))


def _nearest_center(h: Head, e: int) -> Work:
    return Work(_tokens(h, e) + _rows(h, 4) + 12 * h.tokens, (_logits(h),))


def _cross_entropy(h: Head, e: int) -> Work:
    return Work(_tokens(h, e) + _rows(h, e) + 8 * h.tokens, (_logits(h),))


def _cross_entropy_backward(h: Head, e: int) -> Work:
    # The logits again, then the gradients of x and of the head: 6 N V D.
    to_x = Product(h.tokens, h.width, h.classes, on_chip=True)
    to_head = Product(h.classes, h.width, h.tokens, on_chip=True)
    moved = 2 * (_tokens(h, e) + _rows(h, e)) + 12 * h.tokens
    return Work(moved, (_logits(h), to_x, to_head))


def _logits(h: Head) -> Product:
    return Product(h.tokens, h.classes, h.width, fast="rows")


def _tokens(h: Head, e: int) -> int:
    return h.tokens * (h.width * e + 8)


def _rows(h: Head, e: int) -> int:
    return h.classes * h.width * e


def _occurring(h: Head) -> int:
    # As many as there are tokens, or every class: what labels drawn at random come near.
    return min(h.tokens, h.classes)


WORK: dict[str, Callable[[Head, int], Work]] = {
    "class_moments": _class_moments,
    "class_moments_backward": _class_moments_backward,
    "accumulate_class_moments_": _accumulate,
    "within_class_scatter": _within,
    "within_class_scatter_backward": _within_backward,
    "between_class_scatter": _between,
    "between_class_scatter_backward": _between_backward,
    "alignment": _alignment,
    "alignment_backward": _alignment_backward,
    "pair_stats": _pair_stats,
    "pair_stats_backward": _pair_stats_backward,
    "linear_argmax": _linear_argmax,
    "nearest_center": _nearest_center,
    "linear_cross_entropy": _cross_entropy,
    "linear_cross_entropy_backward": _cross_entropy_backward,
}

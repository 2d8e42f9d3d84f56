"""The least work each op can do: bytes, FLOPs and memory, with the reasoning.

N tokens, V classes, D width, T classes that occur in the batch, e bytes of a feature. Each input is
read once; outputs are written once. Symmetric products count half of the full one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bound:
    """Hold an op's least memory traffic (bytes), arithmetic (FLOP) and output memory (bytes)."""

    moved: float
    flops: float
    outputs: float


def accumulate_class_moments_(n: int, d: int, v: int, t: int, e: int) -> Bound:
    """Read x and labels once, read and write the float32 rows that occur."""
    return Bound(n * d * e + 8 * n + 2 * 4 * t * d, 3 * n * d, 0)


def class_moments(n: int, d: int, v: int, t: int, e: int) -> Bound:
    """Read x and labels once, write all V fresh rows."""
    return Bound(n * d * e + 8 * n + 4 * v * d, 3 * n * d, 4 * v * d + 12 * v)


def within_class_scatter(n: int, d: int, v: int, t: int, e: int) -> Bound:
    """Read x and the means that occur once; N D^2 FLOP, the symmetric half of 2 N D^2."""
    return Bound(n * d * e + 4 * t * d, n * d * d, 8 * d * d)


def accumulate_with_scatter(n: int, d: int, v: int, t: int, e: int) -> Bound:
    """Do both: one more Gram row for every class that occurs."""
    moments = accumulate_class_moments_(n, d, v, t, e)
    return Bound(moments.moved, (n + t) * d * d, 0)


def between_class_scatter(n: int, d: int, v: int, t: int, e: int) -> Bound:
    """Read V rows once; V D^2 FLOP."""
    return Bound(4 * v * d, v * d * d, 8 * d * d)


def alignment(n: int, d: int, v: int, t: int, e: int) -> Bound:
    """Forward reads W and P; backward reads both again and writes both gradients."""
    return Bound(6 * 4 * v * d, 18 * v * d, 4 * v)


def pair_stats(n: int, d: int, v: int, t: int, e: int) -> Bound:
    """Read the points once; the upper half of a V x V Gram is V^2 D FLOP."""
    return Bound(4 * v * d, v * v * d, 0)


def nearest_center_and_linear_argmax(n: int, d: int, v: int, t: int, e: int) -> Bound:
    """Multiply N tokens by V head rows and by V means: 4 N V D FLOP."""
    return Bound(n * d * e + 2 * 4 * v * d, 4 * n * v * d, 32 * n)

"""The least work each op can do: bytes, FLOP and output memory, with the reasoning.

Every input is read once and every output written once, whatever a kernel needs in between. Products
of a matrix with its own transpose are symmetric: half of their 2 N D^2 FLOP is enough. A feature
takes ``itemsize`` bytes, a mean or a head row's number 4, a count, label or index 8. What a
GPU should take is predicted by ``benchmarks/gpu``.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "Bound",
    "Size",
    "accumulate_class_moments_",
    "accumulate_with_scatter",
    "alignment_forward_backward",
    "between_class_scatter",
    "class_moments",
    "duality_memory_goal",
    "duality_term",
    "extra_memory_goal",
    "linear_cross_entropy",
    "loss_memory_goal",
    "loss_with_budget_memory_goal",
    "metrics_memory_goal",
    "nearest_center_and_linear_argmax",
    "neural_collapse",
    "pair_stats",
    "within_class_scatter",
]


@dataclass(frozen=True)
class Size:
    """Hold what a bound depends on.

    ``occurring`` counts the classes that labels name, ``labelled`` the tokens whose label is not
    ignored, ``chosen`` the classes of the word set and ``members`` the tokens they label.
    """

    tokens: int
    width: int
    classes: int
    occurring: int
    itemsize: int
    labelled: int = 0
    chosen: int = 0
    members: int = 0

    @property
    def features(self) -> int:
        """Return the bytes of the features and of their labels."""
        return self.tokens * self.width * self.itemsize + 8 * self.tokens


@dataclass(frozen=True)
class Bound:
    """Hold an op's least memory traffic, least arithmetic and the memory of its fresh outputs."""

    bytes: int
    flops: int
    outputs: int


def accumulate_class_moments_(size: Size) -> Bound:
    """Read x and y; read and write the float32 rows of the classes that occur, and no others.

    Counts and spreads of those classes (32 bytes a class) are left out: below 1 % at D = 768.
    """
    rows = 2 * 4 * size.occurring * size.width
    return Bound(size.features + rows, 3 * size.tokens * size.width, 0)


def accumulate_with_scatter(size: Size) -> Bound:
    """Do the same, and add N D^2 FLOP of products and one more product per class that occurs."""
    moments = accumulate_class_moments_(size)
    gram = (size.tokens + size.occurring) * size.width**2
    return Bound(moments.bytes + 2 * 8 * size.width**2, moments.flops + gram, 0)


def class_moments(size: Size) -> Bound:
    """Read x and y; write all V rows, which are fresh memory whether a class occurs or not."""
    outputs = 4 * size.classes * size.width + (8 + 4) * size.classes
    return Bound(size.features + outputs, 3 * size.tokens * size.width, outputs)


def within_class_scatter(size: Size) -> Bound:
    """Read x, y and the means that occur; N D^2 FLOP, the symmetric half of 2 N D^2."""
    outputs = 8 * size.width**2
    means = 4 * size.occurring * size.width
    return Bound(size.features + means + outputs, size.tokens * size.width**2, outputs)


def between_class_scatter(size: Size) -> Bound:
    """Read V rows; V D^2 FLOP, the symmetric half."""
    outputs = 8 * size.width**2
    rows = 4 * size.classes * size.width
    return Bound(rows + outputs, size.classes * size.width**2, outputs)


def alignment_forward_backward(size: Size) -> Bound:
    """Read head rows and points in both directions; write both gradients, once, into given memory.

    Forward takes 6 V D FLOP (a product and two norms), backward 6 V D again and 6 V D to combine.
    """
    rows = 4 * size.classes * size.width
    return Bound(6 * rows, 18 * size.classes * size.width, 4 * size.classes)


def pair_stats(size: Size) -> Bound:
    """Read V points; V^2 D FLOP: the inner products of V (V - 1) / 2 pairs, for all kinds at once.

    Divisions, roots and logarithms of a pair are not counted: hiding them is the kernel's task.
    """
    return Bound(4 * size.classes * (size.width + 1), size.classes**2 * size.width, 0)


def nearest_center_and_linear_argmax(size: Size) -> Bound:
    """Read x, the means and the head; 2 N V D FLOP for each of the two; write class and margin."""
    rows = 2 * 4 * size.classes * size.width
    outputs = 2 * (8 + 4) * size.tokens
    features = size.tokens * size.width * size.itemsize
    return Bound(features + rows + outputs, 4 * size.tokens * size.classes * size.width, outputs)


def neural_collapse(size: Size) -> Bound:
    """Read the statistics and the head; visit the pairs of class means once: V^2 D FLOP.

    The calibrated metrics visit other pairs and the Grams take 3 V D^2: the goal is 3.2 of this.
    """
    rows = 2 * 4 * size.classes * size.width
    return Bound(rows + 8 * size.width**2, size.classes**2 * size.width, 0)


def linear_cross_entropy(size: Size) -> Bound:
    """Read x and the head in both directions, write both gradients; 6 N V D FLOP of N that count.

    That is three products (logits, and a gradient each). Computing the logits a second time, which
    is what not storing them costs, is no part of the least.
    """
    head, x = 4 * size.classes * size.width, 4 * size.tokens * size.width
    flops = 6 * size.labelled * size.classes * size.width
    return Bound(3 * (head + x), flops, head + x)


def duality_term(size: Size) -> Bound:
    """Read labels, the members' features and K head rows; write both gradients, zeros included.

    Forward takes 8 K D FLOP and an addition per member's number, backward 12 K D and one more.
    """
    outputs = 4 * (size.tokens + size.classes) * size.width
    rows = 4 * (2 * size.members + 2 * size.chosen) * size.width
    flops = (20 * size.chosen + 2 * size.members) * size.width
    return Bound(8 * size.tokens + rows + outputs, flops, outputs)


def loss_memory_goal(size: Size) -> int:
    """Return the bytes the head's loss may take beside its gradients: 64 MiB."""
    return 64 << 20


def loss_with_budget_memory_goal(size: Size) -> int:
    """Return the same with a quarter of the logits, in float32, as the memory budget."""
    return loss_memory_goal(size) + size.tokens * size.classes


def duality_memory_goal(size: Size) -> int:
    """Return the bytes the term may take beside its gradients: of the size K D, none of V D.

    Sixteen rows a class of the set, 16 bytes a token, 16 a class for the table of slots, and 4 MiB
    for what Python and the allocator do.
    """
    rows = 16 * 4 * size.chosen * size.width
    return rows + 16 * size.tokens + 16 * size.classes + (4 << 20)


def metrics_memory_goal(size: Size) -> int:
    """Return the bytes all metrics may take beside the statistics: 500 MB."""
    return 500_000_000


def extra_memory_goal(size: Size) -> int:
    """Return the bytes an op may take beside its outputs: 16 a token and 64 MiB."""
    return 16 * size.tokens + (64 << 20)

"""The torch code a good engineer would write for each op: batched, nothing of size V x V kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .contract import Inputs, Prepare, Prepared
from .head_losses import of_every_kind, plain
from .moments import PAIR_KINDS, histogram_edges, named_moments

__all__ = ["TABLE"]

_TOKENS = 1_024  # of scores over all classes at a time: 125 MB at V = 30,522
_ROWS = 512  # of pairs with all later classes at a time: 62 MB at V = 30,522


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _accumulate(inputs: Inputs) -> Prepared:
    counts, sums = inputs.state[:2]
    sums.mul_(counts[:, None])  # the buffer that holds running means for others
    x, y, ones = inputs.x, inputs.y, torch.ones_like(inputs.y)

    def call() -> None:
        sums.index_add_(0, y, x.to(sums.dtype))
        counts.index_add_(0, y, ones)

    return Prepared(
        call,
        lambda _: {"counts": counts, "means": sums / counts[:, None]},
        note="index_add_ of sums and counts; no spread",
    )


def _accumulate_with_scatter(inputs: Inputs) -> Prepared:
    counts, means, m2, scatter = inputs.state
    x, y = inputs.x, inputs.y

    def call() -> None:
        ids, inverse, batch_counts = y.unique(return_inverse=True, return_counts=True)
        wide = x.to(means.dtype)
        batch_means = torch.zeros(ids.numel(), x.shape[1], dtype=means.dtype)
        batch_means.index_add_(0, inverse, wide).div_(batch_counts[:, None])
        residuals = wide - batch_means[inverse]
        m2.index_add_(0, y, residuals.square().sum(1).double())
        scatter.add_(residuals.T @ residuals)
        before = counts[ids]
        moved = batch_means - means[ids]
        weight = before * batch_counts / (before + batch_counts).double()
        m2[ids] += weight * moved.square().sum(1)
        scatter.add_((moved * weight.to(moved.dtype)[:, None]).T @ moved)
        means[ids] += moved * (batch_counts / (before + batch_counts))[:, None].to(moved.dtype)
        counts[ids] += batch_counts

    return Prepared(
        call, lambda _: {"counts": counts, "means": means, "m2": m2, "scatter": scatter}
    )


def _class_moments(inputs: Inputs) -> Prepared:
    x, y, classes = inputs.x, inputs.y, inputs.classes

    def call() -> tuple[Tensor, Tensor, Tensor]:
        wide = _wide(x)
        counts = torch.bincount(y, minlength=classes)
        means = torch.zeros(classes, x.shape[1], dtype=wide.dtype).index_add_(0, y, wide)
        means /= counts.clamp(min=1)[:, None]
        spread = (wide - means[y]).square_().sum(1)
        return counts, means, torch.zeros(classes, dtype=wide.dtype).index_add_(0, y, spread)

    return Prepared(call, lambda out: dict(zip(("counts", "means", "m2"), out, strict=True)))


def _within(inputs: Inputs) -> Prepared:
    x, y, means = inputs.x, inputs.y, inputs.means

    def call() -> Tensor:
        residuals = _wide(x) - means[y]
        return residuals.T @ residuals

    return Prepared(call, lambda out: {"scatter": out})


def _between(inputs: Inputs) -> Prepared:
    means = inputs.means

    def call() -> Tensor:
        centred = means - means.mean(0)
        return centred.T @ centred

    return Prepared(call, lambda out: {"scatter": out})


def _alignment(inputs: Inputs) -> Prepared:
    leaves = inputs.head_weight, inputs.means, inputs.center

    def call() -> tuple[Tensor, ...]:
        head_weight, points, center = (t.detach().requires_grad_() for t in leaves)
        cosines = torch.nn.functional.cosine_similarity(head_weight, points - center)
        grads = torch.autograd.grad(cosines, (head_weight, points, center), inputs.grad)
        return cosines.detach(), *grads

    names = ("cosines", "grad head_weight", "grad points", "grad center")
    return Prepared(
        call, lambda out: dict(zip(names, out, strict=True)), note="gradients in fresh memory"
    )


def _moments_of(values: Tensor) -> Tensor:
    """Return count, sum, sum of squares, least and most in float64; sums over rows in the dtype."""
    sums, squares = values.sum(-1).double().sum(), values.square().sum(-1).double().sum()
    least, most = torch.aminmax(values)
    count = sums.new_tensor(values.numel())
    return torch.stack([count, sums, squares, least.double(), most.double()])


def _merged(moments: list[Tensor]) -> Tensor:
    table = torch.stack(moments)
    return torch.cat([table[:, :3].sum(0), table[:, 3].min()[None], table[:, 4].max()[None]])


def _pairs(inputs: Inputs, histograms: bool) -> Prepared:
    """Visit later classes from blocks of rows; one product serves both kinds."""
    points, variances, classes = inputs.means, inputs.variances, inputs.classes
    edges = histogram_edges(inputs.width)
    bins = edges.shape[1] - 1

    def block(centred: Tensor, norms: Tensor, begin: int) -> list[Tensor]:
        rows = slice(begin, begin + _ROWS)
        inner = centred[rows] @ centred[begin:].T
        squares = norms[rows, None] + norms[begin:] - 2 * inner
        cdnv = (variances[rows, None] + variances[begin:]).div_(squares).div_(2)
        cosines = inner.div_((norms[rows, None] * norms[begin:]).sqrt_())
        logs = cosines.mul_(-2).add_(2).log_().div_(-2)
        return [cdnv, logs]

    def call() -> tuple[Tensor, Tensor]:
        centred = points - points.mean(0)
        norms = centred.square().sum(1)
        moments: list[list[Tensor]] = [[], []]
        counted = torch.zeros(2, bins, dtype=torch.int64)
        for begin in range(0, classes, _ROWS):
            size = min(_ROWS, classes - begin)
            upper = torch.triu_indices(size, size, 1)
            for kind, values in enumerate(block(centred, norms, begin)):
                for part in (values[upper[0], upper[1]], values[:, size:]):
                    if not part.numel():
                        continue
                    moments[kind].append(_moments_of(part))
                    if histograms:
                        low, high = float(edges[kind, 0]), float(edges[kind, -1])
                        counted[kind] += torch.histc(part, bins, low, high).to(torch.int64)
        return torch.stack([_merged(m) for m in moments]), counted

    def results(out: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return named_moments(PAIR_KINDS, out[0]) | ({"histogram": out[1]} if histograms else {})

    return Prepared(call, results, note=f"{_ROWS} rows with all later classes at a time")


def _energies(inputs: Inputs) -> Prepared:
    """Return log sum |a/|a| - b/|b||^-s of centred means, s = D - 2; pairs as in :func:`_pairs`."""
    points, classes, power = inputs.means, inputs.classes, inputs.width - 2

    def call() -> Tensor:
        rows = torch.nn.functional.normalize(points - points.mean(0), dim=1)
        logs = []
        for begin in range(0, classes, _ROWS):
            size = min(_ROWS, classes - begin)
            upper = torch.triu_indices(size, size, 1)
            values = (rows[begin : begin + _ROWS] @ rows[begin:].T).mul_(-2).add_(2).log_()
            values.mul_(-power / 2)
            logs += [values[upper[0], upper[1]].logsumexp(0), values[:, size:].logsumexp((0, 1))]
        return torch.stack(logs).double().logsumexp(0)

    return Prepared(
        call,
        lambda out: {"log sum of Riesz energies": out},
        note=f"{_ROWS} rows with all later classes at a time",
    )


def _decide(inputs: Inputs) -> Prepared:
    x, means, head_weight = inputs.x, inputs.means, inputs.head_weight

    def call() -> tuple[list[Any], list[Any]]:
        shift = means.square().sum(1) / -2
        nearest, best = [], []
        for part in _wide(x).split(_TOKENS):
            nearest.append(torch.addmm(shift, part, means.T).topk(2))
            best.append((part @ head_weight.T).topk(2))
        return nearest, best

    def results(out: tuple[list[Any], list[Any]]) -> dict[str, Tensor]:
        found = {}
        for name, parts in zip(("nearest", "linear"), out, strict=True):
            scores = torch.cat([part.values for part in parts])
            found[f"{name} class"] = torch.cat([part.indices for part in parts])[:, 0]
            found[f"{name} margin"] = scores[:, 0] - scores[:, 1]
        found["agreement"] = (found["nearest class"] == found["linear class"]).sum()
        return found

    return Prepared(call, results, note=f"{_TOKENS:,} tokens at a time, topk(2)")


def _all_metrics(inputs: Inputs) -> Prepared:
    """Compute the metrics that many people compute, not every key of ours."""
    means, head_weight, tokens = inputs.means, inputs.head_weight, inputs.counts.sum()
    pairs = _pairs(inputs, histograms=False)

    def call() -> dict[str, Tensor]:
        found = pairs.results(pairs.call())
        centred = means - means.mean(0)
        cosines = torch.nn.functional.cosine_similarity(head_weight, centred)
        between = centred.square().sum(1).double().mean()
        within = inputs.m2.sum() / tokens
        return {
            "log_distance_mean": found["log_distance mean"],
            "nc3_mean": cosines.double().mean(),
            "trace_between": between,
            "trace_within": within,
            "nc1_quotient": within / between,
            "nc1_pinv": _pinv_trace(centred.double(), inputs.scatter / tokens),
        }

    return Prepared(call, lambda out: out, note="six of the metrics only")


def _pinv_trace(centred: Tensor, within: Tensor) -> Tensor:
    between = centred.T @ centred / centred.shape[0]
    return torch.trace(torch.linalg.pinv(between, hermitian=True) @ within) / centred.shape[0]


TABLE: dict[str, Prepare] = {
    "accumulate_class_moments_": _accumulate,
    "accumulate_class_moments_ with scatter": _accumulate_with_scatter,
    "class_moments": _class_moments,
    "within_class_scatter": _within,
    "between_class_scatter": _between,
    "alignment forward and backward": _alignment,
    "pair_stats": lambda inputs: _pairs(inputs, histograms=False),
    "pair_stats with histograms": lambda inputs: _pairs(inputs, histograms=True),
    "pair_stats with energies": _energies,
    "nearest_center and linear_argmax": _decide,
    "neural_collapse": _all_metrics,
    **of_every_kind(lambda loss: loss.prepared(plain, "all logits kept")),
}

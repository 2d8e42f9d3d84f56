"""Chan's merge: d = mean_b - mean_a, mean += d n_b/n, m2 += m2_b + |d|^2 n_a n_b/n."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_finite, check_labels
from .class_moments import class_moments
from .within_class_scatter import within_class_scatter


def accumulate_class_moments_(
    counts: Tensor, means: Tensor, m2: Tensor, scatter: Tensor | None, x: Tensor, y: Tensor
) -> None:
    """Merge a batch into running moments, touching only the classes that occur in it."""
    op = "accumulate_class_moments_"
    kept = check_labels(op, y, means.shape[0])
    check_finite(op, x, kept)
    tokens = x[kept].to(means.dtype)
    present, slots = torch.unique(y[kept], return_inverse=True)
    batch_counts, batch_means, batch_m2 = class_moments(tokens, slots, present.shape[0])
    before, added = counts[present].double(), batch_counts.double()
    total = before + added
    difference = batch_means - means[present]
    if scatter is not None:
        scatter += within_class_scatter(tokens, slots, batch_means)
        weighted = difference.double() * (before * added / total).sqrt()[:, None]
        scatter += weighted.T @ weighted
    spread = difference.double().square().sum(1) * before * added / total
    m2[present] += batch_m2.double() + spread
    means[present] += (difference.double() * (added / total)[:, None]).to(means.dtype)
    counts[present] += batch_counts

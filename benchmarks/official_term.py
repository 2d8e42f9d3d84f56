"""The paper's term as its released code computes it, written anew from its description.

Class sums are a product of the whole vocabulary's one-hot rows with detached features; which of the
listed ids occurred is asked of their counters one by one; the means of all classes are divided out,
copied to the host and hashed each time, as a guard against changes. The gradient goes to the head.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from ncfast.bench.contract import Inputs, Prepare, Prepared
from ncfast.bench.head_losses import differentiated

from .cases import TERM

__all__ = ["TABLE"]


def _term(inputs: Inputs) -> Prepared:
    x, y, ids = inputs.x, inputs.y, inputs.word_set.tolist()
    counts = torch.zeros(inputs.classes, dtype=torch.int32)
    totals = torch.zeros(inputs.classes, inputs.width, dtype=x.dtype)

    def loss(head_weight: Tensor) -> Tensor:
        member = y[:, None] == torch.arange(inputs.classes)
        totals.add_(member.T.to(x.dtype) @ x)
        counts.add_(member.sum(0))
        means = totals / counts.clamp(min=1)[:, None]
        hashlib.sha256(means.numpy().tobytes()).hexdigest()
        present = [i for i in ids if counts[i] != 0]
        chosen = means[present]
        cosines = torch.nn.functional.cosine_similarity(
            head_weight[present], chosen - chosen.mean(0)
        )
        return cosines.std()

    return differentiated(
        loss,
        {"head_weight": inputs.classifier},
        "one-hot products of V classes, host hash; gradient to the head alone",
    )


TABLE: dict[str, Prepare] = {TERM: _term}

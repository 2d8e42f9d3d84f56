"""The paper's term: ncfast's, and as plain torch has it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import ncfast
from ncfast import losses
from ncfast.bench.contract import Absent, Inputs, Prepare, Prepared
from ncfast.bench.head_losses import differentiated

from .cases import TERM
from .transformers_package import step_loss

__all__ = ["PLAIN", "own"]


def _own(inputs: Inputs) -> Prepared:
    """Keep running means, gradient to both: the state is K x D, whatever the vocabulary."""
    term = losses.DualityRegularizer(
        inputs.classes, inputs.width, inputs.word_set, means="running"
    ).to(inputs.x.dtype)
    y = inputs.y

    def loss(x: Tensor, head_weight: Tensor) -> Tensor:
        return term(x, y, head_weight)

    state = term.class_means.means
    leaves = {"x": inputs.x, "head_weight": inputs.classifier}
    note = f"running means [{state.shape[0]}, {state.shape[1]}], {state.nbytes / 2**20:.2f} MiB"
    return differentiated(loss, leaves, note)


def _plain(inputs: Inputs) -> Prepared:
    """Keep running sums of the word set's classes alone, with the gradient to the batch's part."""
    x, y, ids = inputs.x, inputs.y, inputs.word_set
    slots = torch.full((inputs.classes,), -1).index_copy_(0, ids, torch.arange(ids.numel()))
    counts, sums = torch.zeros(ids.numel()), torch.zeros(ids.numel(), inputs.width, dtype=x.dtype)

    def loss(x: Tensor, head_weight: Tensor) -> Tensor:
        of = slots[y]
        member = of >= 0
        counts.index_add_(0, of[member], torch.ones(int(member.sum())))
        total = sums.index_add(0, of[member], x[member])
        sums.copy_(total.detach())
        present = counts > 0
        means = total[present] / counts[present, None]
        rows = head_weight[ids[present]]
        return torch.nn.functional.cosine_similarity(rows, means - means.mean(0)).std()

    made = differentiated(loss, {"x": x, "head_weight": inputs.classifier}, "running sums")

    def results(out: Any) -> dict[str, Tensor]:
        try:
            return made.results(out) | {"step loss": step_loss(inputs)}
        except Absent:  # transformers is not there to be judged
            return made.results(out)

    return Prepared(made.call, results, note=made.note)


def own(backend: str) -> dict[str, Prepare]:
    """Return how one backend does it."""

    def prepared(inputs: Inputs) -> Prepared:
        made = _own(inputs)

        def call() -> Any:
            with ncfast.use_backend(backend):
                return made.call()

        return Prepared(call, made.results, made.scale, made.note)

    return {TERM: prepared}


PLAIN: dict[str, Prepare] = {TERM: _plain}

"""torch's default dtype, which Lightning's "bf16-true" sets for a while, changes no bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import ncfast
from ncfast.losses import (
    DualityRegularizer,
    LambdaSchedule,
    PairWeights,
    UniformityRegularizer,
    WithinClassRegularizer,
    cross_entropy_sums,
    linear_cross_entropy,
)
from ncfast.testing import tiny_tokens
from tests.default_dtype import default_dtype

V, D, N = 12, 4, 120
X, Y = tiny_tokens(N, D, V, torch.float64)
HEAD = torch.linspace(-1, 1, V * D, dtype=torch.float64).sin().reshape(V, D)
HEAD[3] = HEAD[4]  # a pair without a distance
BIAS = HEAD[:, 0].clone()
PAIRS: dict[str, Any] = {"pairs": [[0, 1]], "pair_weights": PairWeights(0.3, 0.7, 0.1)}
WEIGHT = LambdaSchedule(0.7, ramp=2, hold=1, decay=3, final=0.1, shape="cosine")
KEPT: dict[str, Any] = {"means": "ema", "half_life": 3.0, "weight": WEIGHT}
TERMS: dict[str, Any] = {
    "duality": lambda: DualityRegularizer(V, D, alignment_weight=0.3, **PAIRS, **KEPT),
    "duality-cov": lambda: DualityRegularizer(V, D, spread="cov", center="tokens"),
    "trace": lambda: WithinClassRegularizer(V, D, **KEPT),
    "quotient": lambda: WithinClassRegularizer(V, D, kind="quotient", **KEPT),
    "cdnv": lambda: WithinClassRegularizer(V, D, [0, 2, 4], kind="cdnv", power=2, **KEPT),
    "log_distance": lambda: UniformityRegularizer(V, D, of="head"),
    "equiangular": lambda: UniformityRegularizer(V, D, kind="equiangular", **KEPT),
    "riesz": lambda: UniformityRegularizer(V, D, kind="riesz", means="running"),
}


class Narrowed(TorchDispatchMode):
    """Note every call that makes bfloat16 out of something else."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given, made = (
            [t.dtype for t in tree_leaves(of) if isinstance(t, torch.Tensor)]
            for of in ((args, kwargs), out)
        )
        if torch.bfloat16 in made and torch.bfloat16 not in given:
            self.calls.append(str(func))
        return out


def leaf(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype, copy=True).requires_grad_()


def of_term(name: str, dtype: torch.dtype) -> list[torch.Tensor]:
    term, found = TERMS[name](), []
    for call in range(3):
        x, head = leaf(X * (1 + call / 7) + call, dtype), leaf(HEAD, dtype)
        value = term(x, Y, head, BIAS.to(dtype))
        value.backward()
        found += [value.detach(), *(t.grad for t in (x, head) if t.grad is not None)]
        found += term.last.values()
    return [*found, *term.state_dict().values()]


def of_cross_entropy(dtype: torch.dtype) -> list[torch.Tensor]:
    weight, found = torch.linspace(0.1, 2, V, dtype=torch.float64), []
    for options in ({"weight": weight}, {"softcap": 3.0}, {"z_loss": 0.1, "return_lse": True}):
        x, head = leaf(X, dtype), leaf(HEAD, dtype)
        smoothing = 0.0 if "softcap" in options else 0.1
        value = linear_cross_entropy(x, head, Y, label_smoothing=smoothing, **options)
        outputs = value if isinstance(value, tuple) else (value,)
        outputs[0].backward()
        found += [*(o.detach() for o in outputs), x.grad, head.grad]
    return [*found, *cross_entropy_sums(X.to(dtype), HEAD.to(dtype), Y, with_z=True)]


def of_metrics(dtype: torch.dtype) -> list[torch.Tensor]:
    stats = ncfast.ClassStatistics(V, D, dtype=dtype)
    stats.update(X.to(dtype), Y)
    found = []
    for preset in ("ncfast", "linguistic-collapse", "official"):
        report = ncfast.neural_collapse(stats, HEAD.to(dtype), preset=preset, histograms=3)
        found += [torch.tensor(report[key], dtype=torch.float64) for key in sorted(report)]
    drawn = ncfast.neural_collapse(stats, HEAD.to(dtype), pairs=100, ood_mean=X[0].to(dtype))
    return found + [torch.tensor(drawn[key], dtype=torch.float64) for key in sorted(drawn)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("subject", [*TERMS, "cross-entropy", "metrics"])
def test_the_default_dtype_changes_no_bit(subject, dtype):
    others = {"cross-entropy": of_cross_entropy, "metrics": of_metrics}
    job = others.get(subject, lambda dtype: of_term(subject, dtype))
    expected = job(dtype)
    for other in (torch.float64, torch.bfloat16):
        with default_dtype(other), Narrowed() as narrowed:
            found = job(dtype)
        assert [t.dtype for t in found] == [t.dtype for t in expected]
        for ours, theirs in zip(found, expected, strict=True):
            assert torch.equal(ours.nan_to_num(-7), theirs.nan_to_num(-7))
    assert narrowed.calls == []


@pytest.mark.parametrize("means", ["ema", "running"])
def test_means_made_in_a_16_bit_model_are_float32(means):
    with default_dtype(torch.bfloat16):
        term = DualityRegularizer(V, D, means=means)
    assert term.class_means.means.dtype == torch.float32
    wide = DualityRegularizer(V, D, means=means)
    for step in range(20):
        x = X.float() + step / 7
        assert torch.equal(term(x, Y, HEAD.float()), wide(x, Y, HEAD.float()))

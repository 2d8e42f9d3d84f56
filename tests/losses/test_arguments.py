"""What constructors and terms take: the order, class ids, labels, what is not finite."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode

import ncfast
from ncfast import ClassStatistics, DataError, NearestCenterAgreement, losses, neural_collapse
from ncfast import functional as F
from ncfast.functional.checks import INTEGERS
from ncfast.losses import (
    ClassMeans,
    DualityRegularizer,
    NC3Regularizer,
    UniformityRegularizer,
    WithinClassRegularizer,
    next_token_labels,
)

V, D = 6, 3
TERMS = (DualityRegularizer, WithinClassRegularizer, UniformityRegularizer)


def data() -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(40, D, generator=g),
        torch.arange(40) % V,
        torch.randn(V, D, generator=g),
    )


def test_the_field_has_a_name_for_it():
    assert NC3Regularizer is DualityRegularizer


@pytest.mark.parametrize("kind", [ClassMeans, *TERMS])
def test_one_order_everywhere_and_the_old_one_says_so(kind):
    for new, old in (
        (lambda: kind(V, D, [1, 2]), lambda: kind([1, 2], V, D)),
        (lambda: kind(np.int64(V), D, [1, 2]), lambda: kind(torch.tensor([1, 2]), V, dim=D)),
        (lambda: kind(V, D), lambda: kind(None, num_classes=V, dim=D)),
    ):
        with pytest.warns(DeprecationWarning, match=r"the order is \(num_classes, dim, classes\)"):
            before = old()
        after = new()
        a, b = (getattr(m, "class_means", m) for m in (before, after))
        assert torch.equal(a.ids, b.ids)
        assert (a.num_classes, a.dim) == (b.num_classes, b.dim) == (V, D)
    with pytest.raises(TypeError, match=r"takes \(num_classes, dim, classes=None\)"):
        kind([1, 2], V, D, "running")
    with pytest.raises(TypeError, match=r"takes \(num_classes, dim, classes=None\)"):
        kind([1, 2], V, D, classes=[1])
    with pytest.raises(TypeError, match="classes is 9; expected a sequence"):
        kind(V, D, 9)


BAD_IDS = [
    ([True, False], "torch.bool"),
    ([1, True], "torch.bool"),
    (torch.tensor([True, False]), "torch.bool"),
    (np.array([True, False]), "torch.bool"),
    ([1.0, 2.0], "float"),
    (torch.tensor([1.5]), "float"),
    (torch.tensor([[1, 2], [3, 4]]), r"shape \(2, 2\)"),
    ("12", "'12'"),
    (3, "3"),
    (["a"], "words"),
]


@pytest.mark.parametrize(("ids", "message"), BAD_IDS)
def test_class_ids_are_integers(ids, message):
    x, y, w = data()
    stats = ClassStatistics(V, D)
    stats.update(x, y)
    agreement = NearestCenterAgreement(stats, w)
    agreement.update(x, y)
    for call in (
        *(lambda kind=kind: kind(V, D, ids) for kind in (ClassMeans, *TERMS)),
        lambda: ClassStatistics(V, D, ids),
        lambda: ClassStatistics(V, D, scatter={"some": ids}),
        lambda: neural_collapse(stats, w, classes=ids),
        lambda: agreement.compute(ids),
    ):
        with pytest.raises(TypeError, match=rf"(classes|scatter).*{message}"):
            call()
    with pytest.raises(TypeError, match=r"pairs is torch\.float32"):
        DualityRegularizer(V, D, pairs=[(1.0, 2.0)])


@pytest.mark.parametrize("ids", [(1, 2), range(1, 3), {1, 2}, np.array([1, 2], dtype=np.uint8)])
def test_class_ids_of_any_sequence(ids):
    assert WithinClassRegularizer(V, D, ids).class_means.ids.tolist() == [1, 2]
    assert ClassStatistics(V, D, ids).classes.tolist() == [1, 2]


def test_labels_are_integers_everywhere():
    x, y, w = data()
    stats = ClassStatistics(V, D)
    stats.update(x, y)
    terms = [kind(V, D, ids) for kind in TERMS for ids in ([0, 1], None)]
    counts, means = torch.zeros(V, dtype=torch.int64), torch.zeros(V, D)
    m2 = torch.zeros(V, dtype=torch.float64)
    calls = [
        *(lambda labels, term=term: term(x, labels, w) for term in terms),
        lambda labels: F.class_moments(x, labels, V)[1],
        lambda labels: F.within_class_scatter(x, labels, w),
        lambda labels: F.linear_nll_lse(x, w, labels)[0],
        lambda labels: losses.linear_cross_entropy(x, w, labels),
        lambda labels: NearestCenterAgreement(stats, w).update(x, labels),
        lambda labels: ClassStatistics(V, D).update(x, labels),
        lambda labels: F.accumulate_class_moments_(counts, means, m2, None, x, labels),
    ]
    for call in calls:
        expected = call(y)
        for dtype in (torch.int32, torch.uint8):
            found = call(y.to(dtype))
            assert found is expected is None or torch.equal(found, expected)
        for bad in (y.bool(), y.float()):
            with pytest.raises(TypeError, match=r"(bool|float32).*expected int"):
                call(bad)
    assert int(counts.sum()) == 3 * 40  # what was rejected changed nothing


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_the_next_token_is_a_label_whatever_holds_it(dtype):
    """An unsigned id has no -100: written into uint8 it is class 156."""
    ids, mask = torch.tensor([[5, 6, 7, 0]]), torch.tensor([[1, 1, 1, 0]])
    for padding in (None, mask, mask.bool()):
        expected = next_token_labels(ids, padding)
        found = next_token_labels(ids.to(dtype), padding)
        assert found.dtype == torch.int64
        assert torch.equal(found, expected)
    with pytest.raises(TypeError, match=r"next_token_labels: input_ids is torch\.float32"):
        next_token_labels(ids.float())


def test_an_op_writes_to_memory_of_its_own():
    x, y, _ = data()
    state = {
        "counts": torch.zeros(V, dtype=torch.int64),
        "means": torch.zeros(V, D),
        "m2": torch.zeros(V, dtype=torch.float64),
        "scatter": torch.zeros(D, D, dtype=torch.float64),
    }
    for name, tensor in state.items():
        shared = [tensor[:1].expand(tensor.shape)]
        if tensor.ndim == 2:
            shared.append(tensor.flatten().as_strided(tensor.shape, (1, 1)))
        for bad in shared:
            with pytest.raises(ValueError, match=f"{name} is .*share memory; .*clone"):
                F.accumulate_class_moments_(*(state | {name: bad}).values(), x, y)
    assert not any(tensor.any() for tensor in state.values())
    strided = state | {"means": torch.zeros(D, V).T, "m2": torch.zeros(2 * V).double()[::2]}
    with ncfast.use_backend("reference"):
        F.accumulate_class_moments_(*strided.values(), x, y)
    assert int(strided["counts"].sum()) == 40


def _state(**given):
    made = {
        "counts": torch.zeros(V, dtype=torch.int64),
        "means": torch.zeros(V, D),
        "m2": torch.zeros(V).double(),
        "scatter": torch.zeros(D, D).double(),
        "x": torch.randn(V, D),
        "y": torch.arange(V),
    }
    return list((made | given).values())


def test_what_an_op_writes_shares_no_memory_with_the_rest():
    rows, wide = torch.zeros(2 * V, D), torch.zeros(V, 2 * D)
    moments, labels = torch.zeros(D * D + V).double(), torch.arange(V)
    bits = torch.zeros(V, dtype=torch.int64)
    for given, names in [
        ({"means": rows[:V], "x": rows[:V]}, "means and x"),
        ({"means": rows[:V], "x": rows[1 : V + 1]}, "means and x"),
        ({"means": wide[:, :D], "x": wide[:, D - 1 : -1]}, "means and x"),
        ({"m2": moments[:V], "scatter": moments[V - 1 : -1].view(D, D)}, "m2 and scatter"),
        ({"counts": labels, "y": labels}, "counts and y"),
        ({"counts": bits, "m2": bits.view(torch.float64)}, "counts and m2"),
    ]:
        with pytest.raises(ValueError, match=rf"{names} share memory.*clone\(\) one"):
            F.accumulate_class_moments_(*_state(**given))
    assert not any(tensor.any() for tensor in (rows, wide, moments, bits))
    wider = torch.zeros(V, D + 1).double()
    for given in (
        {"means": rows[:V], "x": rows[V:]},
        {"means": wide[:, :D], "x": wide[:, D:]},
        {"means": wider[:, :D], "m2": wider[:, D]},
        {"m2": moments[:V], "scatter": moments[V:].view(D, D)},
        {"x": torch.ones(1, D).expand(V, D)},
    ):
        with ncfast.use_backend("reference"):
            state = _state(**given)
            F.accumulate_class_moments_(*state)
        assert state[0].tolist() == [1] * V


def test_memory_is_not_asked_for_where_there_is_none():
    step = torch.compile(F.accumulate_class_moments_, fullgraph=True, backend="eager")
    state = _state()
    step(*state)
    assert state[0].tolist() == [1] * V
    with FakeTensorMode():
        F.accumulate_class_moments_(*_state())
    F.accumulate_class_moments_(*(tensor.to("meta") for tensor in _state()))


@pytest.mark.parametrize("means", ["batch", "ema"])
@pytest.mark.parametrize("kind", TERMS)
def test_an_infinite_step_is_skipped_and_forgotten(kind, means):
    x, y, w = data()
    term, other = (kind(V, D, [0, 1, 2, 4], means=means) for _ in range(2))
    for t in (term, other):
        t(x, y, w)
    bad = x.clone()
    bad[7, 1] = math.inf
    leaves = bad.requires_grad_(), w.clone().requires_grad_()
    value = term(leaves[0], y, leaves[1])
    assert math.isnan(value.detach())
    head = kind is DualityRegularizer
    for grad in torch.autograd.grad(value, leaves if head else leaves[:1]):
        assert not torch.isfinite(grad).all()
    for a, b in zip(term.class_means.buffers(), other.class_means.buffers(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(term(x, y, w), other(x, y, w))
    checked = kind(V, D, [0, 1, 2, 4], means=means, check_finite=True)
    with pytest.raises(DataError, match=r"x\[7, 1\] is inf"):
        checked(bad, y, w)
    bad = torch.where((y == 3)[:, None], math.nan, x)  # no class of the term
    assert torch.isfinite(term(bad, y, w))
    assert ncfast.losses.NC3Regularizer(V, D)(x, y, w).isfinite()


def _of_terms(kind):
    term = kind(5, 3)
    return lambda x: term(x, torch.tensor([0, 1, 2, 0]), torch.eye(5, 3))


FORWARD = {
    "linear_cross_entropy": lambda x: losses.linear_cross_entropy(
        x, torch.eye(5, 3), torch.tensor([0, 1, 2, 0])
    ),
    "class_moments": lambda x: F.class_moments(x, torch.tensor([0, 1, 2, 0]), 5)[1],
    "alignment": lambda x: F.alignment(x, x + 1),
    "pair_stats": lambda x: F.pair_stats(x, kinds=("cosine",))[0],
    "within_class_scatter": lambda x: F.within_class_scatter(x, torch.zeros(4).long(), x[:1]),
    "between_class_scatter": F.between_class_scatter,
    **{kind.__name__: _of_terms(kind) for kind in TERMS},
}


@pytest.mark.parametrize("name", FORWARD)
@pytest.mark.parametrize("way", ["jvp", "dual"])
def test_a_forward_derivative_is_not_0_without_a_word(name, way):
    """Torch's own operators of Python drop what a tensor of forward mode carries."""
    x = torch.tensor([[1.0, 0.2, 0.1], [0.3, 2.0, 0.1], [0.2, 0.1, 3.0], [1.0, 1.0, 0.3]])

    def run():
        if way == "jvp":
            return torch.func.jvp(FORWARD[name], (x,), (x,))
        with torch.autograd.forward_ad.dual_level():
            return FORWARD[name](torch.autograd.forward_ad.make_dual(x, x))

    with pytest.raises(NotImplementedError, match="carries a forward-mode derivative"):
        run()
    FORWARD[name](x)


def test_one_class_is_rejected_where_the_term_could_only_be_zero():
    with pytest.raises(ValueError, match="holds 1 class, whose cosine differs from no other's"):
        DualityRegularizer(9, 4, [3])
    assert DualityRegularizer(9, 4, [3], alignment_weight=1.0).class_means.ids.tolist() == [3]

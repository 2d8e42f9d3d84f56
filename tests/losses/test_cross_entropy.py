"""losses.linear_cross_entropy beside torch's: every option, shapes, rejections."""

from __future__ import annotations

import inspect
import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as TF

import ncfast.functional as F
from ncfast import DataError, use_backend
from ncfast.losses import LinearCrossEntropyLoss, cross_entropy_sums, linear_cross_entropy

N, V, D = 23, 17, 5


def problem(dtype=torch.float64, ignored=-100, seed=0) -> tuple[Tensor, ...]:
    """Return input, linear_weight, linear_bias as leaves, target, and weights of classes."""
    g = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(*shape, generator=g) for shape in ((N, D), (V, D), (V,))]
    target = torch.randint(0, V, (N,), generator=g)
    target[::4] = ignored
    weight = torch.rand(V, generator=g).to(dtype) + 0.1
    weight[3] = 0
    return (*(t.to(dtype).requires_grad_() for t in drawn), target, weight)


def torchs(x, w, target, bias, z_loss=0.0, softcap=0.0, **options) -> Tensor:
    """Compute the loss from logits, by torch."""
    z = TF.linear(x, w, bias)
    z = softcap * torch.tanh(z / softcap) if softcap else z
    loss = TF.cross_entropy(z, target, **options)
    if not z_loss:
        return loss
    own = options.get("weight")
    own = torch.ones(len(w), dtype=z.dtype) if own is None else own
    valid = target != options.get("ignore_index", -100)
    share = torch.where(valid, own[target.clamp(0, len(w) - 1)], 0)
    extra = z_loss * share * z.logsumexp(1).square()
    reduction = options.get("reduction", "mean")
    if reduction == "none":
        return loss + extra
    return loss + extra.sum() / (share.sum() if reduction == "mean" else 1)


TABLE = [
    row
    for row in itertools.product(
        ("mean", "sum", "none"),  # reduction
        (False, True),  # bias
        (False, True),  # class weights
        (-100, 5, -1),  # ignore_index
        (0.0, 0.3, 1.0),  # label_smoothing
        (0.0, 0.2),  # z_loss
        (0.0, 2.5),  # softcap
    )
    if not (row[-1] and row[-3])  # smoothing of capped logits is rejected
]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_every_combination_of_options_is_torchs_in_float64(backend, reduction):
    for row in TABLE:
        if row[0] != reduction:
            continue
        _, biased, weighted, ignored, smoothing, z_loss, softcap = row
        x, w, b, target, weight = problem(ignored=ignored)
        options = {
            "reduction": reduction,
            "ignore_index": ignored,
            "label_smoothing": smoothing,
            "weight": weight if weighted else None,
            "z_loss": z_loss,
            "softcap": softcap,
        }
        leaves = [x, w, *([b] if biased else [])]
        bias = b if biased else None
        with use_backend(backend):
            ours = linear_cross_entropy(x, w, target, linear_bias=bias, **options)
            upstream = torch.linspace(1, 2, ours.numel(), dtype=torch.float64).reshape(ours.shape)
            found = torch.autograd.grad(ours, leaves, upstream)
        theirs = torchs(x, w, target, bias, **options)
        expected = torch.autograd.grad(theirs, leaves, upstream)
        assert ours.shape == theirs.shape, row
        for a, b_ in zip((ours, *found), (theirs, *expected), strict=True):
            assert (a - b_).abs().max() <= 1e-12, row


def test_every_option_in_float32(backend):
    """All the options at once, as kernels of GPUs take them: theirs is the plain op."""
    for smoothing, z_loss in ((0.0, 0.2), (0.3, 0.0)):
        x, w, b, target, weight = problem(torch.float32, ignored=5)
        options = {"weight": weight, "ignore_index": 5, "label_smoothing": smoothing}
        with use_backend(backend):
            ours = linear_cross_entropy(x, w, target.int(), linear_bias=b, z_loss=z_loss, **options)
            found = torch.autograd.grad(ours, [x, w, b])
        theirs = torchs(x, w, target, b, z_loss=z_loss, **options)
        expected = torch.autograd.grad(theirs, [x, w, b])
        for a, e in zip((ours, *found), (theirs, *expected), strict=True):
            assert (a - e).abs().max() <= 1e-5


def test_class_weights_equal_torch_with_a_vocabulary_that_is_padded(backend):
    x, w, b, target, weight = problem()
    target = torch.where(target >= 11, 2, target)
    with use_backend(backend):
        ours = linear_cross_entropy(
            x, w, target, linear_bias=b, weight=weight[:11], label_smoothing=0.2, vocab_size=11
        )
        found = torch.autograd.grad(ours, [x, w, b])
    theirs = torchs(x, w[:11], target, b[:11], weight=weight[:11], label_smoothing=0.2)
    for a, e in zip(found, torch.autograd.grad(theirs, [x, w, b]), strict=True):
        assert (a - e).abs().max() <= 1e-12
    assert abs(float((ours - theirs).detach())) <= 1e-13


@pytest.mark.parametrize("budget", [0, 1])
@pytest.mark.parametrize(("smoothing", "softcap"), [(0.2, 0.0), (0.0, 2.5)])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_mean_over_a_number_that_is_given(backend, weighted, smoothing, softcap, budget):
    """With a padded vocabulary, and logits kept or not."""
    x, w, b, target, weight = problem()
    target = torch.where(target >= 11, 2, target)
    options = {"weight": weight[:11] if weighted else None, "label_smoothing": smoothing}
    options |= {"z_loss": 0.2, "softcap": softcap}
    with use_backend(backend):
        ours = linear_cross_entropy(
            x,
            w,
            target,
            linear_bias=b,
            num_tokens=7.0,
            vocab_size=11,
            memory_budget=budget,
            **options,
        )
        found = torch.autograd.grad(ours, [x, w, b])
    theirs = torchs(x, w[:11], target, b[:11], reduction="sum", **options) / 7
    expected = torch.autograd.grad(theirs, [x, w, b])
    for a, e in zip((ours, *found), (theirs, *expected), strict=True):
        assert (a - e).abs().max() <= 1e-12


def test_softcap_return_lse_and_any_shape():
    x, w, b, target, weight = problem()
    z = 3 * torch.tanh(TF.linear(x, w, b) / 3)
    loss, lse = linear_cross_entropy(
        x, w, target, linear_bias=b, weight=weight, softcap=3.0, return_lse=True
    )
    assert abs(float((loss - TF.cross_entropy(z, target, weight)).detach())) < 1e-13
    assert (lse - torch.where(target >= 0, z.logsumexp(1), 0)).abs().max() < 1e-13
    none, lse = linear_cross_entropy(
        x[:20].view(2, 5, 2, D), w, target[:20].view(2, 5, 2), reduction="none", return_lse=True
    )
    assert none.shape == lse.shape == (2, 5, 2)
    one = linear_cross_entropy(x[1], w, target[1], reduction="none")
    assert one.shape == ()
    assert float(one) == float(none.flatten()[1])


def test_names_and_order_are_torchs():
    if not hasattr(TF, "linear_cross_entropy"):
        pytest.skip("this torch has no linear_cross_entropy")
    theirs = [n for n in inspect.signature(TF.linear_cross_entropy).parameters if n != "options"]
    ours = inspect.signature(linear_cross_entropy).parameters
    assert list(ours)[: len(theirs)] == theirs
    x, w, b, target, weight = problem()
    options = {"linear_bias": b, "weight": weight, "ignore_index": 5, "label_smoothing": 0.1}
    expected = TF.linear_cross_entropy(x, w, target.clamp(0), **options)
    assert abs(float(linear_cross_entropy(x, w, target.clamp(0), **options) - expected)) < 1e-13
    assert linear_cross_entropy(x, w, target, ignore_index=None) == linear_cross_entropy(
        x, w, target
    )


def test_old_names_still_work_and_say_so():
    x, w, b, target, _ = problem()
    expected = linear_cross_entropy(x, w, target, linear_bias=b)
    for args, kwargs in (
        ((x, w, target, b), {}),
        ((x, w, target), {"head_bias": b}),
        ((), {"x": x, "head_weight": w, "y": target, "head_bias": b}),
        ((x,), {"head_weight": w, "target": target, "linear_bias": b}),
    ):
        with pytest.warns(DeprecationWarning, match="linear_cross_entropy: .*head_weight ->"):
            assert linear_cross_entropy(*args, **kwargs) == expected
        with pytest.warns(DeprecationWarning, match="cross_entropy_sums"):
            cross_entropy_sums(*args, **kwargs)
    with pytest.warns(DeprecationWarning, match="linear_nll_lse"):
        old = F.linear_cross_entropy(x, w, target, b)
    assert torch.equal(old[0], F.linear_nll_lse(x, w, target, b)[0])
    with pytest.raises(TypeError, match="input is given twice"):
        linear_cross_entropy(x, w, target, x=x)
    with pytest.raises(TypeError, match="linear_bias is given twice"):
        linear_cross_entropy(x, w, target, b, linear_bias=b)
    with pytest.raises(TypeError, match="4 positional"):
        linear_cross_entropy(x, w, target, b, 0.0)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8])
def test_labels_of_any_integer_dtype(dtype):
    x, w, _, target, _ = problem(ignored=7)
    narrow = target.to(dtype)
    for ignored in (7, *([-100] if dtype != torch.uint8 else [])):
        labels = torch.where(narrow == 7, ignored, narrow).to(dtype)
        found = linear_cross_entropy(x, w, labels, ignore_index=ignored)
        assert found == linear_cross_entropy(x, w, target, ignore_index=7)


BAD = [
    ({"target": torch.ones(2, 4)}, TypeError, r"target is torch.float32 \(2, 4\).*probabilities"),
    ({"target": torch.tensor([True, False])}, TypeError, "target is torch.bool.*a mask"),
    ({"target": torch.tensor([1, 2], dtype=torch.uint64)}, TypeError, "target is torch.uint64"),
    ({"input": torch.ones(2, 6, 3), "target": torch.zeros(6, 2).long()}, ValueError, "same"),
    ({"linear_weight": torch.ones(4, 2, 3)}, ValueError, r"linear_weight is .*\[V, 3\]"),
    ({"linear_bias": torch.ones(3)}, ValueError, r"linear_bias is .*\[4\]"),
    ({"weight": torch.ones(3)}, ValueError, r"weight is .*\[4\]"),
    ({"reduction": "median"}, ValueError, "reduction is 'median'"),
    ({"reduction": "sum", "num_tokens": 3}, ValueError, "num_tokens is given with"),
    ({"ignore_index": 1.0}, TypeError, "ignore_index is 1.0"),
    ({"label_smoothing": -0.1}, ValueError, "label_smoothing is -0.1"),
    ({"label_smoothing": 0.1, "softcap": 2.0}, ValueError, "no closed form"),
    ({"weight": torch.ones(4), "label_smoothing": 0.1, "softcap": 2.0}, ValueError, "no closed"),
    ({"z_loss": math.nan}, ValueError, "z_loss is nan"),
    ({"target": torch.tensor([0, 4])}, DataError, r"target\[1\] is 4; expected .* or -100"),
    ({"target": torch.tensor([0, 4]), "ignore_index": 9}, DataError, r"target\[1\] is 4; .* or 9"),
    ({"target": torch.tensor([0, -100]), "ignore_index": 9}, DataError, r"target\[1\] is -100; "),
    ({"num_tokens": 0}, ValueError, "num_tokens is 0"),
    ({"num_tokens": math.nan}, ValueError, "num_tokens is nan"),
    ({"num_tokens": torch.tensor(0)}, ValueError, "num_tokens is 0; expected more than 0"),
    ({"num_tokens": torch.tensor(-3)}, ValueError, "num_tokens is -3; expected more than 0"),
    ({"num_tokens": torch.tensor([3])}, ValueError, r"num_tokens is .*\(1,\) .* a tensor \(\)"),
    ({"num_tokens": torch.tensor([3.0, 4.0])}, ValueError, r"num_tokens is .*\(2,\) on cpu"),
    ({"num_tokens": torch.tensor(True)}, ValueError, "num_tokens is torch.bool"),
    # Labels of rows that a head does not have would cost their lse.
    ({"vocab_size": 9, "target": torch.tensor([0, 8])}, ValueError, "vocab_size is 9 .* 4 rows"),
    ({"vocab_size": 0}, ValueError, "vocab_size is 0"),
    ({"weight": torch.ones(4, requires_grad=True)}, ValueError, "weight needs a gradient"),
    ({"input": torch.ones(2, 0), "linear_weight": torch.ones(4, 0)}, ValueError, "a width of"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_rejects(change, error, message):
    good = {"input": torch.ones(2, 3), "linear_weight": torch.ones(4, 3)}
    good["target"] = torch.tensor([0, 3])
    with pytest.raises(error, match=f"^linear_cross_entropy: .*{message}"):
        linear_cross_entropy(**{**good, **change})


def test_shapes_alone_are_enough_on_the_meta_device():
    x, w, target = torch.ones(2, 3), torch.ones(4, 3), torch.tensor([0, 3])
    found = linear_cross_entropy(*(tensor.to("meta") for tensor in (x, w, target)))
    assert found.is_meta
    assert found.shape == ()


def test_nothing_to_do_is_0_and_has_gradient_0():
    x, w, _, target, _ = problem()
    for options in ({}, {"weight": torch.zeros(V).double()}, {"z_loss": 1.0}):
        labels = target if "weight" in options else torch.full_like(target, -100)
        loss = linear_cross_entropy(x, w, labels, **options)
        assert loss == 0
        assert not any(g.any() for g in torch.autograd.grad(loss, [x, w]))


def test_features_of_ignored_tokens_are_never_read():
    x, w, b, target, weight = problem()
    x = torch.where((target < 0)[:, None], math.nan, x.detach()).requires_grad_()
    for options in ({}, {"weight": weight}, {"weight": weight, "label_smoothing": 0.1}):
        loss = linear_cross_entropy(x, w, target, linear_bias=b, check_finite=True, **options)
        grads = torch.autograd.grad(loss, [x, w, b])
        assert all(torch.isfinite(g).all() for g in (loss, *grads))


def test_module_has_the_same_options():
    x, w, b, target, weight = problem()
    keywords = inspect.signature(linear_cross_entropy).parameters
    options = set(keywords) - {"input", "linear_weight", "target", "linear_bias", "num_tokens"}
    assert set(inspect.signature(LinearCrossEntropyLoss).parameters) == options
    module = LinearCrossEntropyLoss(weight=weight, label_smoothing=0.1, reduction="none")
    expected = linear_cross_entropy(
        x, w, target, linear_bias=b, weight=weight, label_smoothing=0.1, reduction="none"
    )
    assert torch.equal(module(x, w, target, b), expected)
    assert module.float().weight.dtype == torch.float32
    assert "label_smoothing=0.1" in repr(module)
    with pytest.raises(ValueError, match="reduction"):
        LinearCrossEntropyLoss(reduction="some")


def test_compiles_with_every_option():
    x, w, b, target, weight = problem(torch.float32, ignored=5)
    torch._dynamo.reset()

    def loss(x, w, b):
        return linear_cross_entropy(
            x,
            w,
            target,
            linear_bias=b,
            weight=weight,
            ignore_index=5,
            label_smoothing=0.1,
            z_loss=0.1,
        )

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = loss(x, w, b)
    found = compiled(x, w, b)
    assert torch.equal(found, expected)
    for a, e in zip(
        torch.autograd.grad(found, [x, w, b]),
        torch.autograd.grad(expected, [x, w, b]),
        strict=True,
    ):
        assert torch.equal(a, e)

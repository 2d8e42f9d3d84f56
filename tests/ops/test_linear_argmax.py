"""linear_argmax: the definition, ties, a single class, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import ncfast.functional as F
from ncfast import DataError, use_backend
from ncfast.testing import rounding_floor, tiny_tokens

from .backends import said
from .contract import OpContract, threads


def decide(scores: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Choose by sorting, ids ascending, so that the first of those that tie is the lowest."""
    order = torch.argsort(ids)
    ranked, place = torch.sort(scores[:, order], dim=1, descending=True, stable=True)
    return ids[order][place[:, 0]], ranked[:, 0] - ranked[:, 1]


class TestLinearArgmax(OpContract):
    """The contract of every op."""

    op = "linear_argmax"
    outputs = ("classes", "margin")
    deciding = (0, 1)

    @staticmethod
    def plain(
        dtype: torch.dtype,
        x: Tensor,
        head_weight: Tensor,
        head_bias: Tensor | None,
        index: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        ids = torch.arange(head_weight.shape[0]) if index is None else index
        scores = x.to(dtype) @ head_weight.to(dtype)[ids].T
        return decide(scores if head_bias is None else scores + head_bias.to(dtype)[ids], ids)

    @classmethod
    def output_scale(cls, args, name):
        # A margin is the difference of two scores.
        x, w, bias, index = (a if a is None else a.double() for a in args)
        if name != "margin" or not len(x):
            return None
        ids = slice(None) if index is None else index.long()
        scores = x @ w[ids].T
        return float((scores if bias is None else scores + bias[ids]).abs().max())

    @staticmethod
    def sized(n: int) -> tuple[Tensor, Tensor, None, None]:
        return tiny_tokens(17, 13, 7)[0], tiny_tokens(n, 13, 7, seed=1)[0], None, None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_definition_on_integers(backend, dtype):
    x = [[1, 2], [-3, 0], [0, 0], [2, 2]]
    head = [[0, 1], [1, 0], [2, -1], [-1, 1], [1, 1]]
    bias, allowed = [1, 0, 2, 0, -1], [4, 3, 0, 1]
    expected = []
    for token in x:
        scores = {k: sum(a * b for a, b in zip(token, head[k], strict=True)) for k in allowed}
        ranked = sorted(((scores[k] + bias[k], -k) for k in allowed), reverse=True)
        expected.append((-ranked[0][1], ranked[0][0] - ranked[1][0]))
    with use_backend(backend):
        classes, margin = F.linear_argmax(
            torch.tensor(x, dtype=dtype),
            torch.tensor(head, dtype=dtype),
            torch.tensor(bias, dtype=torch.float32),
            torch.tensor(allowed),
        )
    assert list(zip(classes.tolist(), margin.tolist(), strict=True)) == expected
    assert expected[0] == (0, 1)
    assert expected[3] == (0, 0)  # three classes tie
    assert margin.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("classes", [1, 2, 8, 255, 256, 257, 1103])
@pytest.mark.parametrize("tokens", [1, 600])
def test_ties_go_to_the_lowest_id_wherever_they_are(backend, classes, tokens):
    # The same two rows in every tile: each class ties with half of the others.
    head = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 2.0]]).repeat((classes + 1) // 2, 1)[:classes]
    x = torch.tensor([[3.0, 1.0, 1.0]]).expand(tokens, 3)
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(0))
    with use_backend(backend):
        for index, lowest in ((None, 0), (order, 0), (order[order > 3], 4)):
            if index is not None and not len(index):
                continue
            chosen, margin = F.linear_argmax(x, head, None, index)
            assert chosen.tolist() == [lowest] * tokens
            few = classes if index is None else len(index)
            expected = math.inf if few == 1 else (2.0 if few == 2 else 0.0)
            if few not in (3,):
                assert margin.tolist() == [expected] * tokens


def test_ties_in_a_group_of_several_tiles(backend):
    # The lowest id comes last, in a tile of a group whose best and second best tie with it already:
    # a tile that shows nothing above the second best may be passed over, this one not. Few tokens
    # are cut by classes into 16 groups, each of which must have several tiles of 512 on the CPU.
    classes = 20_011 if backend in ("cpu", "reference") else 1103
    head = torch.ones(classes, 3)
    x, backwards = torch.ones(5, 3), torch.arange(classes - 1, -1, -1)
    with use_backend(backend):
        chosen, margin = F.linear_argmax(x, head, None, backwards)
        head[0] = 0.5
        second, lead = F.linear_argmax(x, head, None, backwards)
        head[0], head[1] = 2.0, 1.5
        third, gap = F.linear_argmax(x, head, None, backwards)
    assert (chosen.tolist(), margin.tolist()) == ([0] * 5, [0.0] * 5)
    assert (second.tolist(), lead.tolist()) == ([1] * 5, [0.0] * 5)
    assert (third.tolist(), gap.tolist()) == ([0] * 5, [1.5] * 5)


def test_one_class_has_no_rival(backend):
    x, w = tiny_tokens(5, 3, 2)[0], tiny_tokens(4, 3, 2, seed=1)[0]
    with use_backend(backend):
        classes, margin = F.linear_argmax(x, w, None, torch.tensor([2]))
    assert classes.tolist() == [2] * 5
    assert margin.tolist() == [math.inf] * 5


def test_padding_rows_are_never_read(backend):
    x, w = tiny_tokens(7, 5, 2)[0], tiny_tokens(11, 5, 2, seed=1)[0]
    bias = torch.zeros(11)
    index = torch.tensor([8, 1, 6])
    with use_backend(backend):
        clean = F.linear_argmax(x, w, bias, index)
        outside = torch.ones(11, dtype=torch.bool)
        outside[index] = False
        w[outside], bias[outside] = math.nan, math.inf
        for a, b in zip(clean, F.linear_argmax(x, w, bias, index), strict=True):
            assert torch.equal(a, b)


def test_few_tokens_are_shared_out_by_classes():
    x, w = tiny_tokens(3, 13, 2)[0], tiny_tokens(5003, 13, 2, seed=1)[0]
    with use_backend("cpu"):
        alone = F.linear_argmax(x, w)
        among = F.linear_argmax(torch.cat([x, tiny_tokens(1021, 13, 2, seed=2)[0]]), w)
        with threads(3):
            together = F.linear_argmax(x, w)
    scores = x.double() @ w.double().T
    assert torch.equal(alone[0], scores.argmax(1))
    for a, b, c in zip(alone, together, among, strict=True):
        assert torch.equal(a, b)
        assert torch.allclose(a.double(), c[:3].double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 140])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_refuses_what_is_not_finite(backend, value, tokens):
    x, w, bias = torch.ones(tokens, 3), torch.ones(600, 3), torch.zeros(600)
    row = tokens - 1
    with use_backend(backend):
        for tensor, name, at in ((x, "x", (row, 1)), (w, "head_weight", (597, 2))):
            tensor[at] = value
            message = rf"linear_argmax: {name}\[{at[0]}, {at[1]}\] is {value}; expected finite"
            with pytest.raises(DataError, match=said(backend, message)):
                F.linear_argmax(x, w, bias)
            tensor[at] = 1
        bias[5] = value
        message = rf"linear_argmax: head_bias\[5\] is {value}; expected"
        with pytest.raises(DataError, match=said(backend, message)):
            F.linear_argmax(x, w, bias)
        assert F.linear_argmax(x, w)[0].tolist() == [0] * tokens


@pytest.mark.parametrize("bits", [-1, 0x7FFFFFFF, 0x7F800001])
def test_refuses_every_nan(backend, bits):
    """What rounds to tf32 by adding to the bits must not carry a NaN over into zero."""
    x = torch.ones(3, 5)
    x.view(torch.int32)[1, 2] = bits
    message = r"linear_argmax: x\[1, 2\] is nan; expected finite"
    with use_backend(backend), pytest.raises(DataError, match=said(backend, message)):
        F.linear_argmax(x, torch.ones(4, 5))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([0, 2, 0], r"index\[2\] is 0 for the second time; expected distinct rows"),
        ([0, 3], r"index\[1\] is 3; expected a row in \[0, 3\)"),
    ],
)
def test_refuses_an_index(backend, index, message):
    with (
        use_backend(backend),
        pytest.raises(DataError, match=f"linear_argmax: {said(backend, message)}"),
    ):
        F.linear_argmax(torch.ones(2, 2), torch.ones(3, 2), None, torch.tensor(index))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": torch.ones(3)}, ValueError, r"x is .*\(3,\)"),
        ({"x": torch.ones(3, 2).long()}, TypeError, "x is torch.int64"),
        ({"head_weight": torch.ones(4, 3)}, ValueError, r"head_weight is .*\(4, 3\).*\[V, 2\]"),
        ({"head_weight": torch.ones(0, 2)}, ValueError, "there is no class to choose from"),
        ({"index": torch.ones(0).long()}, ValueError, "there is no class to choose from"),
        ({"head_bias": torch.ones(3)}, ValueError, r"head_bias is .*\(3,\)"),
        ({"head_bias": 1.0}, TypeError, "head_bias is a float"),
        ({"index": torch.ones(3)}, TypeError, "index is torch.float32"),
        ({"index": torch.ones(1, device="meta").long()}, ValueError, "index is .* meta"),
    ],
)
def test_refuses_shapes_dtypes_and_devices(arguments, error, message):
    good = {"x": torch.ones(3, 2), "head_weight": torch.ones(4, 2)}
    with pytest.raises(error, match=f"linear_argmax: {message}"):
        F.linear_argmax(**{**good, **arguments})


def test_gives_no_gradients(backend):
    x = torch.ones(3, 2, requires_grad=True)
    with use_backend(backend):
        assert not any(t.requires_grad for t in F.linear_argmax(x, torch.eye(2)))


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_tiles_of_full_size(stored):
    """Sizes at which one of the CPU's libraries is chosen: exact, and equal rows of tiles tie."""
    x = tiny_tokens(333, 601, 5)[0].to(stored)
    head = tiny_tokens(467, 601, 5, seed=3)[0].to(stored).repeat(3, 1)[:1001]
    results = []
    for count in (1, 2, 3):
        with threads(count), use_backend("cpu"):
            results.append(F.linear_argmax(x, head))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    chosen, margin = results[0]
    assert (chosen < 467).all()
    assert (margin[chosen < 1001 - 2 * 467] == 0).all()
    assert (margin[chosen < 1001 - 467] == 0).all()
    scores = x.double() @ head.double().T
    baseline = (x.float() @ head.float().T).double()
    behind = scores.amax(1) - scores.gather(1, chosen[:, None])[:, 0]
    assert behind.max() <= 2 * (baseline - scores).abs().max() + rounding_floor(
        scores, torch.float32, torch.float32
    )


def test_scores_below_the_smallest_normal_number_still_decide():
    """AVX512_BF16 takes them for 0, at sizes at which bfloat16 is multiplied as it is stored."""
    x, head = torch.zeros(600, 128), torch.zeros(64, 128)
    x[:, 0], head[:, 0] = 2.0**-66, (1 + torch.arange(64) / 64) * 2.0**-66
    x[7] = 0.0  # scores of 0 are no reason to look again, and tie
    with use_backend("cpu"):
        chosen, margin = F.linear_argmax(x.bfloat16(), head.bfloat16())
    expected = torch.full((600,), 63)
    expected[7] = 0
    assert torch.equal(chosen, expected)
    assert torch.equal(margin, torch.where(expected > 0, 2.0**-138, 0.0))


def test_a_share_below_the_smallest_normal_number_still_decides():
    """The scores are normal numbers; what they differ by is taken for 0 beside them."""
    x, head = torch.zeros(600, 128), torch.zeros(64, 128)
    x[:, 0], head[:, 0] = 2.0**-63, (1 + torch.arange(64) / 64) * 2.0**-65
    x[:, 40], head[:, 40] = 2.0**-60, 2.0**-65  # added to what was lost
    with use_backend("cpu"):
        chosen, margin = F.linear_argmax(x.bfloat16(), head.bfloat16())
    assert torch.equal(chosen, torch.full((600,), 63))
    assert torch.equal(margin, torch.full((600,), 2.0**-134))

"""NumPy arrays work where tensors do; what cannot work says what it is."""

from __future__ import annotations

import numpy
import pytest
import torch

from ncfast import ClassStatistics, DataError, NearestCenterAgreement, neural_collapse
from ncfast.metrics import bootstrap_intervals

V, D = 5, 3


@pytest.fixture
def arrays():
    generator = numpy.random.default_rng(0)
    x = generator.standard_normal((40, D)).astype(numpy.float32)
    return x, numpy.arange(40) % V, generator.standard_normal((V, D)).astype(numpy.float32)


def test_numpy_gives_what_torch_gives(arrays):
    x, y, head = arrays
    mine, theirs = ClassStatistics(V, D), ClassStatistics(V, D)
    x.flags.writeable = False
    mine.update(x, y)
    theirs.update(torch.tensor(x), torch.tensor(y))
    assert torch.equal(mine.means, theirs.means)
    weight = torch.tensor(head)
    found = neural_collapse(mine, head_weight=head, ood_mean=head[0], classes=numpy.arange(4))
    assert found.to_dict() == pytest.approx(
        neural_collapse(theirs, weight, classes=range(4), ood_mean=weight[0]).to_dict(), nan_ok=True
    )
    assert bootstrap_intervals(mine, head) == bootstrap_intervals(theirs, weight)
    agreement = NearestCenterAgreement(mine, head, head[:, 0])
    agreement.update(x, y)
    other = NearestCenterAgreement(theirs, weight, weight[:, 0])
    other.update(torch.tensor(x), torch.tensor(y))
    assert agreement.compute(numpy.array([1, 2])) == other.compute([1, 2])


@pytest.mark.parametrize("kind", ["int32", "int16", "uint8"])
def test_whole_numbers_of_any_width_are_labels(arrays, kind):
    x, y, _ = arrays
    stats = ClassStatistics(V, D)
    stats.update(x, y.astype(kind))
    assert stats.tokens == 40


def test_strides_that_torch_lacks_are_copied(arrays):
    x, y, _ = arrays
    mine, theirs = ClassStatistics(V, D), ClassStatistics(V, D)
    mine.update(x[::-1], y[::-1])
    theirs.update(torch.tensor(x).flip(0), torch.tensor(y).flip(0))
    assert torch.equal(mine.means, theirs.means)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, x, y, w: s.update(x.tolist(), y), "update: x is list; expected a torch.Tensor"),
        (lambda s, x, y, w: s.update(x, y.tolist()), "update: y is list"),
        (lambda s, x, y, w: s.update(x, y.astype(float)), "y is torch.float64; expected int64"),
        (lambda s, x, y, w: s.update(x, y > 2), "y is torch.bool; expected int64"),
        (lambda s, x, y, w: s.update(x.astype(">f4"), y), "x is a numpy array of >f4"),
        (lambda s, x, y, w: s.update(x.astype(object), y), "x is a numpy array of object"),
        (lambda s, x, y, w: neural_collapse(s, w.tolist()), "head_weight is list"),
        (lambda s, x, y, w: neural_collapse(s, w.astype(int)), "head_weight is torch.int64"),
        (lambda s, x, y, w: neural_collapse(s, ood_mean=[1.0]), "ood_mean is list"),
        (lambda s, x, y, w: NearestCenterAgreement(s, w.tolist()), "head_weight is list"),
        (lambda s, x, y, w: neural_collapse(s, classes=[True, False]), "classes holds torch.bool"),
        (lambda s, x, y, w: neural_collapse(s, classes=[0.5]), "classes holds torch.float32"),
        (
            lambda s, x, y, w: neural_collapse(s, classes=["he"]),
            "classes holds words; expected",
        ),
        (lambda s, x, y, w: neural_collapse(s, classes="all"), "classes is 'all'; expected"),
        (lambda s, x, y, w: ClassStatistics(V, D, classes=[0.5]), "classes holds torch.float32"),
        (lambda s, x, y, w: ClassStatistics(V, D, scatter={"a": y > 2}), "holds torch.bool"),
    ],
)
def test_what_is_wrong_is_said(arrays, call, message):
    x, y, head = arrays
    stats = ClassStatistics(V, D)
    stats.update(x, y)
    before = stats.counts.clone()
    with pytest.raises(TypeError) as raised:
        call(stats, x, y, head)
    assert message in str(raised.value)
    assert torch.equal(stats.counts, before)


def test_shapes_are_said_as_for_tensors(arrays):
    x, y, head = arrays
    stats = ClassStatistics(V, D)
    stats.update(x, y)
    with pytest.raises(ValueError, match=r"head_weight is \(5, 2\) on cpu; expected \(5, 3\)"):
        neural_collapse(stats, head[:, :2])
    with pytest.raises(DataError, match="classes is empty"):
        neural_collapse(stats, classes=[])

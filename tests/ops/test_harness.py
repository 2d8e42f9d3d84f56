"""The harness itself: it must be able to fail."""

from __future__ import annotations

import math

import pytest
import torch

from ncfast import native
from ncfast.testing import assert_matches, poison, rounding_floor, sample_inputs

TRUTH = torch.linspace(1, 2, 12, dtype=torch.float64).reshape(3, 4) / 3


def test_the_rule_allows_rounding_and_no_more():
    assert_matches(TRUTH.float(), TRUTH, TRUTH.float())
    floor = rounding_floor(TRUTH, torch.float32, torch.float32)
    assert floor == pytest.approx(16 * 2**-23 * 2 / 3)
    off = TRUTH.float()
    off[2, 1] += 1.5 * floor
    with pytest.raises(AssertionError, match=r"out\[2, 1\] is 0.606.*; expected 0.606.* 1 of 12"):
        assert_matches(off, TRUTH, TRUTH.float())
    # A baseline as wrong as that allows it; one half as wrong and a floor of nothing does too.
    assert_matches(off, TRUTH, off)
    assert_matches(off, TRUTH, TRUTH.float() + 0.75 * floor, floor=floor / 100)


def test_a_narrow_result_may_round_once_more():
    narrow = TRUTH.to(torch.bfloat16)
    assert_matches(narrow, TRUTH, narrow)
    step = torch.nextafter(narrow, narrow * 2)
    with pytest.raises(AssertionError, match="exceeds 2 x"):
        assert_matches(step + (step - narrow), TRUTH, narrow)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_never_matches(value):
    out = TRUTH.float()
    out[1, 0] = value
    with pytest.raises(AssertionError, match=r"out\[1, 0\] is (nan|inf)"):
        assert_matches(out, TRUTH, TRUTH.float())
    with pytest.raises(ValueError, match="the baseline is not finite"):
        assert_matches(TRUTH.float(), TRUTH, out)


def test_integers_shapes_and_dtypes_must_be_equal():
    counts = torch.tensor([3, 5])
    assert_matches(counts, counts, counts)
    with pytest.raises(AssertionError, match=r"counts\[1\] is 6; expected 5"):
        assert_matches(torch.tensor([3, 6]), counts, counts, name="counts")
    with pytest.raises(AssertionError, match=r"float32 \(4, 3\); expected torch.float32 \(3, 4\)"):
        assert_matches(TRUTH.float().T, TRUTH, TRUTH.float())
    with pytest.raises(AssertionError, match=r"float64 .*; expected torch.float32"):
        assert_matches(TRUTH, TRUTH, TRUTH.float())


def test_poison_shows_what_is_not_written_and_ends():
    with poison() as outputs:
        floats = native.allocate((2, 3), torch.bfloat16, torch.device("cpu"))
        integers = native.allocate((4,), torch.int64, torch.device("cpu"))
    assert floats.isnan().all()
    assert (integers < -1000).all()
    assert [o.shape for o in outputs] == [(2, 3), (4,)]
    assert floats.is_contiguous()
    plain = native.allocate((2,), torch.float32, torch.device("cpu"))
    assert plain.storage_offset() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
@pytest.mark.parametrize("where", [-1, 6])
def test_poison_finds_a_write_beside_an_output(dtype, where):
    block = poison()
    block.__enter__()
    out = native.allocate((2, 3), dtype, torch.device("cpu"))
    torch.as_strided(out, (1,), (1,), out.storage_offset() + where).zero_()
    with pytest.raises(AssertionError, match="wrote outside its output"):
        block.__exit__(None, None, None)


def test_samples_are_what_their_names_say():
    samples = {s.name: s.args for s in sample_inputs("class_moments")}
    x, _, classes = samples["more-classes-than-tokens"]
    assert classes > x.shape[0]
    assert samples["transposed"][0].stride()[0] == 1
    assert samples["expanded-rows"][0].stride() == (0, 1)
    assert samples["expanded-columns"][0].stride() == (1, 0)
    assert not samples["sliced"][0].is_contiguous()
    assert samples["strided-labels"][1].stride() == (3,)
    assert (samples["all-ignored"][1] == -100).all()
    assert samples["ignored-nan"][0].isnan().any()
    assert (samples["long-class"][1] == 1).sum() > 1024
    assert {name: s[0].shape for name, s in samples.items()}["no-tokens"] == (0, 5)
    with pytest.raises(ValueError, match="no samples of 'nothing'"):
        sample_inputs("nothing")

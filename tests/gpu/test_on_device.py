"""What carries the contracts to a device keeps every layout: strided samples stay strided."""

from __future__ import annotations

import pytest
import torch

from ncfast.testing import sample_inputs

from .on_device import kernels, moved, relaid


@pytest.mark.parametrize("op", ["class_moments", "alignment"])
def test_layouts_are_kept(op):
    strided = 0
    for sample in sample_inputs(op, torch.bfloat16):
        for value in (a for a in sample.args if isinstance(a, torch.Tensor)):
            there = relaid(value, "meta")
            assert there.device.type == "meta"
            assert (there.shape, there.stride()) == (value.shape, value.stride())
            assert there.storage_offset() == value.storage_offset()
            strided += not value.is_contiguous()
    assert strided >= 4


def test_gradients_are_asked_for_there():
    leaf = torch.ones(3, 2).T.requires_grad_()
    there = moved(leaf, "meta")
    assert there.requires_grad
    assert there.stride() == leaf.stride()
    assert moved(leaf, "cpu") is leaf
    assert moved("classes", "meta") == "classes"


def test_kernels_are_those_of_the_table():
    assert kernels("no_such_op") == []

"""What carries the contracts to a device keeps every layout: strided samples stay strided."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ncfast.testing import sample_inputs

from .on_device import copied, kernels, moved, relaid

ROOT = Path(__file__).parents[2]


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


def test_a_rehearsal_shares_no_memory():
    leaf = torch.ones(3, 2).T.requires_grad_()
    for value in (leaf, leaf.detach()):
        there = copied(value, "cpu")
        assert there.untyped_storage().data_ptr() != value.untyped_storage().data_ptr()
        assert there.stride() == value.stride()
        assert there.requires_grad == value.requires_grad
    copied(leaf, "cpu").sum().backward()
    assert torch.equal(leaf.grad, torch.ones(2, 3))
    assert copied("classes", "cpu") == "classes"


@pytest.mark.slow
def test_the_tests_by_hand_are_right_of_the_reference():
    """All that a GPU's run of them takes part in but the kernels: it says nothing of those."""
    environment = {
        **os.environ,
        "NCFAST_TEST_DEVICE": "cpu",
        "NCFAST_TEST_BACKENDS": "cpu reference",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu"]
    command += ["tests/gpu/test_by_hand.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 400

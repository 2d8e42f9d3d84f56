"""What kernels that may not stop a device found is told at the next look, once."""

from __future__ import annotations

import pytest
import torch

import ncfast
from ncfast import DataError, device_errors, native_cuda

CPU = torch.device("cpu")


def test_a_record_of_the_cuda_kernels_is_told_once(monkeypatch):
    # As csrc/cuda/device_errors.cuh writes it: kind, op, row, column, limit, bits of the value.
    record = torch.tensor([1, native_cuda.number_of("class_moments"), 3, 9, 5, 0])
    monkeypatch.setattr(native_cuda, "_records", {CPU: record})
    with pytest.raises(
        DataError, match=r"class_moments: y\[3\] is 9; expected a class in \[0, 5\)"
    ):
        ncfast.check_device_errors()
    ncfast.check_device_errors()


def test_a_flag_of_the_triton_kernels_is_told_once_and_by_the_metrics():
    slot = device_errors.declare("some_op: y[{}] is out of range")
    device_errors.table(CPU)[slot] = 7
    stats = ncfast.ClassStatistics(2, 2)
    stats.update(torch.eye(2), torch.tensor([0, 1]))
    with pytest.raises(DataError, match=r"some_op: y\[7\] is out of range"):
        ncfast.neural_collapse(stats)
    ncfast.neural_collapse(stats)

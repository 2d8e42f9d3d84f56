"""Backends that losses are tested on; those of GPUs have tests in tests/ops and tests/kernels."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["reference", "cpu"])
def backend(request) -> str:
    """Name a backend that runs everywhere."""
    return request.param

"""The tests of every op that are no contract, on its GPU kernels: ties, bad data, untouched state.

pytest -m gpu tests/gpu/test_by_hand.py                   # on a GPU: backends triton and cuda
NCFAST_TEST_DEVICE=cpu TRITON_INTERPRET=1 pytest tests/gpu/test_by_hand.py      # a rehearsal

NCFAST_TEST_BACKENDS="cpu reference" rehearses all but the kernels: test_on_device.py does.
"""

from __future__ import annotations

import pytest
import torch

from ..ops.backends import OPS, by_hand, carry
from .on_device import DEVICE, copied, moved

if DEVICE == "cuda" and not torch.cuda.is_available():
    pytest.skip("no CUDA device; the GPU kernels ran on none", allow_module_level=True)

pytestmark = pytest.mark.gpu

globals().update(by_hand(OPS))


@pytest.fixture(autouse=True)
def on_the_device(monkeypatch):
    """Take arguments to the device and results back; raise at the call what was found wrong."""
    carry(monkeypatch, copied if DEVICE == "cpu" else moved, DEVICE)

"""The tests of every op that are no contract, on Triton kernels, in the interpreter.

``test_interpreted.py`` runs each class in a process of its own, with TRITON_INTERPRET=1. One alone:

    TRITON_INTERPRET=1 pytest tests/kernels/interpreted_by_hand.py::TestLinearArgmaxByHand
"""

from __future__ import annotations

import pytest

from tests.ops.backends import OPS, by_hand, carry

globals().update(by_hand(OPS))


@pytest.fixture(autouse=True)
def errors_at_once(monkeypatch):
    """Raise at the call what a kernel leaves for the next check."""
    carry(monkeypatch, lambda value, _: value, "cpu")

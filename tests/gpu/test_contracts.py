"""The contract of every op on its GPU kernels; one skipped line where there is no GPU.

    pytest -m gpu tests/gpu                          # on a GPU: backends triton and cuda
    NCFAST_TEST_DEVICE=cpu TRITON_INTERPRET=1 pytest tests/gpu -k primes     # a rehearsal

The classes come from the dispatch table: an op that gets a row is tested here from then on.
"""

from __future__ import annotations

import pytest
import torch

import ncfast.functional as F
from ncfast import DataError, check_device_errors, dispatch, use_backend
from ncfast.testing import tiny_tokens

from .on_device import BACKENDS, DEVICE, OnDevice, contract_of, kernels

if DEVICE == "cuda" and not torch.cuda.is_available():
    pytest.skip("no CUDA device; the GPU kernels ran on none", allow_module_level=True)

pytestmark = pytest.mark.gpu

FORWARD = [op for op in dispatch.ops() if not op.endswith("_backward") and kernels(op)]
CONTRACTS = {op: contract_of(op) for op in FORWARD}
globals().update(
    {c.__name__: type(c.__name__, (OnDevice, c), {"__doc__": op}) for op, c in CONTRACTS.items()}
)


def test_what_is_covered(capsys):
    """Print which kernels these tests run; every GPU backend is among them."""
    rows = {op: kernels(op) for op in dispatch.ops()}
    with capsys.disabled():
        print()
        for op, backends in rows.items():
            print(f"  {op:32} {', '.join(backends) or 'no GPU kernel'}")
    assert {b for backends in rows.values() for b in backends} == set(BACKENDS)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("op", ["class_moments", "within_class_scatter"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: y[3:].fill_(7), r"y\[3\] is"),
        (lambda x, y: y[9].fill_(2**40), r"y\[9\] is"),
        (lambda x, y: x[5, 2].fill_(float("nan")), r"x\[5"),
    ],
)
def test_bad_data_is_named(backend, op, change, message):
    """At once by the emulator; on a GPU by the check, once, and nothing is left after it."""
    x, y = tiny_tokens(61, 13, 7)
    change(x, y)
    more = (7,) if op == "class_moments" else (torch.zeros(7, 13, device=DEVICE),)

    def call() -> None:
        F.function_of(op)(x.to(DEVICE), y.to(DEVICE), *more)
        check_device_errors()

    with use_backend(backend), pytest.raises(DataError, match=f"{op}: {message}"):
        call()
    check_device_errors()


@pytest.mark.parametrize("backend", BACKENDS)
def test_offsets_past_two_to_the_31st(backend):
    """Rows that lie 2^31 elements apart, of which two are read."""
    if DEVICE == "cpu":
        pytest.skip("takes 4 GiB of a device's memory")
    memory = torch.zeros(2**31 + 64, dtype=torch.bfloat16, device=DEVICE)
    x = memory.as_strided((2, 8), (2**31, 1))
    x[0], x[1] = 1, 3
    y = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    with use_backend(backend):
        _, means, m2 = F.class_moments(x, y, 1)
    assert means.tolist() == [[2.0] * 8]
    assert m2.tolist() == [16.0]
    check_device_errors()

"""Programs that share a byte: planted in kernels, named; their sound twins are not.

``test_interpreted.py`` runs this file in a process with TRITON_INTERPRET=1.
"""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from ncfast.kernels import interpreter
from ncfast.kernels.interpreted_programs import ProgramRace, watched
from ncfast.kernels.tiles import report_error

interpreter.install()

STORE, LOAD, PLAIN, ATOMIC = range(4)


@triton.jit
def _share(out, KIND: tl.constexpr, SOUND: tl.constexpr):
    program = tl.program_id(0)
    own = tl.arange(0, 4)
    if KIND == 0:  # both store the same value
        tl.store(out + (program * 4 if SOUND else 0) + own, 1)
    elif KIND == 1:  # one loads what the other stores
        other = tl.load(out + (program if SOUND else 1 - program) * 4 + own)
        tl.store(out + program * 4 + own, other * 0 + 1)
    elif KIND == 2:  # a sum without atomics
        if SOUND:
            tl.atomic_add(out + own, 1)
        else:
            tl.store(out + own, tl.load(out + own) + 1)
    else:  # atomics beside a plain store
        if SOUND or program == 0:
            tl.atomic_add(out + own, 1)
        else:
            tl.store(out + own, 1)


@pytest.mark.parametrize("order", ["forward", "reverse", "shuffled"])
@pytest.mark.parametrize("kind", [STORE, LOAD, PLAIN, ATOMIC])
def test_a_race_of_programs_is_named(kind, order):
    out = torch.zeros(8, dtype=torch.int32)
    with watched(order):
        _share[(2,)](out, KIND=kind, SOUND=True)
        with pytest.raises(ProgramRace, match=r"race in _share: .*nothing orders two programs"):
            _share[(2,)](out, KIND=kind, SOUND=False)
    _share[(2,)](out, KIND=kind, SOUND=False)  # unwatched


@triton.jit
def _report(table):
    report_error(table, 1, 9 - tl.program_id(0).to(tl.int64))


@pytest.mark.parametrize("order", ["forward", "reverse", "shuffled"])
def test_programs_that_find_errors_at_once_keep_the_first(order):
    table = torch.full((3,), 100)
    with watched(order):
        _report[(5,)](table)
    assert table.tolist() == [100, 5, 100]


@triton.jit
def _who(out, count):
    place = tl.atomic_add(out, 1)
    tl.store(out + 1 + place, tl.program_id(0) * 10 + tl.program_id(1))


def test_programs_run_in_the_order_asked_for():
    found = {}
    for order in ("forward", "reverse", "shuffled"):
        out = torch.zeros(7, dtype=torch.int32)
        with watched(order):
            _who[(3, 2)](out, 6)
        found[order] = out[1:].tolist()
    assert found["forward"] == [0, 1, 10, 11, 20, 21]
    assert found["reverse"] == found["forward"][::-1]
    assert sorted(found["shuffled"]) == found["forward"]

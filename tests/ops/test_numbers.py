"""Numbers that Python and C++ give the same things: kinds of pairs, and what a record tells."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from ncfast import native_cuda
from ncfast.reference.pair_stats import KINDS

CSRC = Path(__file__).parents[2] / "csrc"


def enumerators(file: str, name: str) -> list[str]:
    """Return the enumerators of an enum, by number, as words."""
    text = re.sub(r"//[^\n]*", "", (CSRC / file).read_text(encoding="utf-8"))
    body = re.search(rf"enum (?:class )?{name}\b[^{{]*{{([^}}]*)}}", text).group(1)
    found = dict(re.findall(r"(\w+) = (\d+)", body))
    assert sorted(map(int, found.values())) == list(range(len(found)))
    by_number = sorted(found, key=lambda one: int(found[one]))
    return [re.sub(r"(?<=[a-z])(?=[A-Z])", "_", n.removeprefix("k")).lower() for n in by_number]


def test_pair_kinds_have_one_number_everywhere():
    assert enumerators("common/pair_functions.h", "PairKind") == list(KINDS)
    assert enumerators("cuda/pairs.cuh", "Kind") == list(KINDS)


def test_triton_tells_every_term_apart_by_the_same_numbers():
    functions = pytest.importorskip("ncfast.kernels.pair_functions")
    assert [getattr(functions, kind.upper()) for kind in KINDS] == [*range(len(KINDS))]
    names = ("LOG_DISTANCE", "COSINE", "LOG_DISTANCE_RAW")
    for name in names:
        assert getattr(functions, f"CODE_{name}").value == KINDS.index(name.lower())
    kinds = [*range(len(KINDS)), functions.CDNV, functions.RIESZ]
    codes = functions.function_codes(kinds, [1] * len(KINDS) + [2, 2], torch.device("cpu")).tolist()
    assert codes[: functions.RIESZ] == kinds[: functions.RIESZ]
    assert len({*codes}) == len(codes)
    assert codes[-2] == functions.CODE_CDNV_SQUARED.value
    assert [codes[functions.RIESZ], codes[-1]] == [
        functions.ENERGY.value + 1,
        functions.ENERGY.value + 2,
    ]


def test_device_errors_are_reported_by_their_names():
    names = [kind.replace(" ", "_") for kind in native_cuda.ERROR_KINDS]
    assert enumerators("cuda/device_errors.cuh", "ErrorKind") == names

"""Every CUDA kernel, run by the host emulator, under the contract of its op.

The emulator starts blocks and threads in several orders and lets asynchronous copies land at
several moments: a barrier or a wait that is missing changes an answer.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable

import pytest
import torch

import ncfast.functional as F
from ncfast import BackendError, DataError, dispatch, native_cuda, use_backend
from ncfast.ops import linear_cross_entropy
from ncfast.testing import Sample, sample_inputs, tiny_tokens
from tests.losses import test_cross_entropy as losses
from tests.losses import test_cross_entropy_precision as precision

from . import test_linear_cross_entropy as cross_entropy
from . import test_linear_cross_entropy_rejected as rejected
from .contract import IN_FLOAT16, OpContract


def contract_of(op: str) -> type[OpContract]:
    """Return the contract that an op's own test file writes down."""
    module = importlib.import_module(f".test_{op}", __package__)
    found = [c for c in vars(module).values() if getattr(c, "op", None) == op]
    assert len(found) == 1
    return found[0]


CONTRACTS = {op: contract_of(op) for op in dispatch.ops() if not op.endswith("_backward")}
WITH_BACKWARD = (
    "alignment",
    "between_class_scatter",
    "class_moments",
    "linear_cross_entropy",
    "pair_stats",
    "within_class_scatter",
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Kernels of both 16-bit types differ in a conversion alone: one of them shows the order of steps.
SCHEDULED = (torch.float32, torch.bfloat16)
# Every order of threads and every moment at which copies land. That no order matters is the race
# detector's to see, whatever the schedule (test_cuda_host_builds.py).
SCHEDULES = (
    ("forward", "late"),
    ("reverse", "early"),
    ("random:1", "mixed"),
)

pytestmark = pytest.mark.usefixtures("cuda_host")


def samples(op: str, dtype: torch.dtype) -> list[Sample]:
    """Return the contract's samples less those that ask for float64 sums."""
    # A mean or center of float64 needs them; m2, weights and scatters are float64 always.
    found = [s for s in sample_inputs(op, dtype) if "float64" not in s.name]
    if dtype == torch.float16:
        found = [s for s in found if s.name in IN_FLOAT16]
    if os.environ.get("NCFAST_TEST_EMULATOR") == "races":
        # Shadow memory of every byte: what many tokens show, few do in small chunks.
        found = [s for s in found if not s.name.startswith(("many", "long", "two-tiles"))]
    return found


def under_every_sample(op: str, dtype: torch.dtype, test: Callable[[Sample], None]) -> None:
    """Run a test on every sample and say of all that fail; of the first, to tests.mutants."""
    failures = []
    for sample in samples(op, dtype):
        try:
            test(sample)
        except AssertionError as error:
            failures.append(f"{sample}: {error}")
            if "NCFAST_TEST_FIRST_FAILURE" in os.environ:
                break
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", CONTRACTS)
def test_agreement(op, dtype):
    contract = CONTRACTS[op]()
    under_every_sample(op, dtype, lambda sample: contract.test_agreement("cuda-host", sample))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", WITH_BACKWARD)
def test_gradients(op, dtype):
    contract = CONTRACTS[op]()
    under_every_sample(
        op, dtype, lambda sample: contract.test_gradient_agreement("cuda-host", sample)
    )


@pytest.mark.parametrize("dtype", SCHEDULED, ids=str)
@pytest.mark.parametrize("op", CONTRACTS)
def test_every_schedule_gives_the_same_bits(op, dtype, monkeypatch):
    contract, gradients = CONTRACTS[op], op in WITH_BACKWARD

    def run(sample: Sample) -> list[torch.Tensor]:
        leaves = contract.leaves(sample.args) if gradients else list(sample.args)
        out = list(contract.call(*leaves))
        upstream = contract.upstream(out)
        return out + (list(contract.gradients(leaves, out, upstream).values()) if upstream else [])

    def compare(sample: Sample) -> None:
        results = []
        for order, copies in SCHEDULES:
            monkeypatch.setenv("NCFAST_EMULATOR_SCHEDULE", order)
            monkeypatch.setenv("NCFAST_EMULATOR_COPIES", copies)
            with use_backend("cuda-host"):
                results.append(run(sample))
        for schedule, other in zip(SCHEDULES[1:], results[1:], strict=True):
            for a, b in zip(results[0], other, strict=True):
                assert torch.equal(a, b), f"other bits under {schedule}"

    under_every_sample(op, dtype, compare)


@pytest.mark.parametrize(("ahead", "back"), [("cpu", "cuda-host"), ("cuda-host", "cpu")])
@pytest.mark.parametrize("op", WITH_BACKWARD)
def test_any_forward_with_any_backward(op, ahead, back):
    """What forward leaves for backward is the contract's, not a backend's."""
    contract = CONTRACTS[op]()
    for sample in samples(op, torch.bfloat16):
        if sample.name not in ("primes", "stored-some", "index-shuffled"):
            continue
        leaves = contract.leaves(sample.args)
        with use_backend(ahead):
            out = contract.call(*leaves)
        upstream = contract.upstream(out)
        with use_backend(back):
            found = contract.gradients(leaves, out, upstream)
        contract.assert_gradients(sample.args, found, upstream)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_linear_cross_entropy_in_many_panels(dtype, monkeypatch):
    monkeypatch.setattr(linear_cross_entropy, "PANEL", (256, 512))
    contract, tried = CONTRACTS["linear_cross_entropy"](), 0
    for sample in samples("linear_cross_entropy", dtype):
        if sample.name in ("many-classes", "stored-some", "row-tiles", "padded"):
            contract.test_gradient_agreement("cuda-host", sample)
            tried += 1
    assert tried == 4


@pytest.mark.parametrize(
    "test",
    [
        cross_entropy.test_rows_that_pad_the_vocabulary_are_never_read,
        cross_entropy.test_nothing_to_do_is_not_nan,
        cross_entropy.test_classes_excluded_by_their_bias,
        cross_entropy.test_memory_budget_is_kept,
    ],
)
def test_linear_cross_entropy(test):
    test("cuda-host")


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_linear_cross_entropy_propagates_what_is_not_finite(value):
    precision.test_what_is_not_finite_propagates_as_in_torch("cuda-host", value)


def test_linear_cross_entropy_of_weighted_classes():
    precision.check_that_a_step_is_skipped("cuda-host")
    losses.test_every_option_in_float32("cuda-host")


@pytest.mark.parametrize(("change", "message"), rejected.BAD_VALUES)
def test_linear_cross_entropy_refuses_values(change, message):
    rejected.test_refuses_values("cuda-host", change, message)


@pytest.mark.parametrize("op", CONTRACTS)
def test_float64_is_refused(op):
    arguments = sample_inputs(op, torch.float64)[0].args
    with use_backend("cuda-host"), pytest.raises(BackendError, match="keep sums in float32"):
        CONTRACTS[op].call(*arguments)


@pytest.mark.parametrize("value", [5, -1, -99, 2**40, -(2**40)])
def test_a_bad_label_is_named(value):
    x, y = tiny_tokens(2500, 13, 5)
    y[2340] = value
    y[2341:] = 77
    message = rf"class_moments: y\[2340\] is {value}; expected a class in \[0, 5\) or -100"
    with use_backend("cuda-host"), pytest.raises(DataError, match=message):
        F.class_moments(x, y, 5)
    assert native_cuda.pending_error(torch.device("cpu")) == ""  # said once


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("place", [0, 700, 1102])
def test_a_feature_that_is_not_finite_is_named(value, place):
    x, y = tiny_tokens(1103, 33, 3)
    y[:] = 1
    x[place, 31] = float(value)
    x[place + 1 :, 2] = float("nan")
    with use_backend("cuda-host"):
        with pytest.raises(DataError, match=rf"class_moments: x\[{place}, 31\] is {value};"):
            F.class_moments(x, y, 5)
        y[place:] = -100  # what does not count is not looked at
        F.class_moments(x, y, 5)


def test_the_first_finding_stays_until_it_is_read(monkeypatch):
    """On a GPU the host reads later, when other ops may have met bad values too."""
    x, y = tiny_tokens(20, 3, 5)
    y[:] = 1
    bad = [(7, 9), (3, 8)]
    with monkeypatch.context() as later, use_backend("cuda-host"):
        later.setattr(native_cuda, "pending_error", lambda device: "")
        for place, value in bad:
            labels = y.clone()
            labels[place] = value
            F.class_moments(x, labels, 5)
    assert "y[7] is 9" in native_cuda.pending_error(torch.device("cpu"))
    assert native_cuda.pending_error(torch.device("cpu")) == ""

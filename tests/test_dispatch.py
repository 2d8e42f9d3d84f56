"""dispatch: who runs a call, in which order, who may be asked for, and that it can say why."""

from __future__ import annotations

import contextlib
import logging

import pytest
import torch
from torch import Tensor

import ncfast.functional as F
from ncfast import BackendError, dispatch, explain, trace, use_backend
from ncfast.dispatch import AUTO_ORDER, Kernel
from ncfast.testing import tiny_tokens

N, D, V = 1031, 64, 257


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start from no request, no strictness, and nothing logged yet."""
    for name in ("NCFAST_BACKEND", "NCFAST_STRICT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(dispatch, "_logged", set())


def toy(monkeypatch: pytest.MonkeyPatch, *backends: str, refusing: tuple[str, ...] = ()) -> None:
    """Register an op "toy" whose rows say their name; some refuse everything."""
    monkeypatch.setitem(dispatch._table, "toy", {})
    for backend in backends:
        reason = "it is a toy" if backend in refusing else ""
        dispatch.register(
            "toy",
            Kernel(backend, ("cpu",), lambda x, r=reason: r, lambda x, b=backend: b),
        )


def test_auto_takes_the_first_that_accepts(monkeypatch):
    x = torch.ones(1)
    toy(monkeypatch, *reversed(AUTO_ORDER), "triton-interpret", "cuda-host")
    for remaining in range(len(AUTO_ORDER)):
        assert dispatch.call("toy", x) == AUTO_ORDER[remaining]
        del dispatch._table["toy"][AUTO_ORDER[remaining]]
    # What exists for tests only is never chosen by itself.
    with pytest.raises(BackendError, match="toy: no backend can serve this call"):
        dispatch.call("toy", x)
    with use_backend("cuda-host"):
        assert dispatch.call("toy", x) == "cuda-host"


def test_a_row_for_another_device_is_not_a_step_down(monkeypatch, caplog):
    toy(monkeypatch, "cpu")
    dispatch.register("toy", Kernel("cuda", ("cuda",), lambda x: "", lambda x: "cuda"))
    monkeypatch.setenv("NCFAST_STRICT", "1")
    assert dispatch.call("toy", torch.ones(1)) == "cpu"
    assert not caplog.records


def test_a_step_down_is_logged_once_per_reason(monkeypatch, caplog):
    toy(monkeypatch, "triton", "cpu", "reference", refusing=("triton", "cpu"))
    with caplog.at_level(logging.WARNING, "ncfast"):
        for _ in range(3):
            assert dispatch.call("toy", torch.ones(1)) == "reference"
        assert len(caplog.records) == 1
        assert "toy falls back to reference" in caplog.text
        assert "triton: it is a toy; cpu: it is a toy" in caplog.text
        monkeypatch.setitem(
            dispatch._table["toy"],
            "cpu",
            Kernel("cpu", ("cpu",), lambda x: "busy", lambda x: "cpu"),
        )
        dispatch.call("toy", torch.ones(1))
        assert len(caplog.records) == 2


@pytest.mark.parametrize(("value", "strict"), [("1", True), ("0", False), ("", False)])
def test_strict_raises_instead_of_stepping_down(monkeypatch, value, strict):
    toy(monkeypatch, "cpu", "reference", refusing=("cpu",))
    monkeypatch.setenv("NCFAST_STRICT", value)
    if strict:
        with pytest.raises(BackendError, match="falls back to reference: cpu: it is a toy"):
            dispatch.call("toy", torch.ones(1))
    else:
        assert dispatch.call("toy", torch.ones(1)) == "reference"


def test_a_request_that_cannot_be_met_raises_with_the_reason(monkeypatch):
    toy(monkeypatch, "cpu", "reference", refusing=("cpu",))
    with (
        use_backend("cpu"),
        pytest.raises(BackendError, match=r"'cpu' was requested .* it is a toy"),
    ):
        dispatch.call("toy", torch.ones(1))
    x, y = tiny_tokens(5, 3, 2)
    with (
        use_backend("triton"),
        pytest.raises(BackendError, match=r"class_moments: backend 'triton' .* not cpu"),
    ):
        F.class_moments(x, y, 2)


def test_unknown_names(monkeypatch):
    with pytest.raises(BackendError, match="'gpu' is not known; expected 'auto' or one of"):
        use_backend("gpu").__enter__()
    with pytest.raises(BackendError, match="op 'nothing' is not known; expected one of"):
        explain("nothing")
    with pytest.raises(ValueError, match="unknown backend 'gpu'"):
        dispatch.register("toy", Kernel("gpu", ("cpu",), lambda: "", lambda: None))
    monkeypatch.setenv("NCFAST_BACKEND", "gpu")
    x, y = tiny_tokens(5, 3, 2)
    with pytest.raises(BackendError, match="'gpu' is not known"):
        F.class_moments(x, y, 2)
    assert "gpu" not in dispatch._request


def test_the_environment_asks_and_use_backend_overrules(monkeypatch):
    x, y = tiny_tokens(5, 3, 2)
    monkeypatch.setenv("NCFAST_BACKEND", "reference")
    with trace() as calls:
        F.class_moments(x, y, 2)
        with use_backend("cpu"):
            F.class_moments(x, y, 2)
        with use_backend("auto"):
            F.class_moments(x, y, 2)
    assert [c.backend for c in calls] == ["reference", "cpu", "cpu"]


def test_use_backend_nests_and_ends_with_an_exception():
    x, y = tiny_tokens(5, 3, 2)
    with trace() as calls:
        with use_backend("reference"):
            with pytest.raises(TypeError), use_backend("cpu"):
                F.class_moments(F.class_moments(x, y, 2), y, 2)
            F.class_moments(x, y, 2)
        F.class_moments(x, y, 2)
    assert [c.backend for c in calls] == ["cpu", "reference", "cpu"]


def test_trace_records_calls_and_shapes_and_nests():
    x, y = tiny_tokens(5, 3, 2)
    with trace() as outer:
        F.class_moments(x, y, 2)
        with trace() as inner:
            x.requires_grad_()
            F.class_moments(x, y, 2)[1].sum().backward()
        F.class_moments(x, y, 2)
    F.class_moments(x, y, 2)
    assert [c.op for c in inner] == ["class_moments", "class_moments_backward"]
    assert len(outer) == 4
    assert outer[0].shapes == ((5, 3), (5,))


def test_explain_on_the_cpu():
    x, y = tiny_tokens(5, 3, 2)
    table = explain("class_moments", x, y, 2)
    verdicts = {v.backend: v for v in table}
    assert table.chosen == "cpu"
    assert list(verdicts)[: len(AUTO_ORDER)] == list(AUTO_ORDER)
    assert (verdicts["reference"].accepts, verdicts["reference"].chosen) == (True, False)
    assert (verdicts["triton"].accepts, verdicts["triton"].chosen) == (False, False)
    assert "-> cpu" in str(table)
    assert "class_moments: runs on cpu" in str(table)
    with use_backend("reference"):
        assert explain("class_moments", x, y, 2).chosen == "reference"
    with use_backend("triton"):
        assert explain("class_moments", x, y, 2).chosen is None


def test_explain_where_nothing_serves():
    x, y = (t.to("meta") for t in tiny_tokens(5, 3, 2))
    table = explain("class_moments", x, y, 2)
    assert table.chosen is None
    assert "runs on nothing" in str(table)
    for verdict in table:
        assert verdict.reason.endswith("not meta") or not verdict.available


def test_a_request_around_a_compiled_function_holds():
    torch._dynamo.reset()
    x, y = tiny_tokens(5, 3, 2)
    compiled = torch.compile(F.class_moments, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True), trace() as calls:
        for name in ("reference", "cpu"):
            with use_backend(name):
                compiled(x, y, 2)
    assert [c.backend for c in calls] == ["reference", "cpu"]
    with use_backend("triton"), pytest.raises(BackendError, match="'triton' was requested"):
        compiled(x, y, 2)


def test_a_request_inside_a_compiled_function_holds_or_raises():
    torch._dynamo.reset()
    x, y = tiny_tokens(5, 3, 2)

    @torch.compile(backend="aot_eager")
    def function(x: Tensor, y: Tensor) -> Tensor:
        with use_backend("reference"):
            return F.class_moments(x, y, 2)[1]

    outcome = "raised"
    with (
        trace() as calls,
        contextlib.suppress(BackendError, torch._dynamo.exc.TorchDynamoException),
    ):
        function(x, y)
        outcome = calls[0].backend
    assert outcome in ("raised", "reference")

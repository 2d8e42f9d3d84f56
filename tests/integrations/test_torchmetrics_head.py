"""The torchmetrics metric and its head: read where it lives, keys, dtypes, a plot."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from tests.integrations.test_torchmetrics import (
    KEYS,
    D,
    V,
    assert_is,
    batches,
    expected,
    made,
    tokens,
    torchmetrics,
)


def test_the_head_is_read_where_it_lives():
    x, y, head = tokens()
    weight = torch.nn.Parameter(head.clone())
    metric = made().set_head(weight)
    clone, collection = metric.clone(), torchmetrics.MetricCollection({"nc": metric}).clone()
    pickled = pickle.loads(pickle.dumps(metric))
    assert not list(metric.parameters())
    assert not metric.state_dict()
    weight.data = -weight.data
    for m in (metric, clone, collection):
        m.update(x, y)
        found = m.compute()
        assert float(found["nc3_mean"]) == pytest.approx(expected(x, y, -head)["nc3_mean"])
    pickled.update(x, y)
    assert float(pickled.compute()["nc3_mean"]) == pytest.approx(expected(x, y)["nc3_mean"])
    with pytest.raises(TypeError, match="head is a list"):
        metric.set_head([1.0])


class Model(torch.nn.Module):
    """A model with its metric before or after its head."""

    def __init__(self, first: bool, method: bool):
        super().__init__()
        self.metric = made() if first else None
        self.head = torch.nn.Linear(D, V)
        self.metric = self.metric or made()
        self.metric.set_head(self.weight if method else self.head.weight)

    def weight(self):
        return self.head.weight


@pytest.mark.parametrize("method", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_a_copied_model_reads_its_own_head(first, method):
    x, y, _ = tokens()
    model = Model(first, method)
    twin = copy.deepcopy(model)
    twin.head.weight.data.neg_()
    for m in (model, twin):
        m.metric.update(x, y)
        want = expected(x, y, m.head.weight.detach())["nc3_mean"]
        assert float(m.metric.compute()["nc3_mean"]) == pytest.approx(want)
        assert not any(name.startswith("metric") for name in m.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_and_double(dtype):
    x, y, _ = tokens(dtype)
    metric = made()
    if dtype == torch.float64:
        x = x + 1e-12 * torch.arange(60)[:, None]
        assert metric.set_dtype(torch.float64) is metric
        assert metric.means.dtype == torch.float64
        assert metric.counts.dtype == torch.int64
    module = torch.nn.ModuleList([metric]).half()  # as the model that holds it
    module[0].update(x[:30], y[:30])
    module[0](x[30:], y[30:])
    head = {"head": tokens()[2]}
    assert_is(metric.compute(), x, y, **head, dtype=metric.means.dtype)
    metric.reset()
    assert metric.means.dtype == (dtype if dtype == torch.float64 else torch.float32)
    with pytest.raises(ValueError, match=r"set_dtype: dst_type is torch.float16"):
        metric.set_dtype(torch.float16)


def test_inference_mode_leaves_a_metric_that_still_updates():
    x, y, _ = tokens()
    metric = made()
    with torch.inference_mode():
        metric.update(*batches()[0])
        metric.reset()
        metric.update(x[:30], y[:30])
    metric.update(x[30:], y[30:])
    assert_is(metric.compute(), x, y)


def test_keys_are_checked_when_it_is_made():
    from ncfast.integrations.torchmetrics import NeuralCollapse

    for keys, message in (
        (["unc3_sdt"], "'unc3_sdt', which is unknown; did you mean 'unc3_std'"),
        ("nc3mean", "did you mean 'nc3_mean'"),
        ([3], "names 3, which is unknown"),
        ([], "keys is empty"),
        (["tokens", "nc1_pinv"], "nc1_pinv needs scatter=True"),
        (["nc4_agreement"], "nc4_agreement needs more"),
    ):
        with pytest.raises(ValueError, match=message):
            NeuralCollapse(V, D, keys=keys)
    x, y, head = tokens()
    metric = NeuralCollapse(V, D, keys=["tokens", "nc3_mean"])
    metric.update(x, y)
    with pytest.raises(ValueError, match=r"nc3_mean needs the head's rows; expected set_head"):
        metric.compute()
    assert set(metric.set_head(head).compute()) == {"tokens", "nc3_mean"}
    shown = NeuralCollapse(V, D)
    shown.update(x, y)
    assert set(shown.compute()) == {"nc1_quotient", "norm_cov"}
    every = NeuralCollapse(V, D, keys=None, head=head, scatter=True)
    every.update(x, y)
    report = expected(x, y)
    assert set(every.compute()) == set(report)
    assert not any(torch.isnan(v) for v in every.compute().values())


def test_one_key_is_a_tensor():
    x, y, _ = tokens()
    metric = made(keys="unc3_std")
    assert float(metric(x, y)) == pytest.approx(expected(x, y)["unc3_std"])
    assert metric.higher_is_better is False
    assert made(keys="nc3_mean").higher_is_better is True
    better = made().higher_is_better
    assert set(better) == set(KEYS)
    assert better["nc3_mean"] is True
    assert better["tokens"] is None


def test_plot():
    pytest.importorskip("matplotlib").use("agg")
    from matplotlib import pyplot

    x, y, _ = tokens()
    for metric in (made(), made(keys="unc3_std")):
        values = [metric(x, y) for _ in range(3)]
        for value in (None, values[0], values):
            figure, axes = metric.plot(value)
            assert axes is not None
            pyplot.close(figure)

"""The metric's state: how coarse features were, what it loads, and what a rejected batch leaves."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import ncfast
from tests.integrations.test_torchmetrics import (
    COARSE,
    D,
    V,
    assert_is,
    batches,
    expected,
    made,
    near_points,
    tokens,
    torchmetrics,
)


def updated(x, y, metric=None):
    metric = made(keys=COARSE) if metric is None else metric
    metric.update(x, y)
    return metric


def merged(x, y):
    metric = updated(x[:10], y[:10])
    metric.merge_state(updated(x[10:], y[10:]))
    return metric


def merged_into_a_fresh_one(x, y):
    metric = made(keys=COARSE)
    metric.merge_state(updated(x, y).metric_state)
    return metric


def called(x, y):
    metric = made(keys=COARSE)
    metric(x[:10], y[:10])
    metric(x[10:].float(), y[10:])  # the coarsest features decide, whenever they came
    return metric


def called_in_full(x, y):
    metric = made(keys=COARSE, dist_sync_on_step=True)
    metric(x[:10], y[:10])
    metric(x[10:], y[10:])
    return metric


def running(x, y):
    metric = torchmetrics.wrappers.Running(made(keys=COARSE), window=2)
    metric.update(torch.randn(4, D), torch.arange(4))
    metric.update(x[:10], y[:10])
    metric(x[10:], y[10:])
    return metric


def collected(x, y):
    collection = torchmetrics.MetricCollection(
        {"all": made(keys=COARSE), "one": made(keys="tokens"), "others": made([0, 1])}
    )
    for part in (slice(10), slice(10, None)):
        collection.update(x[part], y[part])
    return collection["all"]


def loaded(x, y):
    metric = updated(x, y)
    metric.persistent(True)
    other = made(keys=COARSE)
    other.load_state_dict(metric.state_dict())
    return other


def moved(x, y):
    module = torch.nn.ModuleList([made(keys=COARSE)]).to(torch.bfloat16)
    updated(x[:10], y[:10], module[0])
    module.to(torch.float16).to(torch.float32).to("cpu")
    return updated(x[10:], y[10:], module[0])


ROUTES = {
    "updated": updated,
    "merged": merged,
    "merged into a fresh one": merged_into_a_fresh_one,
    "called": called,
    "called in full": called_in_full,
    "running": running,
    "collected": collected,
    "loaded": loaded,
    "moved": moved,
    "cloned": lambda x, y: updated(x, y).clone(),
    "copied": lambda x, y: copy.deepcopy(updated(x, y)),
    "pickled": lambda x, y: pickle.loads(pickle.dumps(updated(x, y))),
    "float64": lambda x, y: updated(x, y, made(keys=COARSE).set_dtype(torch.float64)),
}


@pytest.mark.parametrize("route", ROUTES)
def test_a_metric_knows_how_coarse_its_features_were(route):
    x, y = near_points()
    x = x.bfloat16()
    want = expected(x, y, dtype=torch.float64 if route == "float64" else torch.float32)
    found = ROUTES[route](x, y).compute()
    assert want["pairs_left_out"] == 1
    for key in COARSE:
        assert float(found[key]) == pytest.approx(want[key], rel=1e-4), key


def test_float32_features_are_rounded_too_where_means_are_float64():
    x, y = near_points()
    x = 1000 + x + 1e-6 * torch.randn(x.shape)
    want = expected(x, y, dtype=torch.float64)
    found = updated(x, y, made(keys=COARSE).set_dtype(torch.float64)).compute()
    assert {key: float(value) for key, value in found.items()} == {k: want[k] for k in COARSE}


def test_reset_forgets_how_coarse_features_were():
    x, y = near_points()
    metric = updated(x.bfloat16(), y)
    assert float(metric.roundoff) == torch.finfo(torch.bfloat16).eps / 2
    metric.reset()
    assert float(metric.roundoff) == 0
    metric.update(x, y)
    assert float(metric.roundoff) == torch.finfo(torch.float32).eps / 2


def state_of(metric, **changed):
    metric.persistent(True)
    metric.update(*tokens()[:2])
    return {**metric.state_dict(), **changed}


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


def sized(num_classes, dim=D, **settings):
    from ncfast.integrations.torchmetrics import NeuralCollapse

    metric = NeuralCollapse(num_classes, dim, scatter=True, **settings)
    metric.persistent(True)
    return metric


def narrower():
    metric = sized(V, 3)
    metric.update(tokens()[0][:, :3], tokens()[1])
    return metric.state_dict()


def of_double():
    return state_of(made([3, 4, 5]).set_dtype(torch.float64))


MISFITS = {
    "it keeps other classes, [0, 1, 2], and lacks other classes, [3, 4, 5]": lambda: state_of(
        made([0, 1, 2])
    ),
    "it keeps other classes, [0, 1, 2, 6], and lacks no others": lambda: state_of(made()),
    f"its num_classes is {V + 1}; expected {V}": lambda: state_of(sized(V + 1, classes=[3, 4, 5])),
    "its dim is 3; expected 5": lambda: narrower() | {"classes_kept": made([3, 4, 5]).classes_kept},
    "it has no scatter": lambda: without(state_of(made([3, 4, 5])), "scatter"),
    "it has no counts": lambda: without(state_of(made([3, 4, 5])), "counts"),
    "it has no roundoff, as those that an older": lambda: without(
        state_of(made([3, 4, 5])), "roundoff"
    ),
    "its counts is (2,); expected (3,)": lambda: state_of(
        made([3, 4, 5]), counts=torch.zeros(2, dtype=torch.int64)
    ),
    "it has tokens, and its roundoff is 0.0, as those that an older": lambda: state_of(
        made([3, 4, 5]), roundoff=torch.zeros((), dtype=torch.float64)
    ),
    "its means are float64; expected torch.float32, or set_dtype": of_double,
}


@pytest.mark.parametrize("why", MISFITS)
def test_a_state_that_does_not_fit_is_rejected_whole(why):
    metric = made([3, 4, 5])
    metric.update(*batches()[0])
    before = {name: tensor.clone() for name, tensor in metric.metric_state.items()}
    given = MISFITS[why]()
    model = torch.nn.ModuleDict({"nc": metric})
    with pytest.raises(RuntimeError) as raised:
        model.load_state_dict({f"nc.{name}": tensor for name, tensor in given.items()})
    assert f"nc.: the state to load: {why}" in str(raised.value)
    with pytest.raises(ncfast.DataError) as raised:
        metric.merge_state(given)
    assert f"the incoming state: {why}" in str(raised.value)
    for name, tensor in before.items():
        assert torch.equal(getattr(metric, name), tensor), name


def test_a_scatter_that_is_not_kept_is_rejected_before_anything_changes():
    from ncfast.integrations.torchmetrics import NeuralCollapse

    metric = NeuralCollapse(V, D)
    with pytest.raises(RuntimeError, match="it has a scatter; expected one of scatter=False"):
        metric.load_state_dict(state_of(made()))
    assert int(metric.counts.sum()) == 0


def test_loaded_states_are_copies_and_replace_what_was_computed():
    x, y, _ = tokens()
    state = state_of(made())
    first, second = made(), made()
    second.update(*batches()[0])
    assert_is(second.compute(), *batches()[0])
    for metric in (first, second):
        metric.load_state_dict(state)
    first.update(x, y)
    assert_is(second.compute(), x, y)
    assert int(second.counts.sum()) == int(state["counts"].sum()) == len(y)
    wide = made().set_dtype(torch.float64)
    wide.load_state_dict(state)
    assert wide.means.dtype == torch.float64


def test_a_pickle_of_before_is_told():
    metric = updated(*tokens()[:2])
    state = metric.__getstate__()
    state["_defaults"] = without(state["_defaults"], "roundoff")
    with pytest.raises(ncfast.DataError, match="pickled has no roundoff, as those that an older"):
        made().__setstate__(state)


@pytest.mark.parametrize("full", [True, False])
def test_a_rejected_batch_leaves_a_called_metric_as_it_was(full):
    x, y, _ = tokens()
    metric = made(dist_sync_on_step=full)
    metric(*batches()[0])
    held = dict(vars(metric))
    state = {name: tensor.clone() for name, tensor in metric.metric_state.items()}
    with pytest.raises(ncfast.DataError, match=r"y\["):
        metric(x, y + V)
    no_head = made(keys="nc3_mean", dist_sync_on_step=full)
    no_head._head = None
    with pytest.raises(ValueError, match="needs the head's rows"):  # after the batch was added
        no_head(x, y)
    assert int(no_head.counts.sum()) == 0
    for name, value in vars(metric).items():
        same = value is held[name] if name not in state else torch.equal(value, state[name])
        assert same or value == held[name], name
    metric(*batches()[1])
    assert_is(metric.compute(), x[:30], y[:30])


def test_a_module_s_dtype_leaves_the_sums_wide():
    metric = torch.nn.ModuleList([made()]).to(torch.bfloat16)[0]
    kinds = {name: tensor.dtype for name, tensor in metric.metric_state.items()}
    assert kinds == {name: tensor.dtype for name, tensor in made().metric_state.items()}
    metric.reset()
    assert kinds == {name: tensor.dtype for name, tensor in metric.metric_state.items()}
    metric.to(torch.float64)
    metric.update(*tokens(torch.float64)[:2])
    assert_is(metric.compute(), *tokens(torch.float64)[:2], dtype=torch.float64)

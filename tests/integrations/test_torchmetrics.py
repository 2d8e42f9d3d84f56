"""The torchmetrics metric: torchmetrics' own battery, and values of the statistics it adapts."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

import ncfast
from ncfast.testing import end_rank
from tests.forked import run_ranks

torchmetrics = pytest.importorskip("torchmetrics")
V, D = 7, 5
KEYS = ("nc1_quotient", "nc1_pinv", "trace_within", "tokens", "nc3_mean", "unc3_std")


def made(classes=None, keys=KEYS, **settings):
    from ncfast.integrations.torchmetrics import NeuralCollapse

    return NeuralCollapse(V, D, classes, keys, scatter=True, head=tokens()[2], **settings)


def tokens(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, D, generator=generator)
    y = torch.randint(0, V, (60,), generator=generator)
    return x.to(dtype), y, torch.randn(V, D, generator=generator)


def batches():
    x, y, _ = tokens()
    return [(x[k : k + 15], y[k : k + 15]) for k in range(0, 60, 15)]


def expected(x, y, head=None, classes=None, dtype=torch.float32):
    stats = ncfast.ClassStatistics(V, D, classes, dtype=dtype)
    stats.update(x, y)
    return ncfast.neural_collapse(stats, head_weight=tokens()[2] if head is None else head)


def assert_is(found, x, y, rel=1e-5, **how):
    report = expected(x, y, **how)
    assert set(found) == set(KEYS)
    for key, value in found.items():
        assert value.dtype == torch.float64
        assert float(value) == pytest.approx(report[key], rel=rel, nan_ok=True), key


def test_updates_are_one_pass_and_reset_forgets():
    x, y, _ = tokens()
    metric = made()
    for part in range(3):
        metric.update(x[part::3], y[part::3].int())
    assert_is(metric.compute(), x, y)
    metric.reset()
    metric.update(x[:30], y[:30])
    assert_is(metric.compute(), x[:30], y[:30])


def test_forward_gives_the_batch_and_keeps_the_whole():
    x, y, _ = tokens()
    metric = made()
    for batch in batches()[:2]:
        assert_is(metric(*batch), *batch)
    metric.update(*batches()[2])
    assert_is(metric(*batches()[3]), *batches()[3])
    assert_is(metric.compute(), x, y)
    assert metric.update_count == 4


def test_merge_state_then_update():
    x, y, _ = tokens()
    a, b = made(), made()
    a.update(*batches()[0])
    b.update(*batches()[1])
    before = b.metric_state["means"].clone()
    a.merge_state(b)
    assert torch.equal(b.metric_state["means"], before)
    a.update(*batches()[2])
    a.merge_state(dict(zip(a.metric_state, updated(batches()[3]).values(), strict=True)))
    assert_is(a.compute(), x, y)
    with pytest.raises(
        ValueError, match=r"it keeps no others, and lacks other classes, \[0, 3, 4, 5, 6\]"
    ):
        a.merge_state(made([1, 2]))
    with pytest.raises(ValueError, match="it has no counts"):
        a.merge_state({})


def updated(batch):
    metric = made()
    metric.update(*batch)
    return metric.metric_state


@pytest.mark.parametrize("called", [True, False])
def test_running_window(called):
    x, y, _ = tokens()
    metric = torchmetrics.wrappers.Running(made(), window=2)
    for batch in batches():
        if called:
            assert_is(metric(*batch), *batch)
        else:
            metric.update(*batch)
    assert_is(metric.compute(), x[30:], y[30:])


def test_collections_share_a_state_of_equal_classes_only():
    x, y, _ = tokens()
    some = [0, 1, 2]
    collection = torchmetrics.MetricCollection(
        {"all": made(), "one": made(keys="tokens"), "some": made(some)}
    )
    # Nothing in this batch tells the classes apart but which are kept.
    only = torch.zeros(4, dtype=torch.int64)
    collection.update(x[:4], only)
    groups = sorted(sorted(g) for g in collection.compute_groups.values())
    assert groups == [["all", "one"], ["some"]]
    for batch in batches():
        collection.update(*batch)
    found = collection.compute()
    whole, labels = torch.cat([x[:4], x]), torch.cat([only, y])
    assert float(found["one"]) == len(labels)
    report = expected(whole, labels, classes=some)
    assert float(found["some_tokens"]) == report["tokens"]
    called = torchmetrics.MetricCollection([made()], prefix="nc/")
    for batch in batches():
        called(*batch)
    assert float(called.clone(prefix="val/").compute()["val/tokens"]) == 60


def test_clone_and_pickle_and_state_dict():
    x, y, _ = tokens()
    metric = made()
    metric.update(*batches()[0])
    for twin in (metric.clone(), copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert_is(twin.compute(), *batches()[0])
        twin.update(*batches()[1])
        assert_is(twin.compute(), x[:30], y[:30])
    assert_is(metric.compute(), *batches()[0])
    assert metric.state_dict() == {}
    metric.persistent(True)
    file = io.BytesIO()
    torch.save(metric.state_dict(), file)
    file.seek(0)
    other = made()
    other.load_state_dict(torch.load(file))
    other.update(*batches()[1])
    assert_is(other.compute(), x[:30], y[:30])


def test_a_batch_touches_its_rows_and_copies_nothing():
    metric = made()
    metric.update(*batches()[0])
    held = {name: getattr(metric, name) for name in ("counts", "means", "m2", "scatter", "tally")}
    metric.update(*batches()[1])
    for name, tensor in held.items():
        assert getattr(metric, name) is tensor


def _rank(rank, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    x, y, _ = tokens()
    metric = made()
    metric.update(x[rank:40:2], y[rank:40:2])
    first = metric.compute()
    metric(x[40 + rank :: 2], y[40 + rank :: 2])  # it is unsynced, and goes on
    step = made(dist_sync_on_step=True)(x[rank::2], y[rank::2])
    with pytest.raises(ncfast.DataError, match="y\\["):
        metric(x, y + V)  # and goes on to be of all ranks
    # One rank alone has seen the coarse features.
    dtype = (torch.bfloat16, torch.float32)[rank]
    coarse = made(keys=COARSE)
    coarse.update(near_points()[0][rank::2].to(dtype), near_points()[1][rank::2])
    torch.save([first, metric.compute(), step, coarse.compute()], f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    others = made([rank, 5])
    others.update(x, y)
    with pytest.raises(ncfast.DataError, match=rf"rank {1 - rank}'s state: it keeps other classes"):
        others.compute()
    end_rank()


COARSE = ("cdnv_mean", "log_distance_mean", "pairs_left_out", "rank_between")


def near_points():
    """Return features [28, D] that bfloat16 holds, of which two classes share a point."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(V, D, generator=generator)
    points[1] = points[0]
    y = torch.arange(V).repeat(4)
    x = points[y] + 1e-3 * torch.randn(len(y), D, generator=generator)
    return x.bfloat16().float(), y


def test_two_ranks_equal_one(tmp_path):
    run_ranks(_rank, (str(tmp_path),))
    x, y, _ = tokens()
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for found in results:
        assert_is(found[0], x[:40], y[:40])
        assert_is(found[1], x, y)
        assert_is(found[2], x, y)
        x_near, y_near = near_points()
        want = expected(x_near.bfloat16(), y_near)
        for key, value in found[3].items():
            assert float(value) == pytest.approx(want[key], rel=1e-4), key
    assert results[0] == results[1]


def test_what_the_library_s_own_tester_asks_of_any_metric():
    """Constants, hashes, scripting, devices, keyword arguments and gradients."""
    x, y, _ = tokens()
    metric = made()
    for name in ("is_differentiable", "higher_is_better", "full_state_update"):
        with pytest.raises(RuntimeError, match=name):
            setattr(metric, name, not getattr(metric, name))
    hashes = {hash(metric), hash(made()), hash(metric.clone())}
    assert len(hashes) >= 2
    assert hash(metric) == hash(metric)
    torch.jit.script(metric)  # it is ignored in a scripted model, and must not stop one
    assert metric.to("cpu") is metric
    features = x.clone().requires_grad_()
    value = made(keys="unc3_std")(features, y)
    assert value.requires_grad is made().is_differentiable is False
    # A collection gives each metric the arguments that its update names, and no others.
    collection = torchmetrics.MetricCollection({"nc": made(), "mean": torchmetrics.MeanMetric()})
    collection.update(features=x, labels=y, value=torch.tensor(3.0))
    found = collection.compute()
    assert float(found["tokens"]) == len(y)
    assert float(found["mean"]) == 3.0


def test_double_features_ask_for_double_means():
    x, y, _ = tokens(torch.float64)
    metric = made()
    with pytest.raises(TypeError, match=r"features are float64 .*set_dtype\(torch\.float64\)"):
        metric(x, y)
    assert float(metric.counts.sum()) == 0
    assert float(metric.set_dtype(torch.float64)(x, y)["tokens"]) == len(y)

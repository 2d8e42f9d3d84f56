"""The loss of a step: what micro-batches add up to, and what the terms see."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ncfast import ClassStatistics, neural_collapse
from ncfast.errors import DataError
from ncfast.losses import DualityRegularizer, UniformityRegularizer, WithinClassRegularizer
from ncfast.training import Objective
from ncfast.training.objective import pulled_along


@pytest.mark.parametrize("kind", ["masked", "causal"])
@pytest.mark.parametrize("grad", ["both", "head", "features"])
@pytest.mark.parametrize("share", [False, True])
def test_micro_batches_give_the_gradient_of_the_whole_batch(setup_run, kind, grad, share):
    whole = setup_run(kind, grad=grad, dropout=False)
    parts = setup_run(kind, grad=grad, dropout=False, micro_batches=3)
    one = whole.objective.backward(whole.batches(0), 0)
    three = parts.objective.backward(parts.batches(0), 0, measure_share=share)
    assert three.loss == pytest.approx(one.loss, rel=1e-5)
    assert one.terms["nc3"]["classes"] > 2
    assert three.terms["nc3"] == pytest.approx(one.terms["nc3"], rel=1e-4)
    found, wanted = parts.gradients(), whole.gradients()
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=2e-6, msg=name)


def test_two_micro_batches_of_a_term_that_moves_the_head_alone(setup_run):
    whole = setup_run("causal", grad="head", dropout=False)
    parts = setup_run("causal", grad="head", dropout=False, micro_batches=2)
    for run in (whole, parts):
        run.objective.backward(run.batches(0), 0)
    found, expected = parts.gradients(), whole.gradients()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=2e-6, msg=name)


def test_one_term_that_reaches_the_features_is_enough(setup_run):
    runs = [setup_run("causal", grad="head", dropout=False, micro_batches=n) for n in (1, 2)]
    for run in runs:
        place = (run.model.vocab_size, run.model.hidden_size)
        words = run.objective.terms["nc3"].class_means.ids
        run.objective.terms["within"] = WithinClassRegularizer(*place, words, weight=0.5).train()
        run.objective.backward(run.batches(0), 0)
    expected, found = (run.gradients() for run in runs)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=2e-6, msg=name)


def test_the_loss_has_the_terms_at_their_weight(setup_run):
    run = setup_run("causal", weight=0.25, dropout=False)
    result = run.objective.backward(run.batches(0), 0)
    value = result.terms["nc3"]["value"]
    assert value > 0
    assert result.loss == pytest.approx(result.cross_entropy + 0.25 * value, rel=1e-6)


def test_the_loss_is_that_of_the_transformers_model(setup_run):
    run = setup_run("masked", weight=0.0, dropout=False)
    batch = run.batches(0)
    result = run.objective.backward(batch, 0)
    ours = run.gradients()
    run.model.model.zero_grad()
    theirs = run.model.model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels
    ).loss
    theirs.backward()
    assert result.loss == pytest.approx(theirs.item(), rel=1e-6)
    for name, gradient in run.gradients().items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_only_what_is_predicted_reaches_the_head(setup_run):
    run = setup_run("masked")
    batch = run.batches(0)
    labels = batch.labels.flatten()
    predicted = (labels != -100).nonzero()[:, 0]
    labels[predicted[0]] = 0  # a class like any other
    (part,) = run.objective.prepare(batch)
    assert torch.equal(part.kept, predicted)
    assert torch.equal(part.labels, labels[predicted])


def test_the_share_of_the_terms_is_the_length_of_their_own_gradient(setup_run):
    run = setup_run("causal", dropout=False)
    batch = run.batches(0)
    result = run.objective.backward(batch, 0, measure_share=True)
    bare = setup_run("causal", weight=0.0, dropout=False)
    bare.objective.backward(batch, 0)
    without = bare.gradients()
    difference = [
        (g - without[name]).double().square().sum() for name, g in run.gradients().items()
    ]
    assert result.term_norm == pytest.approx(torch.stack(difference).sum().sqrt().item(), rel=1e-3)


def test_dropout_repeats(setup_run):
    first, again = setup_run(micro_batches=2), setup_run(micro_batches=2)
    losses = [run.objective.backward(run.batches(3), 3).loss for run in (first, again)]
    assert losses[0] == losses[1]
    assert again.objective.backward(again.batches(3), 4).loss != losses[0]


def test_masks(setup_run):
    run = setup_run("masked")
    batches, model = run.batches, run.model
    rows = [batches(step) for step in range(batches.steps_per_epoch)]
    labels = torch.cat([row.labels for row in rows])
    inputs = torch.cat([row.input_ids for row in rows])
    term = torch.cat([row.term_labels for row in rows])
    clean = torch.cat(
        [
            batches.corpus.take([block]).input_ids
            for step in range(batches.steps_per_epoch)
            for block in _order(batches, step)
        ]
    )
    predicted = labels != -100
    assert torch.equal(labels[predicted], clean[predicted])
    assert torch.equal(inputs[~predicted], clean[~predicted])
    words = torch.isin(clean, torch.arange(5, 15))
    assert predicted[words].float().mean() == pytest.approx(0.8, abs=0.03)
    other = (clean >= 15) & ~words
    assert predicted[other].float().mean() == pytest.approx(0.15, abs=0.02)
    hidden = inputs == model.mask_id
    assert hidden[predicted].float().mean() == pytest.approx(0.8, abs=0.03)
    assert torch.equal(term != -100, hidden & predicted)
    special = torch.isin(clean, torch.tensor(sorted(model.special_ids)))
    assert not (predicted & special).any()


def _order(batches, step):
    import numpy as np

    order = np.argsort(batches._random(2, 0, 0, len(batches.blocks)), kind="stable")
    return batches.blocks[order[step * batches.batch_size : (step + 1) * batches.batch_size]]


def test_an_epoch_has_every_block_once_and_the_next_another_order(setup_run):
    batches = setup_run("causal").batches
    epoch = batches.steps_per_epoch

    def rows(first):
        return torch.cat([batches(step).input_ids for step in range(first, first + epoch)])

    first, second = rows(0), rows(epoch)
    assert len(first) == batches.corpus.num_blocks
    assert not torch.equal(first, second)
    assert sorted(map(tuple, first.tolist())) == sorted(map(tuple, second.tolist()))


def test_nothing_to_predict_is_refused(setup_run):
    run = setup_run("masked")
    run.batches._rate = run.batches._words_rate = 0.0
    with pytest.raises(DataError, match="no token to predict in 8 blocks"):
        run.objective.backward(run.batches(0), 0)


def test_the_official_term_sees_the_encoder_and_the_next_token(setup_run):
    run = setup_run("masked", dropout=False)
    place = (run.model.vocab_size, run.model.hidden_size, range(5, 15))
    run.objective.terms = {"nc3": DualityRegularizer(*place, preset="official").train()}
    run.objective.encoder_features = True
    run.objective.__post_init__()
    run.batches._term_next = True
    batch = run.batches(0)
    result = run.objective.backward(batch, 0)
    body = run.model.model.base_model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask
    ).last_hidden_state
    keep = torch.isin(batch.term_labels, torch.arange(5, 15))
    torch.testing.assert_close(result.seen[0], body[keep])


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize(
    ("term", "settings", "key"),
    [
        (UniformityRegularizer, {"kind": "riesz"}, "riesz_log_mean"),
        (UniformityRegularizer, {}, "log_distance_mean"),
        (WithinClassRegularizer, {"kind": "cdnv"}, "cdnv_mean"),
    ],
)
def test_a_term_sees_how_coarse_its_features_are_stored(parts, term, settings, key):
    torch.manual_seed(0)
    centers = torch.randn(6, 64)
    centers[1] = centers[0]  # equal up to how bfloat16 rounds, so that the pair counts for nothing
    y = torch.arange(6).repeat_interleave(2)
    x = (centers[y] + 1e-3 * torch.randn(12, 64)).bfloat16()
    objective = _of_features(x, y, torch.randn(6, 64), term(6, 64, **settings), parts)
    if parts == 1:
        features = x.clone().requires_grad_()
        objective.add_terms(features, y).backward()
        gradient = features.grad
    else:
        gradient = torch.cat(objective._terms_ahead(x.split(6), 0)[1])
    stats = ClassStatistics(6, 64)
    stats.update(x, y)
    value = float(objective.terms["term"].last["value"])
    assert value == pytest.approx(neural_collapse(stats)[key], rel=1e-4)
    alone = x.clone().requires_grad_()
    term(6, 64, **settings)(alone, y).backward()
    assert torch.equal(gradient, alone.grad)


def test_micro_batches_keep_the_precision_of_float64():
    torch.manual_seed(0)
    x = 1e-3 * torch.randn(12, 6, dtype=torch.float64) + 1000  # float32 has three digits of these
    y, weight = torch.arange(12) % 4, torch.randn(4, 6, dtype=torch.float64)
    objective = _of_features(x, y, weight, DualityRegularizer(4, 6), 2)
    features = x.clone().requires_grad_()
    objective.add_terms(features, y).backward()
    whole = float(objective.terms["term"].last["value"])
    gradients = objective._terms_ahead(x.split(6), 0)[1]
    assert float(objective.terms["term"].last["value"]) == whole
    assert torch.equal(torch.cat(gradients), features.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("share", [False, True])
def test_a_model_of_any_precision_trains_in_parts(setup_run, dtype, share):
    whole, parts = (setup_run("causal", dropout=False, micro_batches=n) for n in (1, 2))
    for run in (whole, parts):
        run.model.model.to(dtype)
    one = whole.objective.backward(whole.batches(0), 0)
    two = parts.objective.backward(parts.batches(0), 0, measure_share=share)
    close = {torch.bfloat16: 2e-2, torch.float64: 1e-10}[dtype]
    assert two.seen[0].dtype == one.seen[0].dtype == dtype
    assert two.terms["nc3"] == pytest.approx(one.terms["nc3"], rel=close)
    found, expected = parts.gradients(), whole.gradients()
    # Of all parameters: of one whose gradient is small bfloat16 leaves 6 %, of all 0.7 %.
    off, size = (
        torch.cat([of[name].double().flatten() for name in expected]).norm()
        for of in ({name: found[name] - expected[name] for name in expected}, expected)
    )
    assert float(off / size) < close


def test_what_pulls_features_is_summed_beyond_16_bits():
    """The sum is a part of the loss: infinite in float16, it would end the run."""
    x = torch.full((1000, 8), 100.0, dtype=torch.float16, requires_grad=True)
    gradient = torch.full_like(x, 100.0)
    pulled = pulled_along(x, gradient)
    assert float(pulled.detach()) == 8e7
    pulled.backward()
    assert torch.equal(x.grad, gradient)


def _of_features(x, y, weight, term, parts):
    """Return an objective whose micro-batches are parts of these features themselves."""
    objective = Objective(SimpleNamespace(head_weight=weight), {"term": term}, micro_batches=parts)
    labels = dict(zip(range(0, len(x), 6), y.split(6), strict=True))
    objective.forward = lambda part, step, number: (None, (part, labels[6 * number]))
    return objective

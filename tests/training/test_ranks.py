"""Two gloo processes share a step and compute what one computes."""

from __future__ import annotations

import datetime

import pytest
import torch
from torch import distributed

from ncfast.testing import end_rank
from ncfast.training import LoopSettings, Ranks, Training
from ncfast.training.log import read_log
from tests.forked import run_ranks

STEPS = 3


def _training(setup, folder, ranks):
    from ncfast.losses import DualityRegularizer

    model, batches, objective, optimizer = setup
    objective.ranks = ranks
    place = (model.vocab_size, model.hidden_size, range(5, 15))
    objective.terms = {"nc3": DualityRegularizer(*place, weight=0.5).train()}
    objective.__post_init__()
    loop = LoopSettings(STEPS, lr=1e-3, metrics_every=2, save_every_seconds=1e9, progress=False)
    return Training(objective, optimizer, batches, loop, folder)


def _train(setup, folder, ranks, leave_after=0):
    """Train to the end, or leave a checkpoint after some steps, or go on from one."""
    run = _training(setup, folder, ranks)
    if not run.resume() and leave_after:
        for _ in range(leave_after):
            run.one_step()
        run.save()
    else:
        run.run()
    return {name: p.detach() for name, p in setup[0].model.named_parameters()}


def _pieces(model_folder, text):
    from ncfast.language import Corpus, LanguageModel
    from ncfast.training import Objective, TrainingBatches, make_optimizer

    model = LanguageModel.load(model_folder, progress=False)
    for module in model.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    corpus = Corpus.from_spec([text], model.tokenizer, None, 32, progress=False)
    batches = TrainingBatches(corpus, model, "clm", 8)
    return model, batches, Objective(model), make_optimizer(model.model, "SGD", 1e-2)


def _rank(rank, model_folder, text, folder):
    from pathlib import Path

    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    ranks = Ranks.current()
    parameters = _train(_pieces(model_folder, text), Path(folder) / "two", ranks)
    # Step 2 logs metrics of both steps: what each rank saw in step 1 goes through the checkpoint.
    _train(_pieces(model_folder, text), Path(folder) / "resumed", ranks, leave_after=1)
    distributed.barrier()
    resumed = _train(_pieces(model_folder, text), Path(folder) / "resumed", ranks)
    assert ranks.any_of(torch.tensor([rank == 1, False]).int()) == [True, False]
    patient = ranks.patient()
    assert patient.gather(rank) == [0, 1]
    backend = patient.group._get_backend(torch.device("cpu"))
    assert backend.options._timeout == datetime.timedelta(days=1)
    torch.save((parameters, resumed, _averaged(ranks)), f"{folder}/{rank}.pt")
    end_rank()


def _averaged(ranks):
    """Return gradients that all, the second, and no ranks have, averaged."""
    model = torch.nn.ParameterDict({n: torch.nn.Parameter(torch.ones(2)) for n in ("a", "b", "c")})
    model["narrow"] = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    model["narrow"].grad = torch.full((3,), 2.0 + ranks.rank, dtype=torch.bfloat16)
    model["a"].grad = torch.tensor([1.0, 3.0]) * (1 + ranks.rank)
    if ranks.rank:
        model["b"].grad = torch.tensor([4.0, 6.0])
    ranks.average_gradients(model)
    return {name: parameter.grad for name, parameter in model.items()}


def test_batches_too_small_for_the_ranks_are_told_before_any_step(tiny_model, tiny_text):
    from ncfast.errors import LanguageError

    batches = _pieces(str(tiny_model("causal")), str(tiny_text))[1]
    last = len(batches.blocks) % batches.batch_size or batches.batch_size
    batches.require_rows(1000, last)
    batches.require_rows(0, 99)
    with pytest.raises(LanguageError, match=f"the last of an epoch of {last}; expected a block"):
        batches.require_rows(1000, last + 1)
    batches.require_rows(batches.steps_per_epoch - 1, 8)
    with pytest.raises(LanguageError, match="9 ranks share batches of 8 blocks"):
        batches.require_rows(1, 9)


def test_two_ranks_equal_one_and_resume(tiny_model, tiny_text, tmp_path):
    places = (str(tiny_model("causal")), str(tiny_text))
    alone = _train(_pieces(*places), tmp_path / "one", Ranks())
    run_ranks(_rank, (*places, str(tmp_path)))
    both, resumed, averaged = zip(
        *(torch.load(tmp_path / f"{rank}.pt") for rank in range(2)), strict=True
    )
    for grads in averaged:
        assert grads["a"].tolist() == [1.5, 4.5]
        assert grads["b"].tolist() == [2, 3]
        assert grads["c"] is None
        assert grads["narrow"].dtype == torch.bfloat16
        assert grads["narrow"].tolist() == [2.5] * 3
    run = _training(_pieces(*places), tmp_path / "resumed", Ranks())
    assert run.other_processes() == ""
    assert run.resume()
    said = "processes: 2 before step 4, 1 from there on; dropout draws other units"
    assert run.other_processes().startswith(said)
    for name, parameter in alone.items():
        assert torch.equal(resumed[0][name], both[0][name]), name
        assert torch.equal(resumed[1][name], both[0][name]), name
        assert torch.equal(both[0][name], both[1][name]), name
        torch.testing.assert_close(both[0][name], parameter, rtol=1e-4, atol=1e-6, msg=name)
    one, two = (read_log(tmp_path / name / "steps.jsonl") for name in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        for key in ("loss", "cross_entropy", "nc3/value", "gradient_norm", "predicted"):
            assert b[key] == pytest.approx(a[key], rel=1e-4), key
    assert two[1]["nc/unc3_std"] == pytest.approx(one[1]["nc/unc3_std"], rel=1e-4)
    assert two[1]["terms_gradient_norm"] == pytest.approx(one[1]["terms_gradient_norm"], rel=1e-3)
    again = read_log(tmp_path / "resumed" / "steps.jsonl")
    assert [line["step"] for line in again] == [2, 3]
    for a, b in zip(two[1:], again, strict=True):
        del a["seconds"], b["seconds"]
        assert b == pytest.approx(a, rel=1e-6)

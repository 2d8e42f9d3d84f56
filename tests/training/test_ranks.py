"""Two gloo processes share a step and compute what one computes."""

from __future__ import annotations

import pytest
import torch
from torch import distributed

from ncfast.testing import end_rank
from ncfast.training import LoopSettings, Ranks, Training
from ncfast.training.log import read_log

STEPS = 3


def _train(setup, folder, ranks):
    from ncfast.losses import DualityRegularizer

    model, batches, objective, optimizer = setup
    objective.ranks = ranks
    place = (list(range(5, 15)), model.vocab_size, model.hidden_size)
    objective.terms = {"nc3": DualityRegularizer(*place, weight=0.5).train()}
    objective.__post_init__()
    loop = LoopSettings(STEPS, lr=1e-3, metrics_every=2, save_every_seconds=1e9, progress=False)
    Training(objective, optimizer, batches, loop, folder).run()
    return {name: p.detach() for name, p in model.model.named_parameters()}


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
    parameters = _train(_pieces(model_folder, text), Path(folder) / "two", Ranks.current())
    torch.save(parameters, f"{folder}/{rank}.pt")
    end_rank()


def test_two_ranks_equal_one(tiny_model, tiny_text, tmp_path):
    places = (str(tiny_model("causal")), str(tiny_text))
    alone = _train(_pieces(*places), tmp_path / "one", Ranks())
    torch.multiprocessing.spawn(_rank, (*places, str(tmp_path)), nprocs=2)
    both = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, parameter in alone.items():
        assert torch.equal(both[0][name], both[1][name]), name
        torch.testing.assert_close(both[0][name], parameter, rtol=1e-4, atol=1e-6, msg=name)
    one, two = (read_log(tmp_path / name / "steps.jsonl") for name in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        for key in ("loss", "cross_entropy", "nc3/value", "gradient_norm", "predicted"):
            assert b[key] == pytest.approx(a[key], rel=1e-4), key
    assert two[1]["nc/unc3_std"] == pytest.approx(one[1]["nc/unc3_std"], rel=1e-4)
    assert two[1]["terms_gradient_norm"] == pytest.approx(one[1]["terms_gradient_norm"], rel=1e-3)

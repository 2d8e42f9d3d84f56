"""A model that FSDP has sharded: right where it is supported, and refused elsewhere."""

from __future__ import annotations

import torch
from torch import distributed

import ncfast.functional as F
from ncfast.language import LanguageError, LanguageModel
from ncfast.losses import DualityRegularizer, linear_cross_entropy
from ncfast.testing import end_rank
from ncfast.training import inside_forward
from tests.forked import run_ranks

WORDS = list(range(5, 15))
STEPS = 3


def _load(folder):
    language = LanguageModel.load(folder, progress=False)
    for module in language.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    place = (language.vocab_size, language.hidden_size, WORDS)
    return language, DualityRegularizer(*place, weight=0.5).train()


def _train(language, term, ids):
    model = language.model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)

    def loss():
        x = language.features(ids)[:, :-1].flatten(0, 1)
        y = ids[:, 1:].flatten()
        weight = language.head_weight
        return linear_cross_entropy(x, weight, y, linear_bias=language.head_bias) + term(
            x, y, weight
        )

    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = inside_forward(model, model, loss)
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    return losses


def _rank(rank, folder, ids, out):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group(
        "gloo", init_method=f"file://{out}/store", rank=rank, world_size=2
    )
    language, term = _load(folder)
    mesh = init_device_mesh("cpu", (2,))
    for layer in language.model.transformer.h:
        fully_shard(layer, mesh=mesh)
    fully_shard(language.model, mesh=mesh)
    rows = ids[rank::2]
    found = {"losses": _train(language, term, rows)}
    found["parameters"] = {
        n: p.full_tensor().detach() for n, p in language.model.named_parameters()
    }
    # Outside the forward pass the head is in pieces: what needs it whole says so.
    refusals = []
    x, y = torch.zeros(2, language.hidden_size), torch.tensor(WORDS[:2])
    for attempt in (
        lambda: language.features(rows),
        lambda: LanguageModel.from_pretrained_model(language.model, language.tokenizer),
        lambda: term(x, y, language.head_weight),
        lambda: F.linear_argmax(x, language.head_weight),
    ):
        try:
            attempt()
            refusals.append("")
        except (LanguageError, TypeError, ValueError) as error:
            refusals.append(str(error))
    torch.save(found | {"refusals": refusals}, f"{out}/{rank}.pt")
    end_rank()


def test_two_sharded_ranks_equal_one_process(tiny_model, tmp_path):
    folder = str(tiny_model("causal"))
    ids = torch.randint(5, 60, (8, 32), generator=torch.Generator().manual_seed(0))
    language, term = _load(folder)
    alone = _train(language, term, ids)
    run_ranks(_rank, (folder, ids, str(tmp_path)))
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, parameter in language.model.named_parameters():
        torch.testing.assert_close(
            ranks[0]["parameters"][name], parameter.detach(), rtol=1e-4, atol=1e-6, msg=name
        )
    mean = torch.tensor([rank["losses"] for rank in ranks]).mean(0)
    torch.testing.assert_close(mean, torch.tensor(alone), rtol=1e-5, atol=0)
    whole, pieces = ranks[0]["refusals"][:2], ranks[0]["refusals"][2:]
    assert all("sharded" in refusal for refusal in whole), whole
    assert pieces == ["", ""]  # the term and linear_argmax take it as it is: tests/shards
    assert "fully_shard" in ranks[0]["refusals"][0]

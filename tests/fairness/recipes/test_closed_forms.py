"""Recipes without training: rows turned, gender erased; beside hand and oracle, and as commands."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ncfast.cli import main
from ncfast.fairness.recipes import RecipeError, find_recipe
from ncfast.fairness.recipes.leace import fit
from ncfast.fairness.recipes.rotate import cosine_of, turn_towards
from ncfast.finetune import FinetuneSettings, TermSettings
from ncfast.language import Corpus, LanguageModel

torch.manual_seed(0)
ROWS, MEANS = torch.randn(9, 6, dtype=torch.float64), torch.randn(9, 6, dtype=torch.float64)
CENTERED = MEANS - MEANS.mean(0)


@pytest.mark.parametrize("to", ["spread", "means"])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_angles(to, share):
    turned = turn_towards(ROWS, CENTERED, to, share)
    before, after = cosine_of(ROWS, CENTERED).acos(), cosine_of(turned, CENTERED).acos()
    goal = before.cos().mean().acos() if to == "spread" else torch.zeros(())
    assert torch.allclose(after, before + share * (goal - before), atol=1e-7)
    assert torch.allclose(turned.norm(dim=1), ROWS.norm(dim=1))
    # The shortest way: the row turns by the change of its angle, no more.
    moved = cosine_of(ROWS, turned).clamp(-1, 1).acos()
    assert torch.allclose(moved, (after - before).abs(), atol=1e-7)


def test_a_row_without_a_plane_stays():
    rows, centered = ROWS.clone(), CENTERED.clone()
    rows[0], centered[1], rows[2] = 0.0, 0.0, 3 * centered[2]
    turned = turn_towards(rows, centered, "spread", 1.0)
    assert torch.equal(turned[:3], rows[:3])
    assert cosine_of(turned, centered)[3:].std() < 1e-7


def _data(rank: int = 8, n: int = 400):
    generator = torch.Generator().manual_seed(3)
    z = (torch.rand(n, generator=generator) < 0.3).long()
    mixing = torch.randn(rank, 8, generator=generator, dtype=torch.float64)
    x = torch.randn(n, rank, generator=generator, dtype=torch.float64) @ mixing
    return x + z[:, None] * mixing[0] * 2 + 5.0, z


def _accuracy(x, z):
    design = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    weights = torch.linalg.lstsq(design, z.double(), driver="gelsd").solution
    return float(((design @ weights > 0.5).long() == z).double().mean())


@pytest.mark.parametrize("rank", [8, 5])
def test_erasure_removes_linear_separability(rank):
    x, z = _data(rank)
    d, g, mean = fit(x, z)
    erased = x - ((x - mean) @ g)[:, None] * d
    assert _accuracy(x, z) > 0.85
    assert (
        _accuracy(erased, z) <= float((z == 0).double().mean()) + 1e-9
    )  # the larger group's share
    assert torch.allclose(erased[z == 0].mean(0), erased[z == 1].mean(0), atol=1e-9)
    assert torch.allclose(erased.mean(0), x.mean(0))
    assert torch.linalg.matrix_rank(x - erased) == 1


@pytest.mark.parametrize("affine", [True, False])
def test_erasure_is_the_oracles(affine):
    oracle = pytest.importorskip("concept_erasure")
    x, z = _data()
    fitter = oracle.LeaceFitter(
        8, 1, affine=affine, shrinkage=False, constrain_cov_trace=False, dtype=torch.float64
    )
    expected = fitter.update(x, z[:, None].double()).eraser(x)
    d, g, mean = fit(x, z)
    found = x - ((x - mean if affine else x) @ g)[:, None] * d
    assert torch.allclose(found, expected, atol=1e-8)


def test_nothing_to_erase():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 1.0], [2.0, 1.0]]).double()
    d, g, _ = fit(x, torch.tensor([0, 1, 0, 1]))
    assert not d.any()
    assert not g.any()


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_erasure_in_a_model(tiny_model, tiny_text, kind):
    model = LanguageModel.load(tiny_model(kind), dtype=torch.float64, progress=False)
    corpus = Corpus.from_spec([str(tiny_text)], model.tokenizer, None, 32, progress=False)
    recipe = find_recipe("leace")
    x, z = recipe.examples(model, corpus, 0)
    d, g, mean = fit(x, z)
    before, bias = model.head_weight.detach().clone(), model.head_bias
    bias = None if bias is None else bias.detach().clone()
    embeddings = model.model.get_input_embeddings().weight
    edited, done = recipe.edit(model, corpus, 0)
    erased = x - ((x if bias is None else x - mean) @ g)[:, None] * d
    logits = erased @ before.T + (0 if bias is None else bias)
    now = x @ edited.head_weight.T + (0 if bias is None else edited.head_bias)
    assert torch.allclose(now, logits, atol=1e-10)
    assert not torch.allclose(edited.head_weight, before)
    assert not edited.tied
    assert torch.equal(embeddings, before)  # the input's side is as it was
    assert done["the mean is kept"] == (bias is not None)


@pytest.mark.parametrize("kind", ["masked", "causal"])
@pytest.mark.parametrize("name", ["rotate", "leace"])
def test_command(tiny_model, tiny_text, tmp_path, monkeypatch, name, kind):
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    monkeypatch.chdir(tmp_path)
    command = ["finetune", str(tiny_model(kind)), str(tiny_text), "--quiet", "--block-size", "32"]
    command += ["--measure-tokens", "0", "--recipe", name, "--out", "out"]
    assert main([*command, "--nc3", "1"]) == 2
    assert main([*command, "--steps", "1"]) == 2
    assert main(command) == 0
    report = json.loads(Path("out/finetune.json").read_text())
    assert report["steps"] == 0
    done = report["recipe"]["done"]
    if name == "rotate":
        assert done["spread of cosines after"] < 1e-4 < done["spread of cosines before"]
    load = AutoModelForMaskedLM if kind == "masked" else AutoModelForCausalLM
    saved, info = load.from_pretrained("out/model", output_loading_info=True)
    assert not info["missing_keys"]
    tied = saved.get_output_embeddings().weight is saved.get_input_embeddings().weight
    assert tied == (name == "rotate")
    again = LanguageModel.load("out/model", progress=False)
    base = LanguageModel.load(tiny_model(kind), progress=False)
    assert not torch.equal(again.head_weight, base.head_weight)
    if name == "leace" and kind == "masked":
        assert again.head_bias.any()
        assert not base.head_bias.any()


def test_settings():
    with pytest.raises(ValueError, match="terms with the recipe 'rotate'"):
        FinetuneSettings(recipe="rotate", terms=TermSettings(nc3=1))
    for options in ({"to": "x"}, {"share": 2}, {"min_count": 0}):
        with pytest.raises(RecipeError, match="expected"):
            find_recipe("rotate", options)


@pytest.mark.parametrize("name", ["rotate", "leace"])
def test_a_head_made_of_adapters_is_rejected(name):
    made = SimpleNamespace(head_weight=torch.nn.Parameter(torch.eye(2)) + torch.ones(2, 2))
    with pytest.raises(RecipeError, match=f"recipe '{name}': the head is made of adapters"):
        find_recipe(name).own_head(made)

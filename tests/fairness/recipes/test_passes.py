"""What a recipe says that its own loss runs, beside the tokens that its model really sees."""

from __future__ import annotations

import pytest
import torch

from ncfast.fairness.recipes import find_recipe
from ncfast.fairness.recipes.recipe import Passes
from ncfast.language import Corpus, LanguageModel

BLOCK = 16
FOUR = "orig_sent0,orig_sent1,aug_sent0,aug_sent1\n" + 4 * "he bant,he fosp,she bant,she fosp\n"


@pytest.fixture
def counted(tiny_model, tiny_text):
    """Return a model, its text, and a list of (tokens, whether with a gradient) it is to fill."""
    model = LanguageModel.load(tiny_model("masked"), dtype=torch.float64, progress=False)
    corpus = Corpus.from_spec([str(tiny_text)], model.tokenizer, 600, BLOCK, progress=False)
    seen: list[tuple[int, bool]] = []

    def note(module, arguments, named):
        ids = named["input_ids"] if "input_ids" in named else arguments[0]
        seen.append((ids.numel(), torch.is_grad_enabled()))

    model.body.register_forward_pre_hook(note, with_kwargs=True)
    return model, corpus, seen


def totals(seen: list[tuple[int, bool]]) -> tuple[int, int]:
    trained, forward = (sum(n for n, grad in seen if grad is kind) for kind in (True, False))
    seen.clear()
    return trained, forward


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ase", {"words": ("bant", "cerd"), "rows": 3, "samples": 5}),
        ("ase", {"words": ("bant", "cerd"), "rows": 3, "ewc": 0.0}),
        ("ase", {"words": ("bant",), "neutralise": 0.0, "samples": 5}),
        ("adept", {"words": ("bant", "cerd"), "rows": 2, "prototypes": 8, "renew": 4}),
        ("mabel", {"rows": 2, "length": BLOCK}),
        ("mabel", {"rows": 3, "mlm": 0.0}),
        ("equalise", {"pairs": 4}),
    ],
)
def test_passes_are_what_the_model_sees(counted, tmp_path, monkeypatch, name, options):
    model, corpus, seen = counted
    file = tmp_path / "pairs.csv"
    file.write_text(FOUR, encoding="utf-8")
    recipe = find_recipe(name, options | ({"pairs": str(file)} if name == "mabel" else {}))
    if name == "equalise":  # of words that the tiny tokenizer has
        known = [("", " bant cerd", "she", "he")] * 4
        monkeypatch.setattr("ncfast.fairness.recipes.equalise.all_pairs", lambda words: known)
    said = recipe.passes(BLOCK)
    restore = recipe.prepare(model)
    loss = recipe.own_loss(model, corpus, 0)
    before = totals(seen)[0]
    assert said.once / 2 < before <= said.once or before == said.once == 0  # or nothing masked
    trained = forward = 0
    for step in range(1, 5):  # one of them renews the prototypes
        loss.losses(step)
        one, other = totals(seen)
        trained, forward = trained + one, forward + other
    restore()
    if name in ("ase", "adept"):  # whole blocks
        assert (trained, forward) == (4 * said.trained, 4 * said.forward)
    else:  # sentences, as long as they are
        assert 0 < trained <= 4 * said.trained
        assert forward == said.forward == 0
    held = getattr(loss, "start", {}), getattr(loss, "frozen", None), getattr(loss, "fisher", {})
    assert said.copies == sum(bool(copy) for copy in held)


def test_a_recipe_without_a_loss_of_its_own_runs_nothing(counted):
    model, corpus, _ = counted
    for name in ("plain", "bec", "dropout"):
        recipe = find_recipe(name)
        assert recipe.own_loss(model, corpus, 0) is None
        assert recipe.passes(BLOCK) == Passes()

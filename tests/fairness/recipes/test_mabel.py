"""MABEL: every term by hand on toy pairs, the file it reads, what it refuses."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ncfast.cli import main
from ncfast.fairness.recipes import RecipeError, find_recipe
from ncfast.fairness.recipes.entailment import EntailmentPairs, read_pairs
from ncfast.fairness.recipes.mabel import HEAD
from ncfast.finetune import FinetuneSettings, finetune
from ncfast.language import LanguageModel
from ncfast.training.log import read_log

PAIRS = [
    ("he ran bant", "he fosp", "she ran bant", "she fosp"),
    ("the king cerd dilk gunt", "the man cerd", "the queen cerd dilk gunt", "the woman cerd"),
    ("his mother bant", "a woman bant", "her father bant", "a man bant"),
]
HEADER = "orig_sent0,orig_sent1,aug_sent0,aug_sent1"


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join([HEADER, *map(",".join, PAIRS)]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def setting(tiny_model, file):
    model = LanguageModel.load(tiny_model("masked"), dtype=torch.float64, progress=False)
    recipe = find_recipe("mabel", {"pairs": str(file), "temperature": 0.5})
    restore = recipe.prepare(model)
    loss = recipe.own_loss(model, None, 3)
    with torch.no_grad():  # an untrained model sees hardly a difference between sentences
        for name, parameter in model.model.named_parameters():
            if "weight" in name and "LayerNorm" not in name:
                parameter.mul_(20)
    yield model, recipe, loss
    restore()
    assert HEAD not in dict(model.model.named_modules())


def vector(model, sentence: str) -> list[float]:
    ids = torch.tensor([model.tokenizer(sentence)["input_ids"]])
    first = model.body(ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0, 0]
    layers = model.model.get_submodule(HEAD)
    inner = torch.tanh(layers[0].weight @ first + layers[0].bias)
    return (layers[2].weight @ inner + layers[2].bias).tolist()


def cosine(a: list[float], b: list[float]) -> float:
    def dot(x, y):
        return sum(u * v for u, v in zip(x, y, strict=True))

    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def test_contrast_and_alignment_by_hand(setting):
    model, _, loss = setting
    found = {name: (float(v.detach()), w) for name, (v, w) in loss.losses(0).items()}
    tau = 0.5
    p, h, p_swapped, h_swapped = ([vector(model, four[k]) for four in PAIRS] for k in range(4))
    a, b = [*p, *p_swapped], [*h, *h_swapped]
    total = 0.0
    for i, one in enumerate(a):
        scores = [math.exp(cosine(one, other) / tau) for other in b]
        total -= math.log(scores[i] / sum(scores))
    assert found["contrastive"] == (pytest.approx(total / 6, rel=1e-9), 1.0)
    squares = sum(
        ((cosine(p[i], h[j]) - cosine(p_swapped[i], h_swapped[j])) / tau) ** 2
        for i in range(3)
        for j in range(3)
    )
    assert squares > 1e-6
    assert found["alignment"] == (pytest.approx(squares / 3, rel=1e-7), 0.05)
    assert found["mlm"][1] == 0.1
    assert loss.cross_entropy_weight == 0.0


def test_masked_tokens_by_hand(setting):
    model, _, loss = setting
    step = next(s for s in range(50) if loss.masked(s).predicted)
    batch = loss.masked(step)
    logits = model.model(batch.input_ids, attention_mask=batch.attention_mask).logits
    logs = logits.log_softmax(-1)
    places = (batch.labels != -100).nonzero().tolist()
    expected = -sum(float(logs[r, t, batch.labels[r, t]].detach()) for r, t in places)
    assert float(loss.nll(step).detach()) == pytest.approx(expected / len(places), rel=1e-9)
    clean = loss.clean(step)
    assert clean.predicted == 0
    assert torch.equal(clean.input_ids.where(batch.labels == -100, 0),
                       batch.input_ids.where(batch.labels == -100, 0))  # fmt: skip
    assert batch.input_ids.shape[0] == 12  # four sentences of each pair


def test_an_empty_draw_of_masks_is_no_nan(setting):
    _, _, loss = setting
    loss.masked._rate = loss.masked._words_rate = 0.0
    value = loss.nll(0)
    value.backward()
    assert float(value.detach()) == 0.0


def test_every_epoch_has_every_pair_once(setting):
    model, recipe, _ = setting
    loss = find_recipe("mabel", {"pairs": recipe.pairs, "rows": 2}).own_loss(model, None, 0)
    of_pair = {tuple(loss.clean.corpus.rows[4 * n]): n for n in range(3)}
    for epoch in range(3):
        seen: list[int] = []
        for step in (2 * epoch, 2 * epoch + 1):
            batch = loss.clean(step)
            seen += [
                of_pair[tuple(row[mask.bool()].tolist())]
                for row, mask in zip(batch.input_ids[::4], batch.attention_mask[::4], strict=True)
            ]
        assert sorted(seen) == [0, 1, 2]


def test_long_sentences_are_cut_at_their_end(setting):
    model = setting[0]
    pairs = EntailmentPairs([("he bant cerd dilk fosp gunt", "he", "she", "she")], model, 5)
    batch = pairs.take([0])
    assert batch.input_ids.shape == (4, 5)
    assert batch.attention_mask.sum(1).tolist() == [5, 3, 3, 3]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sent0,sent1\na,b\n", "expected orig_sent0, orig_sent1, aug_sent0, aug_sent1 too"),
        (f"{HEADER}\na,b,c,d\na,b,,d\n", "line 3 has an empty sentence"),
        (f"{HEADER}\na,b,c\n", "line 2 has an empty sentence"),
        (f"{HEADER}\n", "holds no pair"),
        (f'{HEADER}\n"a,b,c,d\n', "no CSV file in UTF-8"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path, text, said):
    path = tmp_path / "bad.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=said):
        read_pairs(str(path))


def test_what_it_needs_is_said(tiny_model, tiny_text, tmp_path, file):
    with pytest.raises(RecipeError, match="temperature=0"):
        find_recipe("mabel", {"temperature": 0})
    with pytest.raises(RecipeError, match="alignment=-1"):
        find_recipe("mabel", {"alignment": -1})

    def run(kind, **options):
        settings = FinetuneSettings(
            recipe="mabel", recipe_options=options, steps=1, block_size=16, batch_size=4,
            measure_tokens=0, progress=False,
        )  # fmt: skip
        finetune(str(tiny_model(kind)), str(tiny_text), tmp_path / "out", settings)

    with pytest.raises(RecipeError, match="a causal model: its sentence vector"):
        run("causal", pairs=str(file))
    with pytest.raises(RecipeError, match="expected the option pairs=FILE"):
        run("masked")
    with pytest.raises(RecipeError, match=r"pairs='nothing.csv': No such file"):
        run("masked", pairs="nothing.csv")
    with pytest.raises(RecipeError, match="takes at most"):
        run("masked", pairs=str(file), length=100_000)


def random_pairs(path, words, seed, count=40):
    # The toy tokenizer knows these words; stretches of 8 of them hardly occur twice.
    draw = random.Random(seed)
    rows = [",".join(" ".join(draw.choices(words, k=11)) for _ in range(4)) for _ in range(count)]
    path.write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("column", ["orig_sent0", "aug_sent1"])
def test_no_text_for_perplexity_is_among_the_pairs(tiny_model, tmp_path, column):
    words = ["he", "she", "bant", "fosp", "cerd", "dilk", "gunt", "king", "queen", "man", "woman"]
    pairs, other = (random_pairs(tmp_path / f"{n}.csv", words, n) for n in (1, 2))
    # The same rows in another order are the same text.
    header, *rows = pairs.read_text(encoding="utf-8").splitlines()
    mixed = tmp_path / "mixed.csv"
    mixed.write_text("\n".join([header, *sorted(rows)]) + "\n", encoding="utf-8")

    def run(text, out, **more):
        settings = FinetuneSettings(
            recipe="mabel", recipe_options={"pairs": str(pairs), "rows": 2, "length": 16},
            steps=1, block_size=16, batch_size=4, measure_tokens=0, progress=False,
            text_column=column, **{"held_out": 0.3, **more},
        )  # fmt: skip
        return finetune(str(tiny_model("masked")), str(text), tmp_path / out, settings)

    for text, more in ((pairs, {}), (mixed, {}), (other, {"validation": (str(mixed),)})):
        with pytest.raises(RecipeError, match="of the text that perplexity is of, by its option"):
            run(text, "refused", **more)
    assert run(other, "kept").report["perplexity"]["after"] > 1
    assert run(pairs, "named", validation=(str(other),)).report["perplexity"]["after"] > 1
    assert run(pairs, "none", held_out=0.0).report["held_out"] is None


def test_command(tiny_model, tiny_text, tmp_path, monkeypatch, file, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["finetune", str(tiny_model("masked")), str(tiny_text), "--quiet", "--block-size"]
    command += ["32", "--batch-size", "4", "--measure-tokens", "0", "--recipe", "mabel"]
    command += ["--recipe-option", "pairs=pairs.csv", "--recipe-option", "length=16"]
    command += ["--recipe-option", "rows=2", "--nc3", "0.1", "--steps", "3", "--out", "out"]
    assert main(command) == 0
    first = read_log("out/steps.jsonl")[0]
    terms = {"contrastive": 1.0, "alignment": 0.05, "mlm": 0.1, "nc3": 0.1}
    whole = sum(weight * first[f"{name}/value"] for name, weight in terms.items())
    assert first["loss"] == pytest.approx(whole, rel=1e-5)
    assert not any(HEAD in name for name in load_file("out/model/model.safetensors"))
    # Other pairs under the same name are another run.
    file.write_text(file.read_text(encoding="utf-8").replace("fosp", "gunt"), encoding="utf-8")
    assert main([*command, "--resume"]) == 2
    assert "pairs of mabel" in capsys.readouterr().err


def test_pairs_are_part_of_what_decides_a_run(file):
    recipe = find_recipe("mabel", {"pairs": str(file)})
    before = recipe.identity()
    file.write_text(file.read_text(encoding="utf-8") + "a,b,c,d\n", encoding="utf-8")
    assert recipe.identity() != before

"""Each text is read with its own column, by all that reads it; and paper.toml could start."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from ncfast.cli import main
from ncfast.experiment import ExperimentError, load_protocol, run_grid
from ncfast.experiment.cells import BASE, Cell
from ncfast.experiment.columns import readings
from ncfast.experiment.examiner import held_out_perplexity
from ncfast.experiment.laboratory import Laboratory
from ncfast.experiment.parts import Arm, Model
from ncfast.experiment.steps import render_steps
from ncfast.fairness.recipes import find_recipe
from ncfast.finetune.texts import read_training
from ncfast.language import LanguageModel, WordSet
from tests import tiny

PAPER = Path(__file__).parents[2] / "experiments" / "paper.toml"
# Columns of the files that paper.toml names, as their authors publish them; plain text has none.
GAP = ["ID", "Text", "Pronoun", "Pronoun-offset", "A", "A-offset", "A-coref"]
GAP += ["B", "B-offset", "B-coref", "URL"]
PAIRS = ["orig_sent0", "orig_sent1", "aug_sent0", "aug_sent1"]
PUBLISHED = {
    "gap-development.tsv": GAP,
    "gap-test.tsv": GAP,
    "gap-validation.tsv": GAP,
    "ontonotes-or-other.txt": None,
    "news-commentary-v15.txt": None,
    "entailment_data.csv": PAIRS,
    "entailment_held_out.csv": PAIRS,
}
WORDS = {name: WordSet.load("gender") for name in ("gender", "random", "matched")}


def write_published(folder: Path) -> None:
    """Write a small file of each name, whose columns beside the text hold no word."""
    lines = [line for line in tiny.write_text(folder / "all").read_text().split("\n") if line]
    share = len(lines) // len(PUBLISHED)
    for number, (name, columns) in enumerate(PUBLISHED.items()):
        own = lines[number * share : (number + 1) * share]
        if columns is None:
            (folder / name).write_text("\n".join(own) + "\n", encoding="utf-8")
            continue
        with open(folder / name, "w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, delimiter="\t" if name.endswith(".tsv") else ",")
            table.writerow(columns)
            texts = {"Text", *PAIRS}
            table.writerows([line if c in texts else f"{c}~" for c in columns] for line in own)


@pytest.fixture
def paper(tmp_path, monkeypatch):
    """Return paper.toml with a tiny model and one step a cell, in a folder with its files."""
    monkeypatch.chdir(tmp_path)
    # The recipes ase and adept need stereotyped words.
    monkeypatch.setattr(tiny, "OTHER", ["nurse", "engineer", "strong", "gentle", *tiny.OTHER])
    write_published(tmp_path)
    spec = str(tiny.write_model(tmp_path / "tiny", "masked"))

    def loaded(path: Path = PAPER):
        protocol = load_protocol(path)
        small = {"steps": 1, "batch_size": 2, "accumulate": 1}
        return replace(
            protocol,
            models=(Model("tiny", spec),),
            seeds=(0, 1),
            training={**protocol.training, "block_size": 16, "held_out": 0.2},
            arms=tuple(replace(a, training={**a.training, **small}) for a in protocol.arms),
            endpoints=tuple(e for e in protocol.endpoints if e.benchmark == "perplexity"),
            evaluation=replace(protocol.evaluation, nc_tokens=2000, data={}),
        )

    return loaded


def test_paper_reads_every_text(paper, tmp_path):
    protocol = paper()
    assert {text for reading in readings(protocol) for text in reading.texts} == set(PUBLISHED)
    said = render_steps(protocol)
    assert "NOT FOUND" not in said
    assert "CANNOT BE READ" not in said
    # Controls, collapse and perplexity of the checkpoint.
    run_grid(protocol, tmp_path / "run", Cell("tiny", BASE, 0))
    [model], laboratory = protocol.models, Laboratory(protocol, tmp_path / "run", "cpu", print)
    loaded, done = LanguageModel.load(model.spec, progress=False), []
    for arm in protocol.arms:
        texts = arm.texts or protocol.texts
        settings = laboratory.settings(Cell("tiny", arm.name, 0), arm, model, WORDS)
        if (way := (texts, settings.text_column, arm.recipe)) in done:
            continue
        done.append(way)
        recipe = find_recipe(settings.recipe, settings.recipe_options)
        assert len(read_training(texts, loaded, settings, recipe, 16).blocks) > 50
        assert held_out_perplexity(loaded, settings, texts)[0] > 1
    assert len(done) == 5  # plain, bec, ase, adept, mabel


@pytest.mark.slow
def test_paper_can_start(paper, tmp_path):
    protocol = replace(paper(), seeds=(0,))
    results = run_grid(protocol, tmp_path / "run")
    assert len(results) == 1 + len(protocol.arms)
    for cell in results.values():
        assert cell["endpoints"]["perplexity"]["value"] > 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('text_column = "Text"', "", r"gap-development\.tsv cannot be read: .* 11 columns"),
        (
            'text_column = "Text"',
            'text_column = "Txt"',
            "column 'Txt', cannot be read: .*no col",
        ),
        ("ontonotes-or-other.txt", "ontonotes.en", r"ontonotes\.en cannot be read: .*no type"),
        ('"orig_sent0"', '"premise"', r"entailment_data\.csv, column 'premise', cannot be read"),
        ('pairs = "entailment_data.csv"', 'pairs = "gap-test.tsv"', "gap-test.tsv cannot be read"),
    ],
)
def test_what_paper_cannot_read_is_said_before_the_first_step(paper, tmp_path, old, new, said):
    changed = PAPER.read_text(encoding="utf-8").replace(old, new)
    (tmp_path / "ontonotes.en").write_text("she", encoding="utf-8")
    (tmp_path / "other.toml").write_text(changed, encoding="utf-8")
    protocol = paper(tmp_path / "other.toml")
    assert ", CANNOT BE READ: " in render_steps(protocol)
    with pytest.raises(ExperimentError, match=said) as raised:
        run_grid(protocol, tmp_path / "run")
    assert "--" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_controls_and_collapse_are_of_the_column_that_is_trained_on(
    tiny_protocol, tiny_text, tmp_path
):
    lines = tiny_text.read_text(encoding="utf-8").split("\n")
    records = tmp_path / "records.jsonl"
    other = "bant cerd dilk he she her fosp"
    records.write_text(
        "\n".join(json.dumps({"text": other, "body": line}) for line in lines), encoding="utf-8"
    )
    found = []
    for number, changes in enumerate(
        (
            {},
            {str(tiny_text): str(records), "steps = 3": 'steps = 3\ntext_column = "body"'},
        )
    ):
        protocol, folder = load_protocol(tiny_protocol(tmp_path, **changes)), tmp_path / str(number)
        cell = run_grid(protocol, folder, Cell("tiny", BASE, 0))["tiny/base/0"]
        drawn = json.loads((folder / "words" / "tiny.json").read_text(encoding="utf-8"))["words"]
        found.append([drawn, cell["nc"], cell["map"], cell["endpoints"]])
    assert found[0] == found[1]
    assert cell["identity"]["text_column"] == "body"  # what was found without it is run anew


def test_a_column_goes_with_its_texts(tiny_protocol, tmp_path):
    arm = 'name = "other"\ntexts = ["b.txt"]'
    changes = {"steps = 3": 'steps = 3\ntext_column = "body"', 'name = "other"': arm}
    protocol = load_protocol(tiny_protocol(tmp_path, **changes))
    model = protocol.models[0]
    columns = [protocol.training_of(model, a).get("text_column") for a in protocol.arms]
    assert columns == ["body", "body", None, "body"]
    assert protocol.training_of(model, Arm(BASE))["text_column"] == protocol.text_column == "body"


BODY = 'steps = 3\ntext_column = "body"'


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {'spec = "': 'training = { text_column = "a" }\nspec = "'},
            "training of the model 'tiny' has text_column, and a model has no texts",
        ),
        (
            {'name = "other"': 'name = "other"\ntraining = { text_column = "a" }'},
            "the arm 'other' has text_column = 'a' and no texts of its own",
        ),
        (
            {
                "steps = 3": f'{BODY}\nvalidation = ["v.csv"]',
                'name = "other"': 'name = "other"\ntexts = ["b.txt"]',
            },
            "its own texts with the column None, and would read the validation of all arms",
        ),
        (
            {
                "steps = 3": f'{BODY}\nvalidation = ["v.csv"]',
                'name = "other"': 'name = "other"\ntexts = ["b.csv"]\n'
                'training = { text_column = "body" }',
            },
            None,
        ),
    ],
)
def test_a_column_of_no_text_is_rejected(tiny_protocol, tmp_path, changes, said):
    path = tiny_protocol(tmp_path, **changes)
    if said is None:
        load_protocol(path)
        return
    with pytest.raises(ExperimentError, match=said):
        load_protocol(path)


def test_a_dry_run_reads_the_first_record_of_each_text(tiny_protocol, tiny_text, tmp_path, capsys):
    (tmp_path / "two.csv").write_text("a,b\nshe,he\n", encoding="utf-8")
    (tmp_path / "some.en").write_text("she\n", encoding="utf-8")
    texts = [tiny_text, *(tmp_path / name for name in ("two.csv", "some.en", "*.csv", "no.csv"))]
    listed = ", ".join(f'"{text}"' for text in texts)
    path = tiny_protocol(tmp_path, **{f'"{tiny_text}"': listed})
    assert main(["experiment", str(path), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"   {texts[0]}\n" in said
    assert f"   {texts[1]}, CANNOT BE READ: {texts[1]} has 2 columns of text" in said
    assert f"   {texts[2]}, CANNOT BE READ: the text {texts[2]} is of no type that is read" in said
    assert f"   {texts[3]}, CANNOT BE READ: {texts[1]} has 2 columns" in said  # of a glob too
    assert f"   {texts[4]}, NOT FOUND here\n" in said
    assert "--" not in said
    # A column of no text here; beside one of which it may be, plain text is read.
    for beside, state in (((), "CANNOT BE READ: text_column='b' with"), (("no.csv",), "")):
        listed = ", ".join(f'"{text}"' for text in (tiny_text, *beside))
        column = {"steps = 3": 'steps = 3\ntext_column = "b"', f'"{tiny_text}"': listed}
        said = render_steps(load_protocol(tiny_protocol(tmp_path, **column)))
        assert f"   {tiny_text}, column 'b'{state and ', '}{state}" in said
        assert ("CANNOT" in said) == bool(state)

"""Benchmarks out of the library ``datasets``: what it holds is what the published files hold."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest

from ncfast.cli import main
from ncfast.fairness import EvaluationError
from ncfast.fairness.benchmarks import make
from ncfast.fairness.data import DataFolder

datasets = pytest.importorskip("datasets")
LABELS = ["anti-stereotype", "stereotype", "unrelated"]
BIASES = ["gender", "race"]


def stereoset_row(kind, number):
    text = "The nurse was BLANK." if kind == "intrasentence" else "The nurse spoke."
    words = {"stereotype": "kind", "anti-stereotype": "rude", "unrelated": "tree"}
    sentences = [
        {"id": f"{number}{label}", "gold_label": label, "sentence": f"The nurse was {word}."}
        for label, word in words.items()
    ]
    about = {"id": f"{kind}{number}", "target": "nurse", "bias_type": BIASES[number % 2]}
    return about | {"context": text, "sentences": sentences}


ROWS = {
    kind: [stereoset_row(kind, n) for n in range(3)] for kind in ("intrasentence", "intersentence")
}


def as_table(rows):
    """Return rows as a hub has them: labels as numbers, sentences as a table of lists."""
    each = {
        "id": datasets.Value("string"),
        "sentence": datasets.Value("string"),
        "gold_label": datasets.ClassLabel(names=LABELS),
    }
    features = datasets.Features(
        {
            **dict.fromkeys(("id", "target", "context"), datasets.Value("string")),
            "bias_type": datasets.ClassLabel(names=BIASES),
            "sentences": {key: datasets.Sequence(value) for key, value in each.items()},
        }
    )
    tables = [
        {**row, "sentences": {k: [s[k] for s in row["sentences"]] for k in each}} for row in rows
    ]
    columns = {key: [table[key] for table in tables] for key in features}
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.fixture
def hub(monkeypatch):
    """Stand in for a hub: returns what a test puts into it."""
    held: dict[tuple[str, str], object] = {}

    def load_dataset(name, config=None):
        if (name, config) not in held:
            raise ConnectionError(f"Couldn't reach {name} on the Hub")
        return held[name, config]

    def names(name):
        return [c for n, c in held if n == name] or load_dataset(name)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets, "get_dataset_config_names", names)
    return held


@pytest.mark.parametrize("spec", ["hf:some/stereoset", "some/stereoset"])
def test_stereoset_is_that_of_the_file(hub, tmp_path, spec):
    for kind, rows in ROWS.items():
        hub["some/stereoset", kind] = datasets.DatasetDict(validation=as_table(rows))
    (tmp_path / "dev.json").write_text(json.dumps({"data": ROWS}))
    for attribute in ("gender", "all"):
        expected = make("stereoset").read(DataFolder(str(tmp_path)), attribute)
        assert make("stereoset").read(DataFolder(spec), attribute) == expected
        assert len(expected) == {"gender": 4, "all": 6}[attribute]


def test_one_configuration_of_several(hub):
    for kind, rows in ROWS.items():
        hub["some/stereoset", kind] = datasets.DatasetDict(validation=as_table(rows))
    found = make("stereoset").read(DataFolder("hf:some/stereoset:intrasentence"), "all")
    assert [c.intra for c in found] == [True] * 3


def crows():
    columns = {
        "sent_more": ['She said "no",\nand left.', "He ran."],
        "sent_less": ['He said "no",\nand left.', "She ran."],
        "stereo_antistereo": [0, 1],
        "bias_type": [1, 1],
    }
    features = datasets.Features(
        {
            **dict.fromkeys(("sent_more", "sent_less"), datasets.Value("string")),
            "stereo_antistereo": datasets.ClassLabel(names=["stereo", "antistereo"]),
            "bias_type": datasets.ClassLabel(names=["race-color", "gender"]),
        }
    )
    return datasets.Dataset.from_dict(columns, features=features)


def test_crows_pairs_is_that_of_the_file(hub, tmp_path):
    hub["some/crows", "default"] = datasets.DatasetDict(test=crows())
    with open(tmp_path / "crows_pairs_anonymized.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["", "sent_more", "sent_less", "stereo_antistereo", "bias_type"])
        for n, row in enumerate(crows()):
            direction = ["stereo", "antistereo"][row["stereo_antistereo"]]
            writer.writerow([n, row["sent_more"], row["sent_less"], direction, "gender"])
    expected = make("crows-pairs").read(DataFolder(str(tmp_path)), "gender")
    assert make("crows-pairs").read(DataFolder("hf:some/crows"), "gender") == expected
    # Saved to a folder it is the same again.
    crows().save_to_disk(str(tmp_path / "saved"))
    found = make("crows-pairs").read(DataFolder(str(tmp_path / "saved")), "gender")
    assert [replace(p, file="") for p in found] == [replace(p, file="") for p in expected]


@pytest.mark.parametrize(
    ("task", "columns"),
    [
        ("sst2", {"sentence": ["good", "bad"], "label": [1, 0]}),
        ("cola", {"sentence": ["good", "bad"], "label": [1, 0]}),
        ("rte", {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [1, 0]}),
        ("mrpc", {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [1, 0]}),
        ("stsb", {"sentence1": ["a, b", "b"], "sentence2": ["c", "d"], "label": [2.5, 0.0]}),
    ],
)
def test_tasks_of_glue(hub, task, columns):
    part = datasets.Dataset.from_dict(columns)
    hidden = datasets.Dataset.from_dict({**columns, "label": [-1, -1]})
    hub["some/glue", task] = datasets.DatasetDict(train=part, validation=part, test=hidden)
    found = make(task).read(DataFolder(f"hf:some/glue:{task}"), "all")
    texts = list(zip(*(v for k, v in columns.items() if k != "label"), strict=True))
    expected = [
        (split, text, label)
        for split in ("train", "dev")
        for text, label in zip(texts, columns["label"], strict=True)
    ]
    assert [(e.split, e.texts, e.label) for e in found] == expected


@pytest.mark.parametrize(
    ("spec", "columns", "task"),
    [
        ("hf:smart-eval/glue:mrpc", ("sentence1", "sentence2"), "mrpc"),  # "smarteval" holds rte
        ("hf:class-tests/cola", ("sentence",), "cola"),  # "classtests" holds sst
        ("hf:some/SST-2", ("sentence",), "sst2"),
        ("hf:tests/wnli", ("sentence1", "sentence2"), None),  # "tests" holds sts
        ("hf:some/sts-glue:wnli", ("sentence1", "sentence2"), None),
    ],
)
def test_a_task_goes_by_whole_words_of_its_own_name(hub, spec, columns, task):
    name, _, config = spec.removeprefix("hf:").partition(":")
    part = datasets.Dataset.from_dict({c: ["a", "b"] for c in columns} | {"label": [1, 0]})
    hub[name, config or "default"] = datasets.DatasetDict(train=part, validation=part)
    if task is None:
        with pytest.raises(EvaluationError, match="which task of GLUE it is does not stand"):
            make("rte").read(DataFolder(spec), "all")
    else:
        assert len(make(task).read(DataFolder(spec), "all")) == 4


def test_what_cannot_be_read_is_one_sentence(hub, tmp_path):
    both = datasets.DatasetDict(test=crows(), train=crows())
    hub["some/languages", "english"] = hub["some/languages", "french"] = both
    hub["some/crows", "default"] = both
    hub["some/other", "default"] = datasets.DatasetDict(
        test=datasets.Dataset.from_dict({"text": ["a"]})
    )
    hub["some/nameless", "default"] = datasets.DatasetDict(
        test=datasets.Dataset.from_dict({"sentence": ["a"], "label": [1]})
    )
    tabbed = datasets.Dataset.from_dict({"sentence": ["a\tb"], "label": [1]})
    hub["some/sst2", "default"] = datasets.DatasetDict(train=tabbed)
    hub["some/empty", "default"] = datasets.DatasetDict()
    odd = as_table(ROWS["intrasentence"])
    hub["some/odd", "default"] = datasets.DatasetDict(held=odd)
    for spec, said in [
        ("hf:not/there", r"cannot be loaded as a data set \(ConnectionError: Couldn't reach"),
        ("not/there", "cannot be loaded as a data set"),
        ("hf:some/languages", "the configurations english, french; expected one"),
        ("hf:some/crows", "the splits test, train; expected one"),
        ("hf:some/other", "a data set with the columns text; expected those of StereoSet"),
        ("hf:some/nameless", "which task of GLUE it is does not stand in its name"),
        ("hf:some/sst2", "row 1 of train: a text holds a tab"),
        ("hf:some/empty", "a data set with the columns none"),
        ("hf:some/odd", "a split 'held'; expected one of"),
    ]:
        with pytest.raises(EvaluationError, match=said):
            DataFolder(spec)
    assert main(["evaluate", "m", "--data", "hf:not/there"]) == 2
    with pytest.raises(EvaluationError, match=r"there is no such file or folder$"):
        DataFolder("nowhere")


def test_rows_are_checked_as_a_file_s(hub):
    rows = [stereoset_row("intrasentence", 0)]
    rows[0]["sentences"] = rows[0]["sentences"][:2]
    hub["some/stereoset", "intrasentence"] = datasets.DatasetDict(validation=as_table(rows))
    with pytest.raises(EvaluationError, match=r"dev.json, row intrasentence0, field gold_label"):
        make("stereoset").read(DataFolder("hf:some/stereoset"), "gender")

"""The fixed names of what is scored from small files: predictions, SEAT, BBQ, perplexity.

Each is run by the command, and the names in its ``evaluation.json`` are those of the table that
fixes them (``test_names.py`` has the benchmarks of the published files).
"""

from __future__ import annotations

import json

import pytest

from ncfast.cli import main
from ncfast.fairness.benchmarks import BENCHMARKS
from tests.fairness.test_names import ICAT, NAMES

BIAS = {
    f"{score}_{condition}"
    for score in ("accuracy", "bias")
    for condition in ("ambiguous", "disambiguated")
}
OF_TYPE = {f"{score}_{side}" for score in ("f1", "exact") for side in ("pro", "anti")}
GAPS = {"accuracy_gap", "tpr_rms", "mean_absolute_gap"}

# Benchmark, variant: metrics by subset.
TABLE = {
    ("bbq", "predictions"): {"Age": BIAS, "Religion": BIAS, "overall": BIAS},
    ("bbq", "likelihood"): {"Religion": BIAS},
    ("bias-nli", "predictions"): {"overall": {"nn", "fn", "t50", "t70"}},
    ("bias-in-bios", "predictions"): {
        "overall": {"accuracy", "accuracy_female", "accuracy_male"} | GAPS
    },
    ("winobias", "predictions"): {
        "type1": OF_TYPE | {"tpr_1"},
        "type2": OF_TYPE | {"tpr_2"},
    },
    ("stereoset", "arithmetic"): {"dev.gender": ICAT, "dev.gender.inter": ICAT},
    ("seat", "cls"): {"sent-weat6": {"effect_size", "p_value"}},
    ("seat", "mean"): {"sent-weat6": {"effect_size", "p_value"}},
    ("seat", "word"): {"sent-weat6": {"effect_size", "p_value"}},
    ("perplexity", "pll"): {"story": {"perplexity"}},
    ("perplexity", "pll_word_l2r"): {"story": {"perplexity"}},
    ("perplexity", "window"): {"story": {"perplexity"}},
}


def questions(category):
    """Return four questions of a category, as BBQ has them."""
    return [
        {
            "example_id": number,
            "category": category,
            "question_polarity": ("neg", "nonneg")[number % 2],
            "context_condition": ("ambig", "disambig")[number // 2],
            "context": f"she bant {number // 2}",
            "question": "he card",
            "answer_info": {"ans0": ["a", "F"], "ans1": ["b", "M"], "ans2": ["u", "unknown"]},
            **{f"ans{k}": word for k, word in enumerate(("she", "he", "milk"))},
            "label": 2 if number < 2 else number % 2,
        }
        for number in range(4)
    ]


def bbq(folder):
    rows = {category: questions(category) for category in ("Age", "Religion")}
    for category, some in rows.items():
        (folder / f"{category}.jsonl").write_text("\n".join(map(json.dumps, some)))
    lines = [f"{c},{r['example_id']},{r['example_id'] % 2}" for c in rows for r in rows[c]]
    (folder / "additional_metadata.csv").write_text(
        "\n".join(["category,example_id,target_loc", *lines])
    )
    told = [r | {"unifiedqa-t5-11b_pred_race": "she"} for some in rows.values() for r in some]
    (folder / "answers.jsonl").write_text("\n".join(map(json.dumps, told)))
    return folder / "answers.jsonl"


def bias_nli(folder):
    path = folder / "nli.csv"
    path.write_text("entailment,neutral,contradiction\n0.1,0.8,0.1\n0.5,0.3,0.2\n")
    return path


def bias_in_bios(folder):
    rows = ["nurse,nurse,F", "nurse,cook,M", "cook,cook,F", "cook,cook,M"]
    path = folder / "bios.csv"
    path.write_text("\n".join(["label,prediction,gender", *rows]))
    return path


def winobias(folder):
    document = [
        {"doc_key": f"d{n}", "gold": [[[1, 2], [8, 8]]], "pred": [[[1, 2], [8 + n, 8 + n]]]}
        for n in range(3)
    ]
    sets = {f"m-type{t}_{side}": document for t in (1, 2) for side in ("pro", "anti")}
    path = folder / "coref.json"
    path.write_text(json.dumps(sets))
    return path


def stereoset(folder):
    labels = ("stereotype", "anti-stereotype", "unrelated")

    def context(part, n):
        sentences = [
            {"id": f"{part}{n}{label}", "sentence": f"she {label}", "gold_label": label}
            for label in labels
        ]
        about = {"target": f"t{n % 2}", "bias_type": "gender", "sentences": sentences}
        return about | {"id": f"{part}{n}", "context": "she BLANK" if part == "intra" else "she."}

    data = {f"{part}sentence": [context(part, n) for n in range(4)] for part in ("intra", "inter")}
    (folder / "dev.json").write_text(json.dumps({"data": data}))
    scores = {
        part: [
            {"id": s["id"], "score": -1.0 - n % 3 - k}
            for n, row in enumerate(rows)
            for k, s in enumerate(row["sentences"])
        ]
        for part, rows in data.items()
    }
    (folder / "scores.json").write_text(json.dumps(scores))
    return folder / "scores.json"


def names(folder, *words):
    """Run the command; return metrics by subset, by variant."""
    out = folder / "out"
    assert main(["evaluate", *map(str, words), "--out", str(out), "--quiet"]) == 0
    document = json.loads((out / "evaluation.json").read_text())
    found = {}
    for row in document["scores"]:
        found.setdefault(row["variant"], {}).setdefault(row["subset"], set()).add(row["metric"])
    return found


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("bbq", bbq),
        ("bias-nli", bias_nli),
        ("bias-in-bios", bias_in_bios),
        ("winobias", winobias),
        ("stereoset", stereoset),
    ],
)
def test_names_of_predictions(tmp_path, name, write):
    variant = "arithmetic" if name == "stereoset" else "predictions"
    path = write(tmp_path)
    found = names(tmp_path, "--on", name, "--predictions", path, "--data", tmp_path)
    assert found == {variant: TABLE[name, variant]}


def of(benchmark, *variants):
    return {v: TABLE[benchmark, v] for v in variants}


def test_names_of_bbq_of_a_causal_model(tmp_path, causal):
    bbq(tmp_path)
    words = ("--on", "bbq", "--data", tmp_path, "--attribute", "religion")
    assert names(tmp_path, causal, *words) == of("bbq", "likelihood")


def test_names_of_seat(tmp_path, tiny_model):
    lists = {"targ1": ["she", "mother"], "targ2": ["he", "father"], "attr1": ["milk"]}
    lists["attr2"] = ["card"]
    document = {role: {"category": role, "examples": words} for role, words in lists.items()}
    (tmp_path / "sent-weat6.jsonl").write_text(json.dumps(document))
    found = names(tmp_path, tiny_model("masked"), "--on", "seat", "--data", tmp_path)
    assert found == of("seat", "cls", "mean", "word")


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_names_of_perplexity(tmp_path, tiny_model, causal, kind):
    (tmp_path / "story.txt").write_text("she bant card\nhe milk\n")
    model = tiny_model("masked") if kind == "masked" else causal
    words = (model, "--on", "perplexity", "--text", tmp_path / "story.txt", "--data", tmp_path)
    variants = {"masked": ("pll", "pll_word_l2r"), "causal": ("window",)}[kind]
    assert names(tmp_path, *words) == of("perplexity", *variants)


def test_every_benchmark_has_its_names_compared():
    tasks = {"sst2", "rte", "stsb", "cola", "mrpc"}  # test_names_of_fine_tuned_tasks
    assert {name for name, _ in (*NAMES, *TABLE)} | tasks == set(BENCHMARKS)

"""A whole experiment of tiny models: two benchmarks of a few rows, three steps a run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

PROTOCOL = """
schema = "ncfast-experiment/1"
title = "tiny"
question = "Does it run?"
texts = ["{text}"]
seeds = [0, 1]

[training]
steps = 3
batch_size = 8
block_size = 16
lr = 1e-3
mask_words = 0.5
held_out = 0.2
save_every_seconds = 0.0

[controls]
other = "random"

[[models]]
name = "tiny"
spec = "{model}"

[[arms]]
name = "none"

[[arms]]
name = "ours"
terms = {{ nc3 = 3.0, means = "ema" }}

[[arms]]
name = "other"
terms = {{ nc3 = 3.0, means = "ema", words = "other" }}
stage = 2

[[arms]]
name = "turned"
recipe = "random-rotation"
of = "none"
options = {{ like = "ours" }}
stage = 2

[evaluation]
nc_tokens = 2000
resamples = 50
[evaluation.data]
bec-pro = "{data}"
seat = "{data}"

[[endpoints]]
name = "gap"
benchmark = "bec-pro"
metric = "gap"
variant = "rebuilt"
primary = true

[[endpoints]]
name = "seat"
benchmark = "seat"
metric = "effect_size"
variant = "cls"
subsets = ["sent-weat6", "sent-weat7"]

[[endpoints]]
name = "perplexity"
benchmark = "perplexity"

[[contrasts]]
arm = "ours"
against = "none"
primary = true

[[contrasts]]
arm = "turned"
against = "none"

[[margins]]
endpoint = "perplexity"
margin = 0.03
scale = "ratio"
"""
BEC_COLUMNS = (
    "Sentence",
    "Sent_TM",
    "Sent_TAM",
    "Person",
    "Gender",
    "Profession",
    "Prof_Gender",
    "Template",
)


def write_benchmarks(folder: Path) -> None:
    """Write BEC-Pro and two SEAT tests of the tiny tokenizer's words."""
    jobs = {"bant": "female", "berd": "female", "cent": "male", "cerd": "male", "dilk": "balanced"}
    rows = ["\t".join(BEC_COLUMNS)]
    people = {"she": "female", "her": "female", "he": "male", "his": "male"}
    for (job, group), (person, gender) in itertools.product(jobs.items(), people.items()):
        sentences = f"{person} fosp {job}", f"[MASK] fosp {job}", "[MASK] fosp [MASK]"
        rows.append("\t".join((*sentences, person, gender, job, group, "1")))
    (folder / "BEC-Pro_EN.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    lists = {
        "sent-weat6": (["he fosp", "his fosp"], ["she fosp", "her fosp"]),
        "sent-weat7": (["man bant", "king bant"], ["woman bant", "queen bant"]),
        "sent-weat8": (["he bant", "his bant"], ["she bant", "her bant"]),  # of no endpoint here
    }
    for name, (one, two) in lists.items():
        texts = {
            "targ1": one,
            "targ2": two,
            "attr1": ["gunt bant", "gurd"],
            "attr2": ["kant", "kalk kasp"],
        }
        document = {k: {"category": k, "examples": v} for k, v in texts.items()}
        (folder / f"{name}.jsonl").write_text(json.dumps(document), encoding="utf-8")


@pytest.fixture(scope="session")
def tiny_protocol(tiny_model, tiny_text, tmp_path_factory) -> Callable[..., Path]:
    """Return a function that writes the tiny protocol, with replacements in its text."""
    data = tmp_path_factory.mktemp("benchmarks")
    write_benchmarks(data)
    text = PROTOCOL.format(text=tiny_text, model=tiny_model("masked"), data=data)

    def write(folder: Path, **changes: str) -> Path:
        changed = text
        for old, new in changes.items():
            assert old in changed
            changed = changed.replace(old, new)
        path = folder / "tiny.toml"
        path.write_text(changed, encoding="utf-8")
        return path

    return write

"""Toy scorers whose answers are known, and the published data where they are at hand."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from ncfast.cli import main
from ncfast.fairness.data import DataFolder

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
CROWS = """,sent_more,sent_less,stereo_antistereo,bias_type,annotations,anon_writer,anon_annotators
0,she bant card,he bant card,stereo,gender,[],a,[]
1,woman milk,man milk,antistereo,gender,[],a,[]
2,mother fold queen,father fold queen,stereo,gender,[],a,[]
3,bant she,bant he,stereo,religion,[],a,[]
"""


def _folder(variable: str, default: Path, what: str) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"{what} are not at hand: set {variable} to their folder")
    return folder


@pytest.fixture(scope="session")
def published() -> DataFolder:
    """Return the folder of the benchmarks' published files, or skip."""
    return DataFolder(str(_folder("NCFAST_DATA", SHARED / "data", "the published benchmark files")))


@pytest.fixture(scope="session")
def bert_tiny():
    """Return a scorer of the restored BERT-tiny, or skip."""
    from ncfast.fairness.engine import ModelScorer
    from ncfast.language import LanguageModel

    path = _folder("NCFAST_MODELS", SHARED / "models", "the test models") / "bert-tiny-mlm"
    return ModelScorer(LanguageModel.load(path, progress=False))


@pytest.fixture
def data(tmp_path):
    """Return a folder with four pairs of CrowS-Pairs, three of them about gender."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "crows_pairs_anonymized.csv").write_text(CROWS)
    return folder


def run(*words) -> int:
    """Run ``ncfast evaluate``."""
    return main(["evaluate", *map(str, words)])


@pytest.fixture
def other(tiny_model, tmp_path):
    """Return a copy of the masked model with other weights."""
    from transformers import AutoModelForMaskedLM

    folder = tmp_path / "other"
    shutil.copytree(tiny_model("masked"), folder)
    model = AutoModelForMaskedLM.from_pretrained(folder)
    with torch.no_grad():
        model.get_output_embeddings().weight.add_(
            torch.randn(model.config.vocab_size, 16, generator=torch.manual_seed(0)) * 0.1
        )
    model.save_pretrained(folder)
    return folder


class Words:
    """A tokenizer of whole words: ids by order of appearance, one BOS, one mask."""

    bos_token_id, eos_token_id, mask_token_id, pad_token_id = 0, 1, 2, 3
    mask_token = "[MASK]"
    all_special_ids = (0, 1, 2, 3)

    def __init__(self) -> None:
        self.words: dict[str, int] = {}

    def __call__(self, text: str, add_special_tokens: bool = True):
        spaced = text.replace("[MASK]", " [MASK] ").replace(",", " , ").replace(".", " . ")
        ids = [
            2 if word == "[MASK]" else self.words.setdefault(word, 4 + len(self.words))
            for word in spaced.split()
        ]
        return {"input_ids": [0, *ids, 1] if add_special_tokens else ids}

    def decode(self, ids) -> str:
        names = {i: word for word, i in self.words.items()}
        return " ".join(names.get(i, "") for i in ids)


class Told:
    """A scorer that answers what it is told of a word, and -10 of any other."""

    def __init__(self, kind: str, /, **logs: float) -> None:
        self.kind, self.tokenizer, self.asked = kind, Words(), []
        self.logs = logs

    def _log(self, token: int) -> float:
        names = {i: word for word, i in self.tokenizer.words.items()}
        return self.logs.get(names.get(token, ""), -10.0)

    def masked(self, requests):
        self.asked += requests
        return [tuple(self._log(c) for c in request.candidates) for request in requests]

    def sequences(self, requests):
        self.asked += requests
        return [tuple(self._log(i) for i in request.ids[1:]) for request in requests]


@pytest.fixture
def told():
    """Return the class of scorers that are told their answers."""
    return Told


def values(benchmark, records, variant=None):
    """Return {(subset, metric): value} of a benchmark's statistics."""
    from ncfast.fairness.inference import estimate

    return {
        (s.subset, s.metric): estimate(s, resamples=50).value
        for s in benchmark.statistics(records)
        if variant in (None, s.variant)
    }


@pytest.fixture(name="values")
def _values():
    """Return the function that computes every score of some records."""
    return values


@pytest.fixture
def causal(tiny_model, tmp_path):
    """Return the causal model with a tokenizer that has a BOS, as every real one does."""
    from transformers import AutoTokenizer

    folder = tmp_path / "causal"
    shutil.copytree(tiny_model("causal"), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.bos_token = "[CLS]"
    tokenizer.save_pretrained(folder)
    return folder

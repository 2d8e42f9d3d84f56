"""Losses of a recipe's own, killed and resumed, and on two ranks: the numbers of a whole run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed

from ncfast.fairness.recipes import RECIPES, Recipe
from ncfast.finetune import FinetuneSettings, TermSettings, finetune
from ncfast.language import LanguageModel
from ncfast.testing import end_rank
from ncfast.training.log import read_log
from tests import forked
from tests.forked import run_ranks

OWN = [name for name, recipe in RECIPES.items() if recipe.own_loss is not Recipe.own_loss]
PAIRS = """orig_sent0,orig_sent1,aug_sent0,aug_sent1
he ran bant,he fosp,she ran bant,she fosp
the king cerd dilk gunt,the man cerd,the queen cerd dilk gunt,the woman cerd
his mother bant,a woman bant,her father bant,a man bant
"""
OPTIONS = {
    "adept": {"words": "bant,cerd", "renew": 2, "rows": 4},
    "ase": {"words": "bant,cerd", "samples": 8, "rows": 4},
    "equalise": {"pairs": 4},
    "mabel": {"rows": 2},
}
# Every recipe in a child of its own, which kills itself after its third step is saved.
KILLED = """
import json, os, signal, sys
from ncfast.finetune import FinetuneSettings, TermSettings, finetune
from ncfast.training import loop

model, text, root, runs = sys.argv[1:]
save = loop.Training.save

def dies(run):
    save(run)
    if run.step == 3:
        os.kill(os.getpid(), signal.SIGKILL)

loop.Training.save = dies
for name, given in json.loads(runs).items():
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        continue
    settings = FinetuneSettings(terms=TermSettings(nc3=0.1), **given)
    finetune(model, text, f"{root}/{name}", settings)
    os._exit(0)
"""


def settings_of(name: str, folder: Path) -> dict:
    options = dict(OPTIONS[name])
    if name == "mabel":
        options["pairs"] = str(folder / "pairs.csv")
    return {
        "recipe": name, "recipe_options": options, "steps": 5, "batch_size": 4, "block_size": 16,
        "lr": 1e-3, "measure_tokens": 0, "progress": False, "save_every_seconds": 0.0,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "pairs.csv").write_text(PAIRS, encoding="utf-8")
    return tmp_path


def lines(folder: Path) -> list[dict]:
    return [{**line, "seconds": 0} for line in read_log(folder / "steps.jsonl")]


@pytest.mark.slow
def test_killed_and_resumed_to_the_same_bytes(tiny_model, tiny_text, folder):
    model, text = str(tiny_model("masked")), str(tiny_text)
    runs = {name: settings_of(name, folder) for name in OWN}
    done = forked.run(["-c", KILLED, model, text, folder / "killed", json.dumps(runs)])
    assert done.returncode == 0, done.stderr[-2000:]
    for name, given in runs.items():
        settings = FinetuneSettings(terms=TermSettings(nc3=0.1), **given)
        whole, killed = folder / "whole" / name, folder / "killed" / name
        finetune(model, text, whole, settings)
        assert max(p.name for p in killed.glob("checkpoint-*")) == "checkpoint-3"
        finetune(model, text, killed, settings, resume=True)
        one, two = ((f / "model" / "model.safetensors").read_bytes() for f in (whole, killed))
        assert one == two, name
        assert lines(whole) == lines(killed), name
        terms = {key for key in lines(whole)[0] if key.endswith("/value")} - {"nc3/value"}
        assert terms, name
        for key in terms:  # and it is no constant
            assert len({line[key] for line in lines(whole)}) > 1, (name, key)


def train_all(model: str, text: str, folder: Path, out: Path) -> None:
    for name in OWN:
        loaded = LanguageModel.load(model, progress=False)
        for module in loaded.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # it is each rank's own
        given = settings_of(name, folder) | {"steps": 2, "optimizer": "SGD", "lr": 1e-2}
        finetune(loaded, text, out / name, FinetuneSettings(**given))


def _rank(rank: int, model: str, text: str, folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    train_all(model, text, Path(folder), Path(folder) / "two")
    end_rank()


@pytest.mark.slow
def test_two_ranks_equal_one(tiny_model, tiny_text, folder):
    places = (str(tiny_model("masked")), str(tiny_text))
    train_all(*places, folder, folder / "one")
    run_ranks(_rank, (*places, str(folder)))
    for name in OWN:
        one, two = (load_file(folder / n / name / "model" / "model.safetensors")
                    for n in ("one", "two"))  # fmt: skip
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-6, msg=f"{name} {key}")
        for a, b in zip(lines(folder / "one" / name), lines(folder / "two" / name), strict=True):
            for key in a:
                assert b[key] == pytest.approx(a[key], rel=1e-4), (name, key)

"""What SECURITY.md promises: nothing unpickled, no code of a model, no connection, no path told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What the interpreter itself says that it does, in a process whose commands are ncfast's.
WATCHED = """
import json, sys
seen = []
def hook(event, arguments):
    if event == "pickle.find_class" or event == "socket.connect" or event == "socket.getaddrinfo":
        seen.append([event, repr(arguments)])
from ncfast.cli import main
import torch, transformers, ncfast.measure, ncfast.finetune, ncfast.training
sys.addaudithook(hook)
code = 0
for words in json.loads(sys.argv[1]):
    code = code or main(words)
print("SEEN " + json.dumps(seen))
sys.exit(code)
"""
FAILURE = 2


@pytest.fixture
def here(tiny_model, tiny_text, tmp_path, monkeypatch):
    shutil.copytree(tiny_model("masked"), tmp_path / "model")
    shutil.copy(tiny_text, tmp_path / "text.txt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(commands, folder, **environment):
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, json.dumps(commands)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "0"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    line = [line for line in done.stdout.splitlines() if line.startswith("SEEN ")]
    return done, json.loads(line[-1][5:]) if line else None


MEASURE = ["measure", "model", "text.txt", "--words", "gender", "--bootstrap", "0", "--quiet"]
MEASURE += ["--controls", "random:1"]
FINETUNE = ["finetune", "model", "text.txt", "--steps", "2", "--nc3", "1", "--block-size", "16"]
FINETUNE += ["--measure-tokens", "100", "--quiet", "--out", "tuned"]


def test_nothing_is_unpickled_no_connection_is_made_and_no_path_is_told(here):
    commands = [
        [*MEASURE, "--out", "one"],
        [*MEASURE, "--out", "one", "--resume"],
        ["compare", "one", "one", "--names", "a", "b", "--out", "both", "--quiet"],
        FINETUNE,
        [*FINETUNE, "--resume"],
    ]
    done, seen = run(commands, here)
    assert done.returncode == 0, done.stderr[-3000:]
    assert seen == []
    written = [f for name in ("one", "both", "tuned") for f in (here / name).rglob("*")]
    texts = [f for f in written if f.suffix in (".json", ".html", ".md", ".csv", ".jsonl")]
    assert len(texts) > 8
    for file in texts:
        text = file.read_text(encoding="utf-8")
        for told in (str(here), str(Path.home()), str(ROOT)):
            if told != "/":
                assert told not in text, (file.relative_to(here), told)


def test_the_watch_itself_sees_a_pickle_and_a_connection(here):
    watched = WATCHED.replace(
        "code = 0\n",
        "import pickle, collections, socket\n"
        "pickle.loads(pickle.dumps(collections.OrderedDict()))\n"
        "try:\n    socket.create_connection(('127.0.0.1', 9), 0.1)\nexcept OSError:\n    pass\n"
        "code = 0\n",
    )
    done = subprocess.run(
        [sys.executable, "-c", watched, "[]"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    events = {event for event, _ in json.loads(done.stdout.splitlines()[-1][5:])}
    assert {"pickle.find_class", "socket.connect"} <= events


def test_code_that_comes_with_a_model_does_not_run(here):
    config = json.loads((here / "model/config.json").read_text())
    config["model_type"] = "theirs"
    config["auto_map"] = {
        "AutoConfig": "theirs.TheirConfig",
        "AutoModelForMaskedLM": "theirs.TheirModel",
    }
    (here / "model/config.json").write_text(json.dumps(config))
    (here / "model/theirs.py").write_text("open('RAN', 'w').write('yes')\n")
    for words in ([*MEASURE, "--out", "one"], FINETUNE, ["evaluate", "model", "--on", "bec-pro"]):
        done, _ = run([words], here)
        assert done.returncode == FAILURE, words
        assert "Traceback" not in done.stderr
        assert not (here / "RAN").exists()
        assert not list(here.rglob("RAN"))


class Payload:
    """Run a command when unpickled."""

    def __reduce__(self):
        return os.system, ("touch RAN",)


def test_a_checkpoint_that_is_a_pickle_runs_nothing(here):
    # torch's restricted loader, which makes tensors and nothing else, reads a .bin checkpoint.
    import torch

    (here / "model/model.safetensors").unlink()
    torch.save({"weight": Payload()}, here / "model/pytorch_model.bin")
    done, seen = run([[*MEASURE, "--out", "one"]], here)
    assert done.returncode == FAILURE
    assert "Traceback" not in done.stderr
    assert not list(here.rglob("RAN"))
    assert not [event for event, _ in seen if event == "pickle.find_class"]

"""What SECURITY.md promises: nothing unpickled, no code of a model, no connection, no path told."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What the interpreter itself says that it does, in a process whose commands are ncfast's. At its
# end it opens a pickle and a connection itself: what watches has to see them.
WATCHED = """
import collections, json, pickle, socket, sys
seen, found = [], []
def hook(event, arguments):
    if event == "pickle.find_class" or event == "socket.connect" or event == "socket.getaddrinfo":
        seen.append([event, repr(arguments)])
from ncfast.cli import main
import torch, transformers, ncfast.measure, ncfast.finetune, ncfast.training
sys.addaudithook(hook)
for words in json.loads(sys.argv[1]):
    print("$", *words, file=sys.stderr, flush=True)
    found.append([words, main(words), seen[:]])
    seen.clear()
pickle.loads(pickle.dumps(collections.OrderedDict()))
try:
    socket.create_connection(("127.0.0.1", 9), 0.1)
except OSError:
    pass
print("FOUND " + json.dumps([found, seen]))
"""
FAILURE = 2
OPTIONS = ["--words", "gender", "--bootstrap", "0", "--quiet", "--controls", "random:1"]


def measure(model, *more):
    return ["measure", model, "text.txt", *OPTIONS, *more]


def finetune(model, *more):
    steps = ["--steps", "2", "--nc3", "1", "--block-size", "16", "--measure-tokens", "100"]
    return ["finetune", model, "text.txt", *steps, "--quiet", "--out", f"tuned-{model}", *more]


GOOD = [
    measure("model", "--out", "one"),
    measure("model", "--out", "one", "--resume"),
    ["compare", "one", "one", "--names", "a", "b", "--out", "both", "--quiet"],
    finetune("model"),
    finetune("model", "--resume"),
]
CODE = [
    measure("with-code", "--out", "two"),
    finetune("with-code"),
    ["evaluate", "with-code", "--on", "bec-pro"],
]
PICKLE = [measure("pickled", "--out", "three")]


class Payload:
    """Run a command when unpickled."""

    def __reduce__(self):
        return os.system, ("touch RAN",)


def write_models(folder: Path, model: Path) -> None:
    """Write a model, one that brings code of its own, and one whose checkpoint is a pickle."""
    import torch

    for name in ("model", "with-code", "pickled"):
        shutil.copytree(model, folder / name)
    config = json.loads((folder / "with-code/config.json").read_text())
    config["model_type"] = "theirs"
    config["auto_map"] = {
        "AutoConfig": "theirs.TheirConfig",
        "AutoModelForMaskedLM": "theirs.TheirModel",
    }
    (folder / "with-code/config.json").write_text(json.dumps(config))
    (folder / "with-code/theirs.py").write_text("open('RAN', 'w').write('yes')\n")
    # torch's restricted loader, which makes tensors and nothing else, reads a .bin checkpoint.
    (folder / "pickled/model.safetensors").unlink()
    torch.save({"weight": Payload()}, folder / "pickled/pytorch_model.bin")


@pytest.fixture(scope="module")
def here(tiny_model, tiny_text, tmp_path_factory):
    """Return a folder where every command was run, all in one process: it takes long to start.

    What a process does once, at its first command, it does in one of which everything is promised.
    """
    folder = tmp_path_factory.mktemp("promises")
    write_models(folder, tiny_model("masked"))
    shutil.copy(tiny_text, folder / "text.txt")
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, json.dumps([*GOOD, *CODE, *PICKLE])],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert done.returncode == 0, done.stderr[-3000:]
    assert lines, done.stdout + done.stderr[-3000:]
    (folder / "found.json").write_text(lines[-1][6:])
    (folder / "stderr").write_text(done.stderr)
    return folder


def found_by(commands, here):
    """Return the exit codes of some commands, what the watch saw, and what they complained of."""
    rows = [row for row in json.loads((here / "found.json").read_text())[0] if row[0] in commands]
    assert [words for words, _, _ in rows] == commands
    parts = re.split(r"^\$ ", (here / "stderr").read_text(), flags=re.MULTILINE)
    said = dict(part.partition("\n")[::2] for part in parts)
    texts = [said[" ".join(words)] for words in commands]
    return [code for _, code, _ in rows], [event for *_, seen in rows for event in seen], texts


def test_nothing_is_unpickled_no_connection_is_made_and_no_path_is_told(here):
    codes, seen, said = found_by(GOOD, here)
    assert codes == [0] * len(GOOD), said
    assert seen == []
    written = [f for name in ("one", "both", "tuned-model") for f in (here / name).rglob("*")]
    texts = [f for f in written if f.suffix in (".json", ".html", ".md", ".csv", ".jsonl")]
    assert len(texts) > 8
    for file in texts:
        text = file.read_text(encoding="utf-8")
        for told in (str(here), str(Path.home()), str(ROOT)):
            if told != "/":
                assert told not in text, (file.relative_to(here), told)


def test_the_watch_itself_sees_a_pickle_and_a_connection(here):
    events = {event for event, _ in json.loads((here / "found.json").read_text())[1]}
    assert {"pickle.find_class", "socket.connect"} <= events


def test_code_that_comes_with_a_model_does_not_run(here):
    codes, seen, said = found_by(CODE, here)
    assert codes == [FAILURE] * len(CODE)
    assert seen == []
    assert all(text and "Traceback" not in text for text in said), said
    assert not list(here.rglob("RAN"))


def test_a_checkpoint_that_is_a_pickle_runs_nothing(here):
    codes, seen, said = found_by(PICKLE, here)
    assert codes == [FAILURE]
    assert said[0]
    assert "Traceback" not in said[0]
    assert not list(here.rglob("RAN"))
    assert not [event for event, _ in seen if event == "pickle.find_class"]

"""``accelerate launch``: the Trainer on two processes gives what it gives on one."""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(Path(__file__).with_name("launched_trainer.py"))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _launch(folder, out, ranks):
    # Its --cpu starts several processes through MPI only; --multi_gpu is torchrun, which
    # ACCELERATE_USE_CPU keeps off any GPU.
    launch = ["--multi_gpu", "--num_machines", "1", "--num_processes", str(ranks)]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", str(_free_port())]
    words = [sys.executable, "-m", "accelerate.commands.launch", *launch, SCRIPT]
    path = os.pathsep.join(map(str, (ROOT, os.environ.get("PYTHONPATH", ""))))
    fixed = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*words, folder, str(out), str(ranks)],
        capture_output=True,
        text=True,
        env=os.environ | fixed,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_launched_processes_equal_one(tiny_model, tmp_path):
    folder = str(tiny_model("causal"))
    places = {ranks: tmp_path / str(ranks) for ranks in (1, 2)}
    for place in places.values():
        place.mkdir()
    runpy.run_path(SCRIPT)["main"](folder, places[1], 1)
    _launch(folder, places[2], 2)
    one, two = (torch.load(place / "run.pt") for place in places.values())
    for name, parameter in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], parameter, rtol=1e-4, atol=1e-6, msg=name)
    assert two["evaluated"] == pytest.approx(one["evaluated"], rel=1e-4)
    assert len(one["history"]) == len(two["history"]) == 4
    for a, b in zip(one["history"], two["history"], strict=True):
        assert b["nc/nc3"] == pytest.approx(a["nc/nc3"], rel=1e-3)
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-3)

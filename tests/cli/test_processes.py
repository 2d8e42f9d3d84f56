"""``ncfast measure`` as torchrun and accelerate start it; ranks that are killed or stand still."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.forked import Forked

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="sends signals to processes"),
]
ROOT = Path(__file__).resolve().parents[2]
COMMON = "--block-size 32 --batch-size 7 --controls random:1 --bootstrap 20 --dtype float64"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join(map(str, (ROOT, os.environ.get("PYTHONPATH", ""))))
    fixed = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return os.environ | fixed | more


def _start(rank: int, port: int, words: list[str]) -> Forked:
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return Forked(["-m", "ncfast", *words], _environment(**place))


def _position(state: Path) -> int:
    """Read how many batches a state holds out of the text in its header."""
    text = state.read_bytes() if state.exists() else b""
    found = re.search(rb'position\\*": (\d+)', text)
    return int(found[1]) if found else 0


def _metrics(folder: Path) -> tuple[dict, dict]:
    report = json.loads((folder / "report.json").read_text())
    return report["tokens"], {
        (name, key): value
        for name, found in report["sets"].items()
        for key, value in found["metrics"].items()
        if not key.endswith("_margin")  # how far what is rounding lies from the cut
        if value is not None
    }


@pytest.fixture(scope="module")
def alone(tiny_model, tiny_text, tmp_path_factory):
    """The words of a measurement, and what one process finds."""
    from ncfast.cli import main

    folder = tmp_path_factory.mktemp("alone")
    words = ["measure", str(tiny_model("masked")), str(tiny_text), *COMMON.split()]
    words += ["--mask-passes", "6"]
    assert main([*words, "--quiet", "--out", str(folder)]) == 0
    return words, _metrics(folder)


LAUNCHERS = {
    "torchrun": "torch.distributed.run --nproc-per-node 2 --master-port PORT",
    "accelerate": "accelerate.commands.launch --multi_gpu --num_machines 1 --num_processes 2 "
    "--mixed_precision no --dynamo_backend no --main_process_port PORT",
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launched_processes_report_what_one_does_once(launcher, alone, tmp_path):
    words, (tokens, expected) = alone
    launch = LAUNCHERS[launcher].replace("PORT", str(_free_port())).split()
    command = [sys.executable, "-m", *launch, "-m", "ncfast", *words, "--out", str(tmp_path)]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Report: ") == 1
    found = _metrics(tmp_path)
    assert found[0] == tokens
    assert found[1] == pytest.approx(expected, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_rank_that_is_lost_ends_the_other_in_a_sentence_and_both_resume(how, alone, tmp_path):
    words, (tokens, expected) = alone
    words = [*words, "--quiet", "--save-every", "0", "--rank-timeout", "20", "--out", str(tmp_path)]
    ranks = [_start(rank, port, words) for port in [_free_port()] for rank in (0, 1)]
    try:
        until = time.monotonic() + 120
        while not _position(tmp_path / "statistics.safetensors") > 3:
            assert time.monotonic() < until
            assert ranks[0].poll() is None, ranks[0].read(1)
            time.sleep(0.01)
        ranks[1].send_signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        _, said = ranks[0].communicate(timeout=60)
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert ranks[0].returncode == 2
    mine = [line for line in said.splitlines() if line.startswith("ncfast")]
    assert len(mine) == 1
    assert "ncfast measure: error: rank 0 of 2 lost another process" in mine[0]
    assert "go on with --resume" in mine[0]
    assert "Traceback" not in said
    ranks = [_start(rank, port, [*words, "--resume"]) for port in [_free_port()] for rank in (0, 1)]
    for rank in ranks:
        _, said = rank.communicate(timeout=120)
        assert rank.returncode == 0, said[-3000:]
    found = _metrics(tmp_path)
    assert found[0] == tokens
    assert found[1] == pytest.approx(expected, rel=1e-10, abs=1e-10)


def test_commands_that_share_nothing_are_rejected_once():
    ranks = [_start(rank, 1, ["doctor"]) for rank in (0, 1)]
    said = [rank.communicate()[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2]
    assert "doctor in 2 processes; expected one" in said[0]
    assert said[1] == ""

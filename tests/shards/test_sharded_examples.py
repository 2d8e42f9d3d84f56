"""The examples for FSDP2 and tensor parallelism: two ranks end where one does."""

from __future__ import annotations

import json
import os
import re
import socket
from pathlib import Path

import pytest
from torch import distributed

from tests.forked import Forked

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not distributed.is_gloo_available(), reason="torch was built without gloo"),
]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def folder(request, tiny_model, tmp_path_factory):
    """Return a causal model without dropout, its head tied or not."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("model")
    for file in Path(tiny_model("causal")).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {"tie_word_embeddings": request.param}
    config |= {f"{kind}_pdrop": 0.0 for kind in ("resid", "embd", "attn")}
    (folder / "config.json").write_text(json.dumps(config))
    model = AutoModelForCausalLM.from_pretrained(folder)
    if not request.param:
        model.lm_head.weight.data = model.transformer.wte.weight.data.clone().flip(0)
    model.save_pretrained(folder)
    return folder


def last_line(example: str, ranks: int, folder: Path, text: Path) -> tuple[float, int]:
    """Return the loss after training, and how many rows of the head rank 0 holds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # What torchrun tells the processes that it starts.
    place = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    place |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [ROOT / "examples" / example, folder, text]
    started = [
        Forked(words, os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, ROOT)
        for rank in range(ranks)
    ]
    said = [process.communicate(timeout=300) for process in started]
    found = re.search(r"loss ([\d.]+), (\d+) rows on rank 0", said[0][0])
    # Once in some twenty runs on busy cores a thread of torch's, not of the example, ends a rank as
    # Python does, after all is computed (torch 2.13, FSDP2 on gloo).
    for process, (_, complaint) in zip(started, said, strict=True):
        at_exit = found and "terminate called without an active exception" in complaint
        assert process.returncode == 0 or at_exit, complaint[-3000:]
    return float(found[1]), int(found[2])


@pytest.mark.parametrize("example", ["fsdp2.py", "tensor_parallel.py"])
def test_two_ranks_end_where_one_does(example, folder, tiny_text):
    alone, whole = last_line(example, 1, folder, tiny_text)
    both, half = last_line(example, 2, folder, tiny_text)
    assert half == -(-whole // 2)
    assert both == pytest.approx(alone, abs=2e-4)

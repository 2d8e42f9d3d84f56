"""The examples for FSDP2 and tensor parallelism: two ranks end where one does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch import distributed

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
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", str(ranks), str(ROOT / "examples" / example)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, str(folder), str(text)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    found = re.search(r"loss ([\d.]+), (\d+) rows on rank 0", done.stdout)
    # Once in some twenty runs on busy cores a thread of torch's, not of the example, ends a rank as
    # Python does, after all is computed (torch 2.13, FSDP2 on gloo).
    at_exit = found and "terminate called without an active exception" in done.stderr
    assert done.returncode == 0 or at_exit, done.stderr[-3000:]
    return float(found[1]), int(found[2])


@pytest.mark.parametrize("example", ["fsdp2.py", "tensor_parallel.py"])
def test_two_ranks_end_where_one_does(example, folder, tiny_text):
    alone, whole = last_line(example, 1, folder, tiny_text)
    both, half = last_line(example, 2, folder, tiny_text)
    assert half == -(-whole // 2)
    assert both == pytest.approx(alone, abs=2e-4)

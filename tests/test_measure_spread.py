"""``ncfast measure`` of a model that lies on several devices finds what one device finds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import distributed

from ncfast.language import LanguageError, LanguageModel
from ncfast.measure import measure
from ncfast.ranks import Ranks
from tests.forked import run_ranks
from tests.test_measure_ranks import _assert_equal, _attempt, _read, _stopping_after

SETTINGS = dict(
    block_size=32,
    batch_size=7,
    controls="random:1,matched",
    bootstrap=20,
    progress=False,
    dtype=torch.float64,
)
KINDS = ("untied", "tied")


def _llama(folder: Path, tiny: Path, tied: bool) -> str:
    import transformers as t

    tokenizer = t.AutoTokenizer.from_pretrained(tiny)
    tokenizer.save_pretrained(folder)
    config = t.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        initializer_range=0.3,
    )
    torch.manual_seed(1)
    t.LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def places(tiny_model, tiny_text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("spread")
    lines = tiny_text.read_text().splitlines()
    found = {kind: _llama(folder / kind, tiny_model("causal"), kind == "tied") for kind in KINDS}
    for name, part in {"text": lines[:120], "other": lines[400:430]}.items():
        (folder / f"{name}.txt").write_text("\n".join(part) + "\n")
        found[name] = str(folder / f"{name}.txt")
    return found | {"no plan": str(tiny_model("masked"))}


def _rank(rank, places, out):
    from ncfast.measure import one_pass

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    store = f"file://{out}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    ranks, out, said = Ranks.current(), Path(out), {}

    def spread(kind, **more):
        given = {**SETTINGS, "tensor_parallel": 2, **more}
        return measure(places[kind], places["text"], ranks=ranks, **given)

    for kind in KINDS:
        spread(kind, out=out / kind, nc4=places["other"])
    real, one_pass.stop_request = one_pass.stop_request, _stopping_after(3)
    said["stop"] = _attempt(lambda: spread("tied", out=out / "stopped", layers="all"))
    one_pass.stop_request = real
    spread("tied", out=out / "stopped", layers="all", resume=True)
    model = LanguageModel.load(places["untied"], progress=False, tensor_parallel=2)
    said["parts"] = {
        name: list(p.to_local().shape) if hasattr(p, "to_local") else list(p.shape)
        for name, p in model.model.named_parameters()
    }
    said["no plan"] = _attempt(lambda: spread("no plan"))
    said["too many"] = _attempt(lambda: spread("tied", tensor_parallel=4))
    said["both"] = _attempt(lambda: spread("tied", device_map="auto"))
    (out / f"said{rank}.json").write_text(json.dumps(said))
    distributed.barrier()
    os._exit(0)


@pytest.fixture(scope="module")
def two(places, tmp_path_factory):
    if not distributed.is_gloo_available():
        pytest.skip("needs gloo")
    pytest.importorskip("transformers.distributed", reason="transformers has no tensor parallelism")
    out = tmp_path_factory.mktemp("two")
    run_ranks(_rank, (places, str(out)))
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_that_hold_one_model_find_what_one_process_finds(kind, two, places, tmp_path):
    measure(places[kind], places["text"], out=tmp_path, nc4=places["other"], **SETTINGS)
    found, one = _read(two / kind), _read(tmp_path)
    _assert_equal(found, one, 1e-9)
    assert found["settings"]["tensor_parallel"] == found["settings"]["processes"] == 2
    assert one["settings"]["tensor_parallel"] == 1


def test_ranks_that_hold_one_model_go_on_where_they_were_stopped(two, places, tmp_path):
    measure(places["tied"], places["text"], out=tmp_path, layers="all", **SETTINGS)
    for rank in (0, 1):
        said = json.loads((two / f"said{rank}.json").read_text())
        assert said["stop"][0] == "MeasureInterrupted"
    _assert_equal(_read(two / "stopped"), _read(tmp_path), 1e-9)


def test_layers_are_split_and_the_head_is_whole(two, places):
    whole = LanguageModel.load(places["untied"], progress=False).model
    parts = json.loads((two / "said1.json").read_text())["parts"]
    sizes = {name: list(p.shape) for name, p in whole.named_parameters()}
    split = {name for name, size in sizes.items() if parts[name] != size}
    assert len(split) == 15  # seven matrices of two layers, and the embedding
    assert "lm_head.weight" not in split


SENTENCES = {
    "no plan": "tensor_parallel=2 with BertForMaskedLM, for whose layers transformers has no plan",
    "too many": "tensor_parallel=4 with 2 ranks; expected as many",
    "both": "device_map='auto' in 2 processes, which would share the devices; expected one",
}


@pytest.mark.parametrize("name", SENTENCES)
def test_what_cannot_be_spread_is_said_once(name, two):
    said = [json.loads((two / f"said{rank}.json").read_text())[name] for rank in (0, 1)]
    assert SENTENCES[name] in said[0][1]
    assert said[1][0] == "SaidByAnother"


def test_a_device_map_gives_the_same_report(places, tmp_path):
    for name, more in {"one": {}, "map": {"device_map": "auto"}}.items():
        measure(places["tied"], places["text"], out=tmp_path / name, **SETTINGS, **more)
    _assert_equal(_read(tmp_path / "map"), _read(tmp_path / "one"), 1e-10)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"device_map": "nowhere"}, "device_map='nowhere'; expected one of auto, balanced"),
        ({"tensor_parallel": 2}, "tensor_parallel=2 in 1 processes; expected as many: torchrun"),
    ],
)
def test_what_cannot_be_is_told(given, message, places):
    with pytest.raises(LanguageError, match=message):
        LanguageModel.load(places["tied"], progress=False, **given)

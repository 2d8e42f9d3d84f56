"""``--layers``: every layer in one pass, with the numbers of a pass of its own, and resumable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ncfast import ClassStatistics, neural_collapse
from ncfast.catalogue import LEADING
from ncfast.language import Corpus, LanguageError, LanguageModel
from ncfast.language.layers import LayerFeatures, parse_layers
from ncfast.measure import measure
from ncfast.measure.one_pass import MeasurePass
from ncfast.reporting import measured, read_report, render_markdown, render_page

SMALL = dict(block_size=32, batch_size=8, controls="matched", bootstrap=0, progress=False)


@pytest.fixture(scope="module")
def causal(tiny_model, tiny_text, tmp_path_factory) -> dict:
    """Return the report of a causal model with every layer."""
    folder = tmp_path_factory.mktemp("layers")
    return measure(
        str(tiny_model("causal")), str(tiny_text), out=folder, layers="all", **SMALL
    ).report


def by_hand(folder: Path, text: Path, number: int, lens: bool) -> dict[str, float]:
    """Measure one layer of a causal model from transformers' own hidden states."""
    model = LanguageModel.load(folder, progress=False)
    corpus = Corpus.from_spec([str(text)], model.tokenizer, block_size=32, progress=False)
    stats = ClassStatistics(model.vocab_size, model.hidden_size, scatter=False)
    special = torch.tensor(sorted(model.special_ids))
    for batch in corpus.batches(8):
        with torch.no_grad():
            found = model.model(
                batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True
            ).hidden_states[number]
            if lens and number < len(model.model.transformer.h):
                found = model.model.transformer.ln_f(found)
        labels = batch.input_ids.roll(-1, 1)
        ignored = torch.isin(labels, special) | (batch.attention_mask.roll(-1, 1) == 0)
        ignored[:, -1] = True
        stats.update(found, torch.where(ignored, -100, labels))
    return neural_collapse(stats, model.head_weight.detach() if lens else None).to_dict()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_layer_is_what_a_pass_of_its_own_finds(causal, tiny_model, tiny_text, number):
    expected = by_hand(tiny_model("causal"), tiny_text, number, lens=True)
    found = causal["layers"]["points"][number]["sets"]["vocabulary"]
    assert found["tokens"] == expected["tokens"]
    for key in ("cdnv_mean", "norm_cov", "nc3_mean", "unc3_std", "nc1w_mean", "log_distance_mean"):
        assert found[key] == pytest.approx(expected[key], rel=1e-5), key
    assert causal["layers"]["final_norm"] is True


def test_the_last_layer_of_a_causal_model_is_what_enters_its_head(causal):
    last = causal["layers"]["points"][-1]
    assert last["layer"] == causal["layers"]["count"] == 2
    for name in ("vocabulary", "gender", "gender/matched"):
        for key in set(LEADING) - {"nc4_agreement"}:
            value = causal["sets"][name]["metrics"][key]
            assert last["sets"][name][key] == pytest.approx(value, rel=1e-9), (name, key)
    first = causal["layers"]["points"][0]["sets"]["vocabulary"]
    assert first["nc3_mean"] != last["sets"]["vocabulary"]["nc3_mean"]


def test_layers_of_a_model_in_16_bits_are_known_as_coarsely_as_it(
    tiny_model, tiny_text, monkeypatch
):
    seen = []

    def noting(stats, *args, **how):
        seen.append(stats.feature_roundoff)
        return neural_collapse(stats, *args, **how)

    monkeypatch.setattr("ncfast.measure.layers.neural_collapse", noting)
    model, text = str(tiny_model("causal")), str(tiny_text)
    measure(model, text, layers=[-1], dtype=torch.bfloat16, **SMALL)
    assert set(seen) == {torch.finfo(torch.bfloat16).eps / 2}


@pytest.mark.parametrize("kind", ["masked", "encoder", "causal"])
def test_without_a_head_there_is_no_nc3(tiny_model, tiny_text, kind):
    found = measure(
        str(tiny_model(kind)), str(tiny_text), layers=[0, -1], layers_head="none", **SMALL
    ).report
    layers = found["layers"]
    assert [point["layer"] for point in layers["points"]] == [0, 2]
    assert (layers["head"], layers["final_norm"]) == ("none", False)
    for point in layers["points"]:
        assert {"nc3_mean", "nc1w_mean"}.isdisjoint(point["sets"]["vocabulary"])
        assert point["sets"]["vocabulary"]["cdnv_mean"] > 0
    assert "layers" in found["settings"]


def test_specials_are_classes_where_the_preset_says_so(tiny_model, tiny_text):
    found = measure(
        str(tiny_model("masked")), str(tiny_text), preset="official", layers="all", **SMALL
    ).report
    point = found["layers"]["points"][-1]["sets"]["vocabulary"]
    assert point["tokens"] == found["sets"]["vocabulary"]["metrics"]["tokens"]


def test_features_are_the_same_beside_layers(tiny_model):
    model = LanguageModel.load(tiny_model("masked"), progress=False)
    ids = torch.arange(5, 25).reshape(2, 10)
    with torch.no_grad():
        features, layers = LayerFeatures(model)(ids, torch.ones_like(ids))
        assert torch.equal(features, model.features(ids, torch.ones_like(ids)))
    assert [tuple(state.shape) for state in layers] == [(2, 10, 16)] * 3
    assert not model.model.base_model._forward_hooks
    assert not model.model.base_model._forward_pre_hooks


@pytest.mark.parametrize("before", ["the layers' file", "the state's file"])
def test_a_stop_between_two_files_goes_on_to_the_same_digits(
    tiny_model, tiny_text, tmp_path, monkeypatch, before, causal
):
    command = dict(layers="all", save_every_seconds=0.0, out=tmp_path, **SMALL)
    save, calls = ClassStatistics.save, []

    def dying(self, path, metadata=None):
        calls.append(Path(path).name)
        wanted = "layers-" if before == "the layers' file" else "statistics"
        if len(calls) > 6 and calls[-1].startswith(wanted):
            raise OSError("no space left")
        save(self, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(ClassStatistics, "save", dying)
        with pytest.raises(OSError, match="no space"):
            measure(str(tiny_model("causal")), str(tiny_text), **command)
    assert not (tmp_path / "report.json").exists()
    steps = []
    step = MeasurePass._step
    monkeypatch.setattr(
        MeasurePass, "_step", lambda s, *a: steps.append(s.counters.position) or step(s, *a)
    )
    found = measure(str(tiny_model("causal")), str(tiny_text), resume=True, **command).report
    assert steps[0] > 0  # it went on, not anew
    assert measured(found) == measured(causal)
    assert len(list(tmp_path.glob("layers-*.safetensors"))) == 1


def test_layers_of_another_run_are_not_gone_on_with(tiny_model, tiny_text, tmp_path):
    model, text = str(tiny_model("causal")), str(tiny_text)
    measure(model, text, layers="all", out=tmp_path, **SMALL)
    with pytest.raises(ValueError, match="layers is"):
        measure(model, text, layers=[0], out=tmp_path, resume=True, **SMALL)
    (state,) = tmp_path.glob("layers-*.safetensors")
    kept = state.read_bytes()
    state.unlink()
    with pytest.raises(ValueError, match=r"layers-\d+\.safetensors: missing"):
        measure(model, text, layers="all", out=tmp_path, resume=True, **SMALL)
    damaged = bytearray(kept)
    damaged[-9] ^= 1
    state.write_bytes(bytes(damaged))
    with pytest.raises(ValueError, match="layers-"):
        measure(model, text, layers="all", out=tmp_path, resume=True, **SMALL)
    measure(model, text, out=tmp_path, force=True, **SMALL)
    assert not list(tmp_path.glob("layers-*"))


@pytest.mark.parametrize(
    ("layers", "named"),
    [("5", "layers 0"), ("some", "'some'"), ("2-1", "'2-1'"), ("", "''"), ([-9], "-9")],
)
def test_layers_that_are_not_there_are_named(tiny_model, tiny_text, layers, named):
    with pytest.raises(LanguageError, match=named):
        measure(str(tiny_model("causal")), str(tiny_text), layers=layers, **SMALL)
    assert parse_layers("0,2-4,-1") == [0, 2, 3, 4, -1]


def test_the_page_draws_a_curve_per_metric(causal):
    page, text = render_page(causal), render_markdown(causal)
    assert page.count('aria-labelledby="layers-') == 8
    assert 'class="line whole"' in page
    assert "### Layers of gender" in text
    assert "through the model's final norm" in text
    json.dumps(causal["layers"], allow_nan=False)


def test_the_command_states_the_memory_first(tiny_model, tiny_text, tmp_path, capsys):
    from ncfast.cli import main

    command = ["measure", str(tiny_model("causal")), str(tiny_text), "--out", str(tmp_path / "o")]
    assert main([*command, "--layers", "1-2", "--bootstrap", "0", "--controls", "matched"]) == 0
    printed, told = capsys.readouterr()
    assert "2 layers of " in told
    assert "MB of statistics" in told
    assert told.index("MB of statistics") < told.index("measuring")
    assert "== Layers of gender ==" in printed
    assert [p["layer"] for p in read_report(tmp_path / "o")["layers"]["points"]] == [1, 2]

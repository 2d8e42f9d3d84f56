"""NC4 on held-out text, intervals, drawn pairs and the reference, as measure() gives them."""

from __future__ import annotations

import math
import signal
from pathlib import Path

import pytest
import torch

from ncfast.language import LanguageError, LanguageModel
from ncfast.measure import measure
from ncfast.measure.heldout import HeldOutText
from ncfast.measure.metrics import MetricsPlan
from ncfast.measure.one_pass import MeasureInterrupted, MeasurePass
from ncfast.reporting import measured, read_report

SETTINGS = dict(
    batch_size=8, block_size=32, controls="random:2,matched", progress=False, bootstrap=20
)


@pytest.fixture
def other_text(tiny_text, tmp_path) -> Path:
    """Return a text of the same words in another order."""
    words = tiny_text.read_text().split()
    path = tmp_path / "other.txt"
    path.write_text("\n".join(" ".join(words[i::97]) for i in range(40)) + "\n")
    return path


def _decisions(model: LanguageModel, stats, path: Path, shift: int, bias: bool):
    """Yield (class, whether both agree) for every token, in float64 and without ncfast's ops."""
    tokenizer, special = model.tokenizer, set(model.tokenizer.all_special_ids)
    ids = []
    for line in path.read_text().splitlines():
        ids += [tokenizer.sep_token_id] if ids else []
        ids += tokenizer(line, add_special_tokens=False)["input_ids"]
    present = (stats.counts > 0).nonzero()[:, 0]
    weight, means = model.head_weight.detach().double()[present], stats.means.double()[present]
    added = model.head_bias.detach().double()[present] if bias else 0.0
    for start in range(0, len(ids), 30):
        block = [tokenizer.cls_token_id, *ids[start : start + 30], tokenizer.sep_token_id]
        with torch.no_grad():
            tokens = torch.tensor([block])
            features = model.features(tokens, torch.ones_like(tokens))[0].double()
        chosen = (features @ weight.T + added).argmax(1)
        nearest = torch.cdist(features, means).argmin(1)
        for position in range(len(block) - shift):
            if block[position + shift] not in special:
                yield block[position + shift], bool(chosen[position] == nearest[position])


@pytest.mark.parametrize(
    ("kind", "labels", "preset"),
    [
        ("causal", "next", "ncfast"),
        ("masked", "self", "ncfast"),
        ("masked", "self", "linguistic-collapse"),
    ],
)
def test_agreement_is_the_definition(kind, labels, preset, tiny_model, tiny_text, other_text):
    folder = str(tiny_model(kind))
    model = LanguageModel.load(folder, progress=False)
    if kind == "masked":  # a bias that decides
        with torch.no_grad():
            model.head_bias.copy_(torch.linspace(-1, 1, len(model.head_bias)))
    result = measure(
        model, str(tiny_text), labels=labels, preset=preset, nc4=str(other_text), **SETTINGS
    )
    bias = kind == "masked" and preset == "ncfast"
    shift = 1 if labels == "next" else 0
    decisions = list(_decisions(model, result.stats, other_text, shift, bias))
    sets, held_out = result.report["sets"], result.report["held_out"]
    assert held_out["kept"] == len(decisions)
    assert held_out["bias"] == bias
    for name in ("vocabulary", "gender", "gender/matched"):
        rows = sets[name]["per_class"]
        classes = None if rows is None else {row["id"] for row in rows}
        agree = [same for y, same in decisions if classes is None or y in classes]
        assert sets[name]["metrics"]["nc4_agreement"] == pytest.approx(sum(agree) / len(agree))
    mean = sets["gender"]["random_controls"]["mean"]["nc4_agreement"]
    assert sets["gender"]["ratio_to_random"]["nc4_agreement"] == pytest.approx(
        sets["gender"]["metrics"]["nc4_agreement"] / mean
    )


def test_masked_held_out_text_is_described(tiny_model, tiny_text, other_text):
    report = measure(
        str(tiny_model("masked")),
        str(tiny_text),
        max_tokens=300,
        nc4=[str(other_text)],
        nc4_max_tokens=200,
        **SETTINGS,
    ).report
    held_out = report["held_out"]
    assert held_out["sources"] == [str(other_text)]
    assert held_out["tokens"] == 200
    assert held_out["kept"] + held_out["dropped"]["unmasked"] >= 200
    assert 0 < held_out["unseen"] < held_out["kept"] < 200
    assert report["timing"]["held_out_seconds"] > 0
    assert any("of the held-out text, only the first 200" in note for note in held_out["notes"])


def test_a_set_without_held_out_tokens_has_no_agreement(tiny_model, tiny_text, tmp_path):
    (tmp_path / "few.txt").write_text("bant bard bant bard balk bant\n")
    report = measure(
        str(tiny_model("encoder")), str(tiny_text), nc4=str(tmp_path / "few.txt"), **SETTINGS
    ).report
    gender = report["sets"]["gender"]
    assert gender["metrics"]["nc4_agreement"] is None
    assert gender["notes"]["nc4_agreement"] == "no held-out token of these classes"
    assert report["sets"]["vocabulary"]["metrics"]["nc4_agreement"] is not None


def test_the_measured_text_is_not_held_out(tiny_model, tiny_text, other_text, tmp_path):
    folder, text = str(tiny_model("encoder")), str(tiny_text)
    part = tmp_path / "part.txt"
    part.write_text("\n".join(tiny_text.read_text().splitlines()[100:400]))
    for same in (text, str(part)):
        with pytest.raises(LanguageError, match="is the measured text or a part of it"):
            measure(folder, text, nc4=same, out=tmp_path / "out", **SETTINGS)
    assert not (tmp_path / "out").exists()
    mixed = tmp_path / "mixed.txt"
    mixed.write_text(part.read_text() + "\n" + other_text.read_text())
    report = measure(folder, text, nc4=str(mixed), **SETTINGS).report
    assert 0.2 < report["held_out"]["overlap"] < 0.8
    assert any("also stands in the measured text" in n for n in report["held_out"]["notes"])


def test_the_second_pass_starts_anew_and_the_first_is_kept(
    tiny_model, tiny_text, other_text, tmp_path, monkeypatch
):
    folder, text = str(tiny_model("masked")), str(tiny_text)
    settings = dict(SETTINGS, nc4=str(other_text))
    whole = measure(folder, text, out=tmp_path / "whole", **settings)
    step, steps = HeldOutText._step, []

    def interrupting(self, *arguments, **named):
        steps.append(arguments[-1].index)
        if len(steps) == 2:
            signal.raise_signal(signal.SIGINT)
        step(self, *arguments, **named)

    monkeypatch.setattr(HeldOutText, "_step", interrupting)
    parts = tmp_path / "parts"
    with pytest.raises(MeasureInterrupted, match=r"after 2 of \d+ held-out batches"):
        measure(folder, text, out=parts, **settings)
    assert not (parts / "report.json").exists()
    monkeypatch.setattr(MeasurePass, "_step", None)  # the first pass must not run again
    resumed = measure(folder, text, out=parts, resume=True, **settings)
    assert steps[:3] == [0, 1, 0]
    assert measured(resumed.report) == measured(whole.report) == measured(read_report(parts))


def test_nc4_can_be_added_to_a_finished_measurement(
    tiny_model, tiny_text, other_text, tmp_path, monkeypatch
):
    folder, text = str(tiny_model("encoder")), str(tiny_text)
    first = measure(folder, text, out=tmp_path / "out", **SETTINGS).report
    assert "nc4_agreement" not in first["sets"]["vocabulary"]["metrics"]
    monkeypatch.setattr(MeasurePass, "_step", None)
    settings = dict(SETTINGS, nc4=str(other_text), out=tmp_path / "out")
    with pytest.raises(ValueError, match="nc4 is null there"):
        measure(folder, text, **settings)
    second = measure(folder, text, resume=True, **settings).report
    assert second["sets"]["vocabulary"]["metrics"]["nc4_agreement"] > 0


def test_an_interrupt_during_the_metrics_says_how_to_go_on(
    tiny_model, tiny_text, tmp_path, monkeypatch
):
    def interrupted(self, *arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(MetricsPlan, "run", interrupted)
    with pytest.raises(MeasureInterrupted, match=r"after (\d+) of \1 batches"):
        measure(str(tiny_model("encoder")), str(tiny_text), out=tmp_path, **SETTINGS)


def test_intervals_hold_the_values_and_hang_on_the_words(tiny_model, tiny_text):
    settings = {**SETTINGS, "bootstrap": 200}
    report = measure(str(tiny_model("encoder")), str(tiny_text), **settings).report
    sets, bootstrap = report["sets"], report["bootstrap"]
    assert bootstrap["sets"] == ["gender", "gender/matched"]
    assert (bootstrap["repeats"], bootstrap["level"]) == (200, 0.95)
    for name in bootstrap["sets"]:
        intervals = sets[name]["intervals"]
        for key, (low, high) in intervals.items():
            assert low <= sets[name]["metrics"][key] <= high, key
        assert intervals["cdnv_mean"][0] < intervals["cdnv_mean"][1]
        # Every repeat has fewer different classes, so their mean cosine is lower: it is said.
        assert "interference_mean" not in intervals
        assert sets[name]["notes"]["interference_mean"].startswith("no interval: ")
    assert sets["vocabulary"]["intervals"] == sets["gender/random-1"]["intervals"] == {}
    without = measure(
        str(tiny_model("encoder")), str(tiny_text), **{**SETTINGS, "bootstrap": 0}
    ).report
    assert without["bootstrap"] is None
    assert without["sets"]["gender"]["intervals"] == {}
    assert without["sets"]["gender"]["metrics"] == sets["gender"]["metrics"]


def test_drawn_pairs_have_standard_errors(tiny_model, tiny_text):
    folder, text = str(tiny_model("encoder")), str(tiny_text)
    exact = measure(folder, text, **SETTINGS).report["sets"]
    drawn = measure(folder, text, pairs=400, **SETTINGS).report
    errors = drawn["sets"]["vocabulary"]["standard_errors"]
    assert {"cdnv_mean", "log_distance_mean"} <= set(errors)
    for key in ("cdnv_mean", "log_distance_mean"):
        gap = drawn["sets"]["vocabulary"]["metrics"][key] - exact["vocabulary"]["metrics"][key]
        assert 0 < abs(gap) < 5 * errors[key]
    # Ten words have 45 pairs: fewer than were to be drawn, so all of them are visited.
    assert drawn["sets"]["gender"]["standard_errors"] == {}
    assert drawn["settings"]["pairs"] == 400


def test_histograms_of_pairs_count_every_pair(tiny_model, tiny_text):
    sets = measure(str(tiny_model("encoder")), str(tiny_text), **SETTINGS).report["sets"]
    for section in sets.values():
        classes = section["classes_present"]
        for name in ("pair_cosine", "pair_log_distance"):
            found = section["distributions"][name]
            assert found["edges"] == sets["vocabulary"]["distributions"][name]["edges"]
            total = sum(found["counts"]) + found["outside"] + found["coincident"]
            assert total == math.comb(classes, 2)


def test_a_reference_is_laid_beside(tiny_model, tiny_text, tmp_path):
    path = tmp_path / "published.csv"
    path.write_text("model,simcos_mean,simcos_var\na,-2,0.01\nb,2,0.04\n")
    report = measure(str(tiny_model("encoder")), str(tiny_text), reference=path, **SETTINGS).report
    found = report["reference"]["metrics"]["nc3_mean"]
    assert found["values"] == {"vocabulary": report["sets"]["vocabulary"]["metrics"]["nc3_mean"]}
    assert found["below"] == {"vocabulary": 0.5}
    with pytest.raises(FileNotFoundError):
        measure(str(tiny_model("encoder")), str(tiny_text), reference="no.csv", **SETTINGS)

"""measure() that is interrupted, damaged or finished: what goes on, and what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch

from ncfast.errors import DataError
from ncfast.language import LanguageModel
from ncfast.measure import measure
from ncfast.measure.counters import Counters
from ncfast.measure.identity import STATE_FILE
from ncfast.measure.one_pass import MeasureInterrupted, MeasurePass
from ncfast.reporting import measured, read_report
from ncfast.statistics import ClassStatistics
from tests.test_measure import SETTINGS, _tokens, finished_run  # noqa: F401, a fixture


def test_interrupted_and_resumed_is_the_same(tiny_model, tiny_text, tmp_path, monkeypatch):
    folder, text = str(tiny_model("masked")), str(tiny_text)
    settings = dict(SETTINGS, mask_passes=2)
    whole = measure(folder, text, out=tmp_path / "whole", **settings)
    parts = tmp_path / "parts"
    step, steps = MeasurePass._step, []

    def interrupting(self, mask_pass, batch):
        import signal

        steps.append(batch.index)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGINT)
        return step(self, mask_pass, batch)

    monkeypatch.setattr(MeasurePass, "_step", interrupting)
    with pytest.raises(MeasureInterrupted, match="after 3 of"):
        measure(folder, text, out=parts, **settings)
    with pytest.raises(DataError, match="unfinished"):
        measure(folder, text, out=parts, **settings)
    with pytest.raises(DataError, match="seed is 0 there, 1 here"):
        measure(folder, text, out=parts, resume=True, seed=1, **settings)
    resumed = measure(folder, text, out=parts, resume=True, **settings)
    assert measured(resumed.report) == measured(whole.report)
    assert len(steps) == 2 * -(-len(_tokens(tiny_text, LanguageModel.load(folder))) // 8)
    assert measured(read_report(parts)) == measured(whole.report)


def test_a_finished_report_is_kept(tiny_model, tiny_text, tmp_path):
    folder, text = str(tiny_model("encoder")), str(tiny_text)
    first = measure(folder, text, out=tmp_path, **SETTINGS)
    before = (tmp_path / "report.json").read_bytes()
    with pytest.raises(DataError, match=r"center is classes there, none here.*--force"):
        measure(folder, text, out=tmp_path, center="none", **SETTINGS)
    with pytest.raises(DataError, match="model is tiny-encoder there"):
        measure(str(tiny_model("causal")), text, out=tmp_path, **SETTINGS)
    assert (tmp_path / "report.json").read_bytes() == before
    # Other definitions need no second pass: the statistics are there.
    other = measure(folder, text, out=tmp_path, center="none", resume=True, **SETTINGS)
    for key in ("tokens", "forward_seconds"):
        assert other.report["timing"][key] == first.report["timing"][key]
    assert other.report["sets"]["gender"]["metrics"] != first.report["sets"]["gender"]["metrics"]


def test_weights_of_the_same_name_are_told_apart(tiny_model, tiny_text, tmp_path):
    model = LanguageModel.load(str(tiny_model("encoder")), progress=False)
    measure(model, str(tiny_text), out=tmp_path, **SETTINGS)
    with torch.no_grad():
        model.model.encoder.layer[1].output.dense.weight.mul_(1.01)
    with pytest.raises(DataError, match="weights is"):
        measure(model, str(tiny_text), out=tmp_path, resume=True, **SETTINGS)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\xff" * 64])
def test_a_damaged_state_is_refused_by_name(content, tiny_model, tiny_text, tmp_path):
    (tmp_path / "statistics.safetensors").write_bytes(content)
    for resume in (True, False):
        with pytest.raises(ValueError, match=r"statistics\.safetensors|unfinished"):
            measure(
                str(tiny_model("encoder")), str(tiny_text), out=tmp_path, resume=resume, **SETTINGS
            )
    assert (tmp_path / "statistics.safetensors").read_bytes() == content
    with pytest.raises(DataError, match="start anew with --force"):
        measure(str(tiny_model("encoder")), str(tiny_text), out=tmp_path, resume=True, **SETTINGS)


def test_counters_survive_as_metadata():
    counters = Counters(position=3, dropped={"padding": 2}, seconds=0.5)
    assert Counters.parse(json.loads(json.dumps(asdict(counters)))) == counters


def _in_counters(key, value):
    return lambda state: state["counters"].__setitem__(key, value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_in_counters("position", -5), "its counter position is -5; expected a whole number"),
        (_in_counters("position", 10**9), r"its position is 1000000000; expected 0 to \d+ batches"),
        (_in_counters("position", 1.5), "its counter position is 1.5"),
        (_in_counters("position", True), "its counter position is True"),
        (_in_counters("tokens", "many"), "its counter tokens is many"),
        (_in_counters("kept", 7), "counters and statistics disagree: kept is 7"),
        (_in_counters("dropped", {"padding": -1}), "its counter dropped is"),
        (_in_counters("dropped", [1]), "its counter dropped is"),
        (_in_counters("seconds", float("nan")), "its counter seconds is nan; expected a number"),
        (_in_counters("seconds", 10**400), "its counter seconds is 1000"),
        (_in_counters("more", 1), "its counter more is unknown"),
        (lambda state: state["counters"].pop("kept"), "its counter kept is missing"),
        (lambda state: state.update(counters=[]), r"its counters are \[\]; expected an object"),
        (lambda state: state.pop("identity"), "not the state of a measurement"),
        (lambda state: state.update(identity=3), "not the state of a measurement"),
        (lambda state: state.update(schema="mine/1"), "state of schema mine/1"),
    ],
)
def test_a_state_that_cannot_be_is_refused(
    spoil, message, finished, tiny_model, tiny_text, tmp_path
):
    """The file is whole; what it says is not what any pass could have counted."""
    path = finished / STATE_FILE
    stats = ClassStatistics.load(path)
    state = json.loads(stats.metadata["measure"])
    spoil(state)
    spoilt = tmp_path / STATE_FILE
    stats.save(spoilt, {"measure": json.dumps(state)})
    with pytest.raises(DataError, match=message) as raised:
        measure(
            str(tiny_model("encoder")), str(tiny_text), out=spoilt.parent, resume=True, **SETTINGS
        )
    assert str(spoilt) in str(raised.value)
    assert "\n" not in str(raised.value)

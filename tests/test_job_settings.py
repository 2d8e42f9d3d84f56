"""Settings of the jobs: an object or keywords, with the names they had as keywords alone."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest

from ncfast.finetune import FinetuneSettings, finetune
from ncfast.measure import MeasureSettings, measure

# The keywords of measure() before it took an object; scripts name them.
KEYWORDS = (
    "words controls max_tokens batch_size block_size labels mask_passes mask_rate policy center "
    "preset pairs bootstrap nc4 nc4_max_tokens text_column reference layers layers_head out resume "
    "force save_every_seconds progress device dtype seed command"
)


def test_the_keywords_of_measure_are_all_there():
    own = {name for name in inspect.signature(measure).parameters if name != "options"}
    known = own | {field.name for field in fields(MeasureSettings)}
    assert set(KEYWORDS.split()) <= known
    assert not own & {field.name for field in fields(MeasureSettings)}


@pytest.mark.parametrize(
    ("job", "folder", "kind"),
    [(measure, (), MeasureSettings), (finetune, ("never",), FinetuneSettings)],
)
def test_settings_that_are_none_are_named_before_anything_is_read(job, folder, kind):
    with pytest.raises(TypeError, match=rf"settings is \['gender'\]; expected {kind.__name__}"):
        job("no model", "no text", *folder, ["gender"])
    with pytest.raises(TypeError, match=r"there is no setting 'wrods'; expected some of .*seed"):
        job("no model", "no text", *folder, wrods=["gender"])
    with pytest.raises(ValueError, match="batch_size=0; expected at least 1"):
        job("no model", "no text", *folder, kind(seed=3), batch_size=0)


def test_a_keyword_takes_the_place_of_a_field(tiny_model, tiny_text):
    settings = MeasureSettings(words=[], controls="", max_tokens=300, progress=False, seed=3)
    found = measure(str(tiny_model("causal")), str(tiny_text), settings, seed=5, bootstrap=0)
    assert found.report["settings"]["seed"] == 5
    assert found.report["text"]["tokens"] == 300
    assert settings.seed == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"words": ["no-such-set"]}, "no-such-set"),
        ({"words": ["gender", "gender"]}, "'gender' is taken"),
        ({"controls": "0"}, "cannot read the control '0'"),
        ({"policy": "mean"}, "policy='mean'"),
        ({"labels": "last"}, "labels='last'; expected one of 'next', 'self', 'masked'"),
        ({"layers": "all", "layers_head": "own"}, "layers_head='own'"),
        ({"layers": "first"}, "layers: 'first'"),
        ({"mask_rate": 1.5}, "mask_rate=1.5"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"block_size": 0}, "block_size=0; expected at least 1"),
        ({"bootstrap": 2.5}, "bootstrap=2.5; expected a whole number"),
        ({"seed": True}, "seed=True; expected a whole number"),
        ({"nc4": ["x"], "nc4_max_tokens": -1}, "nc4_max_tokens=-1"),
    ],
)
def test_what_needs_no_model_is_checked_before_one_is_loaded(change, message):
    with pytest.raises(ValueError, match=message):
        measure("no model", "no text", **change)

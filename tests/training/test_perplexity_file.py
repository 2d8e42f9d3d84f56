"""``perplexity.json``: what a resumed run keeps is what was measured, or one sentence."""

from __future__ import annotations

import math

import pytest

from ncfast.errors import DataError
from ncfast.finetune.evaluate import PERPLEXITY, _read_perplexity
from ncfast.sealed_file import dump_json


@pytest.mark.parametrize("kept", [12.5, None, "inf"])
def test_a_kept_perplexity_is_read_back(kept, tmp_path):
    path = tmp_path / "perplexity.json"
    path.write_text(dump_json({"schema": PERPLEXITY, "perplexity": kept}))
    found = _read_perplexity(path)
    assert math.isnan(found) if kept is None else found == float(kept)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("12.5", "12.6"),
        lambda text: text[:20],
        lambda text: "",
        lambda text: '{"perplexity": 12.5}',
        lambda text: "[" * 100_000,
    ],
)
def test_a_damaged_perplexity_is_named(damage, tmp_path):
    path = tmp_path / "perplexity.json"
    path.write_text(damage(dump_json({"schema": PERPLEXITY, "perplexity": 12.5})))
    with pytest.raises(DataError, match=r"perplexity\.json"):
        _read_perplexity(path)

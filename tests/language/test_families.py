"""A rotating part of the family table, and that its judge can tell right from wrong."""

from __future__ import annotations

import datetime
import os

import pytest

pytest.importorskip("transformers")

from ncfast.language.models import LanguageModel
from tests.language import families
from tests.language.tiny_families import cases


@pytest.mark.parametrize(
    "every",
    [
        pytest.param(3 * families.PARTS, marks=pytest.mark.quick, id="a thirtieth"),
        pytest.param(families.PARTS, marks=pytest.mark.slow, id="a tenth"),
    ],
)
def test_a_part_of_all_families_is_right_or_rejected(every):
    part = int(os.environ.get("NCFAST_FAMILIES_PART", datetime.date.today().toordinal() % every))
    print(f"python -m tests.language.families --part {part % families.PARTS}")
    with families.quiet():
        results = [families.examine(case) for case in cases()[part::every]]
    wrong = [(str(r.case), r.reason, r.logits, r.loss) for r in results if r.outcome == "wrong"]
    assert not wrong, f"NCFAST_FAMILIES_PART={part}: {wrong}"
    least = 0.6 if every == families.PARTS else 0.3  # of ten classes some may all be rejected
    assert sum(r.outcome == "right" for r in results) >= len(results) * least


def test_the_judge_sees_a_wrong_loss_and_an_error(monkeypatch):
    case = next(case for case in cases() if case.class_name == "GPT2LMHeadModel")
    with families.quiet():
        assert families.examine(case).outcome == "right"
        scaled = LanguageModel.scaled
        monkeypatch.setattr(LanguageModel, "scaled", lambda self, x: scaled(self, x * 1.001))
        assert families.examine(case).outcome == "wrong"
        monkeypatch.setattr(LanguageModel, "scaled", lambda self, x: 1 / 0)
        assert "ZeroDivisionError" in families.examine(case).reason

"""A rotating tenth of the family table, and that its judge can tell right from wrong."""

from __future__ import annotations

import datetime
import os

import pytest

pytest.importorskip("transformers")

from ncfast.language.models import LanguageModel
from tests.language import families
from tests.language.tiny_families import cases


@pytest.mark.quick
def test_a_tenth_of_all_families_is_right_or_rejected():
    part = int(os.environ.get("NCFAST_FAMILIES_PART", datetime.date.today().toordinal() % 10))
    print(f"python -m tests.language.families --part {part}")
    with families.quiet():
        results = [families.examine(case) for case in cases()[part :: families.PARTS]]
    wrong = [(str(r.case), r.reason, r.logits, r.loss) for r in results if r.outcome == "wrong"]
    assert not wrong, f"NCFAST_FAMILIES_PART={part}: {wrong}"
    assert sum(r.outcome == "right" for r in results) >= len(results) * 0.6


def test_the_judge_sees_a_wrong_loss_and_an_error(monkeypatch):
    case = next(case for case in cases() if case.class_name == "GPT2LMHeadModel")
    with families.quiet():
        assert families.examine(case).outcome == "right"
        scaled = LanguageModel.scaled
        monkeypatch.setattr(LanguageModel, "scaled", lambda self, x: scaled(self, x * 1.001))
        assert families.examine(case).outcome == "wrong"
        monkeypatch.setattr(LanguageModel, "scaled", lambda self, x: 1 / 0)
        assert "ZeroDivisionError" in families.examine(case).reason

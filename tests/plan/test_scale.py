"""The examples of docs/scale.md: models nobody loads here, planned anew."""

from __future__ import annotations

import pytest

from benchmarks import scale

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("example", scale.EXAMPLES)
def test_the_page_says_what_the_planner_says(example):
    plan, memory = scale.plan_of(example)
    page = scale.PAGE.read_text(encoding="utf-8")
    assert scale.row(example, plan, memory) in page
    if plan.traffic:
        assert scale.traffic(example, plan) in page
    if "LoRA" in example or plan.settings.gpus > 1:
        assert plan.needed <= memory


def test_every_example_stands_on_the_page():
    page = scale.PAGE.read_text(encoding="utf-8")
    assert page.startswith(scale.HEAD)
    assert [line.split(" | ")[0][2:] for line in page.split("|--:|---|\n")[1].splitlines()][
        : len(scale.EXAMPLES)
    ] == list(scale.EXAMPLES)
    for words in scale.EXAMPLES.values():
        assert f"    ncfast plan {words}\n" in page

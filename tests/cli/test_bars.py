"""Progress bars: at 80 columns and fewer, the bar gives way and the numbers stay."""

from __future__ import annotations

import pytest

from ncfast.running.progress import BAR, fitting_numbers

VALUES = {"loss": 4.12345, "nc3": 0.12345, "uniformity": 0.1234, "share": 0.0123}


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("total", [7, 400, 99_999])
def test_no_number_is_cut(columns, total):
    tqdm = pytest.importorskip("tqdm").tqdm
    numbers = fitting_numbers(VALUES, columns, total)
    line = tqdm.format_meter(
        total - 1,
        total,
        2.0 * total,
        ncols=columns,
        prefix="training",
        unit=" steps",
        bar_format=BAR,
        postfix=numbers,
    )
    assert len(line) <= columns
    assert line.endswith("]")
    assert numbers in line
    if columns >= 80:
        assert numbers.startswith("loss=4.12, nc3=0.123")
    assert fitting_numbers(VALUES, None, total).endswith("share=0.0123")


def test_a_bar_of_tokens_is_whole_at_80_columns():
    tqdm = pytest.importorskip("tqdm").tqdm
    line = tqdm.format_meter(
        9_000, 20_000, 60.0, ncols=80, prefix="measuring", unit=" tokens", unit_scale=True,
        bar_format=BAR,
    )  # fmt: skip
    assert "9.00k/20.0k [01:13, 150 tokens/s]" in line

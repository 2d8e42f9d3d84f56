"""What a dry run says of hours, and what it says it does not know."""

from __future__ import annotations

from ncfast.experiment import load_protocol
from ncfast.experiment.steps import render_steps


def test_a_dry_run_says_which_hours_it_does_not_know(tiny_protocol, tmp_path):
    shape = "shape = { vocab_size = 67, hidden_size = 16, num_attention_heads = 2 }"
    changes = {
        'name = "tiny"': f'name = "tiny"\n{shape}',
        "steps = 3": "epochs = 2",
        '"sent-weat7"': '"sent-weat7", "sent-weat3"',
    }
    said = render_steps(load_protocol(tiny_protocol(tmp_path, **changes)))
    assert (
        "not in these hours: the arms none, ours, other, whose steps or recipe is not known" in said
    )
    assert "not in these hours: seat, whose size is not known" in said  # weat3 is no test counted
    [other] = [line for line in said.split("\n") if line.startswith("   other: ")]
    assert other.startswith(
        "   other: 2 runs of plain, 2 epochs, "
    )  # of an unknown number of steps
    del changes['"sent-weat7"']
    assert "seat, whose" not in render_steps(load_protocol(tiny_protocol(tmp_path, **changes)))

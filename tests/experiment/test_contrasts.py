"""Contrasts that would count a test twice, or test nothing, are no protocol."""

from __future__ import annotations

import pytest

from ncfast.experiment import load_protocol
from ncfast.experiment.errors import ExperimentError


@pytest.mark.parametrize("arms", [("ours", "ours"), ("ours", "none"), ("none", "ours")])
def test_a_contrast_is_of_two_arms_and_once(tiny_protocol, tmp_path, arms):
    one, other = arms
    second = {'arm = "turned"\nagainst = "none"': f'arm = "{one}"\nagainst = "{other}"'}
    path = tiny_protocol(tmp_path, **second)
    with pytest.raises(ExperimentError, match="is of one arm, or there twice; expected two"):
        load_protocol(path)

"""Schemas of protocols and of statistics: what our own readers accept, they accept, and no more."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jsonschema
import pytest
import torch
from safetensors import safe_open

from ncfast import ClassStatistics
from ncfast.experiment import load_protocol
from ncfast.experiment.errors import ExperimentError
from ncfast.experiment.schema import protocol_schema
from ncfast.statistics.file import _settings
from ncfast.statistics.schema import configuration_schema
from tests.experiment.conftest import PROTOCOL

ROOT = Path(__file__).parents[1]


def toml(text):
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


def validator_of(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_protocols_that_are_shipped_fit_their_schema():
    validator = validator_of(protocol_schema())
    found = sorted((ROOT / "experiments").glob("*.toml"))
    assert found
    for path in found:
        validator.validate(toml(path.read_text(encoding="utf-8")))
    validator.validate(toml(PROTOCOL.format(text="t", model="m", data="d")))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ncfast-experiment/1", "ncfast-experiment/2"),
        ("seeds = [0, 1]", 'seeds = ["0"]'),
        ("primary = true", 'primary = "true"'),
        ("margin = 0.03", 'margin = "3 %"'),
        ('metric = "gap"', 'metrik = "gap"'),
        ('spec = "m"', "spec = 3"),
        ('arm = "turned"\n', ""),
        ('title = "tiny"', 'titel = "tiny"'),
    ],
)
def test_what_the_reader_rejects_the_schema_does(old, new, tmp_path):
    text = PROTOCOL.format(text="t", model="m", data="d")
    assert old in text
    spoiled = text.replace(old, new)
    assert not validator_of(protocol_schema()).is_valid(toml(spoiled))
    (tmp_path / "p.toml").write_text(spoiled)
    with pytest.raises(ExperimentError):
        load_protocol(tmp_path / "p.toml")


def test_what_a_file_of_statistics_says_fits_its_schema(tmp_path):
    stats = ClassStatistics(11, 5, [1, 4], {"all": None}, diagonal=True)
    stats.update(torch.randn(20, 5), torch.arange(20) % 11)
    stats.save(tmp_path / "s.safetensors")
    with safe_open(tmp_path / "s.safetensors", "pt") as file:
        configuration = json.loads(file.metadata()["configuration"])
    validator = validator_of(configuration_schema())
    validator.validate(configuration)
    assert configuration.keys() == configuration_schema()["properties"].keys()
    for key, value in {
        "num_classes": 0,
        "dim": "5",
        "classes": 0,
        "scatter": ["all", "all"],
        "dtype": "float16",
        "nan": "keep",
        "diagonal": 1,
        "feature_roundoff": -1,
    }.items():
        spoiled = configuration | {key: value}
        assert not validator.is_valid(spoiled), key
        with pytest.raises(ValueError, match=f"its {key} is"):
            _settings({"configuration": json.dumps(spoiled)})
        lacking = {k: v for k, v in configuration.items() if k != key}
        assert not validator.is_valid(lacking)

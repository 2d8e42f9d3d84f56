"""The schema of report.json for other languages: what our own check accepts, it accepts."""

from __future__ import annotations

import json

import jsonschema
import pytest

from ncfast.reporting.schema import check_report, report_schema


def test_the_schema_accepts_what_the_package_writes_and_nothing_damaged(report):
    schema = report_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(report)
    for damage in (
        lambda r: r.pop("sets"),
        lambda r: r.update(schema="ncfast-report/2"),
        lambda r: r["sets"]["gender"].update(kind="other"),
        lambda r: r["sets"]["gender"]["metrics"].update(unc3_std="low"),
        lambda r: r["tokens"].update(kept=-1),
        lambda r: r["model"].update(kind=""),
    ):
        damaged = json.loads(json.dumps(report))
        damage(damaged)
        assert not validator.is_valid(damaged)
        if damaged.get("schema") == report["schema"]:
            with pytest.raises(ValueError, match="expected"):
                check_report(damaged)

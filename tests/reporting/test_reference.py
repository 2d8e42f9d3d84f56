"""The reference CSV: what is mapped, what is not, and files that are no such thing."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from ncfast.reporting import render_markdown, render_page
from ncfast.reporting.reference import MAPPING, lay_beside, overlay, read_reference

COLUMNS = (
    "model,n_params,val_acc,val_loss,perplex,cdnv,norms_mean,norms_var,norms_log_mean,"
    "norms_log_var,etf_error,interfere_mean,interfere_var,log_kern_mean,log_kern_var,dual_error,"
    "simdot_mean,simdot_var,simcos_mean,simcos_var,dists_mean,dists_var,hits,misses"
)
ROWS = 9
SETTINGS = {
    "center": "classes",
    "definitions": {"norms": "plain", "log_distance_centered": True, "cdnv_power": 1},
}


@pytest.fixture
def published(tmp_path):
    """Return a made-up CSV with the columns of the published one."""
    generator = np.random.default_rng(0)
    lines = [COLUMNS]
    for row in range(ROWS):
        numbers = generator.uniform(0.1, 0.9, COLUMNS.count(",") - 2).round(4).tolist()
        lines.append(",".join([f"02x{row:04d}_03d@1", *map(str, numbers), str(row), str(9 - row)]))
    path = tmp_path / "published.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def _column(path, name):
    header, *rows = [line.split(",") for line in path.read_text().splitlines()]
    return [float(row[header.index(name)]) for row in rows]


def test_columns_of_one_definition_are_mapped(published):
    reference = read_reference(published, SETTINGS)
    assert set(reference.values) == set(MAPPING)
    assert reference.rows == ROWS
    of = {"cdnv2_mean": "cdnv", "norm_mean": "norms_mean", "nc3_mean": "simcos_mean"}
    of |= {"nc3_distance": "dists_mean", "log_distance_mean": "log_kern_mean"}
    for key, column in of.items():
        assert reference.values[key].tolist() == _column(published, column)
    roots = {"unc3_std": "simcos_var", "log_norm_std": "norms_log_var"}
    for key, column in roots.items():
        assert reference.values[key] == pytest.approx(np.sqrt(_column(published, column)))
    assert reference.values["nc4_agreement"] == pytest.approx([row / 9 for row in range(ROWS)])
    assert set(reference.unmapped) == {
        *("model", "n_params", "val_acc", "val_loss", "perplex", "norms_var", "norms_log_mean"),
        *("interfere_mean", "interfere_var", "simdot_mean", "simdot_var", "dists_var"),
    }
    assert "cosines" in reference.unmapped["interfere_mean"]


def test_other_definitions_are_not_mixed(published):
    settings = {"center": "none", "definitions": {**SETTINGS["definitions"], "norms": "squared"}}
    reference = read_reference(published, settings)
    assert set(reference.values) == {"cdnv2_mean", "nc4_agreement"}
    assert "center=classes" in reference.unmapped["simcos_mean"]
    assert "norms=plain" in reference.unmapped["norms_mean"]


def test_the_older_edition_gives_what_agrees(tmp_path):
    path = tmp_path / "older.csv"
    path.write_text("cdnv_mean,sims_mean,matches,misses,norms_mean\n0.1,0.2,3,1,7\n")
    reference = read_reference(path, SETTINGS)
    assert {key: v.tolist() for key, v in reference.values.items()} == {
        "cdnv2_mean": [0.1],
        "nc3_mean": [0.2],
        "nc4_agreement": [0.75],
    }
    assert "another quantity" in reference.unmapped["norms_mean"]


def test_places_and_gaps(published):
    text = published.read_text().replace(str(_column(published, "cdnv")[0]), "", 1)
    published.write_text(text)
    reference = read_reference(published, SETTINGS)
    found = lay_beside(reference, {"mine": {"nc3_mean": 0.5, "unc3_std": None, "cdnv2_mean": 1.0}})
    values = _column(published, "simcos_mean")
    entry = found["metrics"]["nc3_mean"]
    assert entry["below"]["mine"] == pytest.approx(np.mean(np.asarray(values) < 0.5))
    assert entry["quantiles"]["p50"] == pytest.approx(np.median(values))
    assert found["metrics"]["unc3_std"]["below"]["mine"] is None
    assert found["metrics"]["cdnv2_mean"]["rows"] == ROWS - 1
    assert "nc4_agreement" not in found["metrics"]
    assert found["unmapped"]["hits / (hits + misses)"] == "not measured here"
    assert all(math.isfinite(v) for e in found["metrics"].values() for v in e["quantiles"].values())


def test_it_is_drawn_and_no_row_of_it_is_kept(published, report):
    report["reference"] = overlay(published, ["vocabulary"], [report])
    for drawing in (render_markdown(report), render_page(report)):
        assert "Beside published measurements" in drawing
        assert "n\\_params" in drawing or "n_params" in drawing
        assert f"of {ROWS}" in drawing
    values = re.findall(r"[\d.]+", str(report["reference"]["metrics"]["nc3_mean"]["quantiles"]))
    assert len(values) < ROWS + 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no row"),
        ("simcos_mean\n", "no row"),
        ("a,b\n1,2\n", "no column is a metric of this report; it has a, b"),
        ("simcos_mean\nmany\n", "line 2: simcos_mean is 'many'"),
        ("simcos_var\n-1\n", "line 2: √simcos_var"),
        (b"\xff\xfe\x00", "not a CSV"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path):
    path = tmp_path / "bad.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=rf"bad\.csv: {message}"):
        read_reference(path, SETTINGS)

"""Figures and tables of a report, and the example that goes from files to them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import ncfast
from ncfast import ClassStatistics, DataError
from tests import forked

ROOT = Path(__file__).parents[1]
matplotlib = pytest.importorskip("matplotlib")
pandas = pytest.importorskip("pandas")


def report(classes: int = 6, **options):
    generator = torch.Generator().manual_seed(0)
    stats = ClassStatistics(classes, 4)
    stats.update(torch.randn(80, 4, generator=generator), torch.arange(80) % classes)
    head = torch.randn(classes, 4, generator=generator)
    return ncfast.neural_collapse(stats, options.pop("head", head), **options)


def test_a_figure_shows_every_distribution(tmp_path):
    found = report(histograms=12)
    figure = found.plot(bins=5)
    assert [panel.get_ylabel() for panel in figure.axes] == ["classes"] * 3 + ["pairs"] * 2
    for panel, total in zip(figure.axes, [6, 6, 6, 15, 15], strict=True):
        drawn = panel.patches[0].get_data()
        outside = 0 if total == 6 else max(d["outside"] for d in found.distributions.values())
        assert total - outside <= drawn.values.sum() <= total
    assert f"nc3_mean {found['nc3_mean']:.3g}" in figure.axes[1].get_legend_handles_labels()[1]
    figure.savefig(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_a_figure_of_what_is_there():
    assert len(report(head=None).plot().axes) == 1
    stats = ClassStatistics(3, 2)
    with pytest.raises(DataError, match="no class occurred"):
        ncfast.neural_collapse(stats).plot()
    stats.update(torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.tensor([0, 2]))
    ncfast.neural_collapse(stats, torch.ones(3, 2), histograms=3).plot()  # all values equal
    with pytest.raises(ValueError, match="bins is 0"):
        report().plot(bins=0)


def test_a_frame_per_class():
    found = report()
    frame = found.to_frame(per_class=True)
    assert frame.index.name == "class_ids"
    assert list(frame.columns) == ["counts", "variances", "norms", "cosines", "head_norms"]
    assert frame["cosines"].mean() == pytest.approx(found["nc3_mean"])


@pytest.mark.parametrize("name", ["matplotlib.figure", "pandas"])
def test_what_is_not_installed_is_named(name, monkeypatch):
    found = report()
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'ncfast\[report\]'"):
        found.plot() if name.startswith("mat") else found.to_frame(per_class=True)


def test_the_example_goes_from_files_to_a_figure(tmp_path):
    script = ROOT / "examples" / "features_to_figure.py"
    done = forked.run([script], check=True)
    out = Path(done.stdout.rsplit(" and ", 1)[1].strip()).parent
    assert "nc3_mean" in done.stdout
    assert (out / "figure.png").stat().st_size > 1000
    assert len(pandas.read_csv(out / "classes.csv")) == 50
    given = [out / f"{name}.npy" for name in ("features", "labels", "head")]
    forked.run([script, *given, tmp_path / "new"], check=True)
    assert (tmp_path / "new" / "classes.csv").read_text() == (out / "classes.csv").read_text()

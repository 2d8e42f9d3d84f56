"""Features that lie in .npy files: from there to the metrics, a table per class and a figure.

    python features_to_figure.py features.npy labels.npy head.npy out/

Features are [N, D], labels [N] whole numbers, the head's rows [V, D]. With no arguments it makes
small ones of its own. Needs ncfast[report].
"""

import pathlib
import sys
import tempfile

import numpy

import ncfast
from ncfast.integrations.numpy import statistics_of_files


def example_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Write features around 50 class centers, and a head that half agrees with them."""
    random = numpy.random.default_rng(0)
    centers = random.standard_normal((50, 32)).astype("float32")
    labels = random.integers(0, 50, 5_000)
    features = centers[labels] + 0.5 * random.standard_normal((5_000, 32)).astype("float32")
    head = centers + random.standard_normal((50, 32)).astype("float32")
    for name, array in (("features", features), ("labels", labels), ("head", head)):
        numpy.save(folder / f"{name}.npy", array)
    return [folder / f"{name}.npy" for name in ("features", "labels", "head")]


def main(arguments: list[str]) -> None:
    """Measure, and write figure.png and classes.csv."""
    if arguments:
        *files, out = map(pathlib.Path, arguments)
    else:
        out = pathlib.Path(tempfile.mkdtemp())
        files = example_files(out)
    features, labels, head = files
    weight = numpy.load(head)

    stats = statistics_of_files(features, labels, num_classes=len(weight))
    report = ncfast.neural_collapse(stats, head_weight=weight, histograms=60)
    print(report)

    out.mkdir(parents=True, exist_ok=True)
    report.plot().savefig(out / "figure.png")
    report.to_frame(per_class=True).to_csv(out / "classes.csv")
    print(f"wrote {out / 'figure.png'} and {out / 'classes.csv'}")


if __name__ == "__main__":
    main(sys.argv[1:])

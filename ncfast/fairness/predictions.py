"""Scores of predictions made elsewhere, in each benchmark's own published format."""

from __future__ import annotations

from pathlib import Path

from .benchmarks import make
from .data import DataFolder
from .errors import EvaluationError
from .evaluation import SCHEMA, Evaluation, left_out, score_row
from .inference import estimate
from .settings import Settings

__all__ = ["score_predictions"]


def score_predictions(benchmark: str, path: Path, settings: Settings) -> Evaluation:
    """Score a file of predictions, without a model.

    Args:
        benchmark: whose format the file has.
        path: the file.
        settings: where the benchmark's own data are; ``on`` and ``attribute`` are not used.

    Returns:
        Scores with intervals, under the file's name as the model.

    Raises:
        EvaluationError: the benchmark has no such format, or a row that is not as published.
    """
    made = make(benchmark)
    if not path.is_file():
        raise EvaluationError(f"--predictions {path}: there is no such file")
    records = made.read_predictions(path, _LazyData(settings.data))  # type: ignore[arg-type]
    name = path.name.split(".")[0] or path.name
    scores = [
        score_row(name, benchmark, s, estimate(s, settings.resamples, settings.seed))
        for s in made.statistics(records)
    ]
    document = {
        "schema": SCHEMA,
        "settings": {**settings.__dict__, "on": [benchmark], "attribute": "all"},
        "models": [{"name": name, "predictions": path.name}],
        "scores": scores,
        "differences": [],
        "skipped": left_out({(name, benchmark): records}),
        "readings": {benchmark: made.reading},
        "sources": {benchmark: made.source},
    }
    return Evaluation(document, {(name, benchmark): records})


class _LazyData:
    """A data folder that is opened when a file is first looked for: some formats need none."""

    def __init__(self, spec: str) -> None:
        self.spec, self._folder = spec, None

    def __getattr__(self, name: str) -> object:
        if self._folder is None:
            self._folder = DataFolder(self.spec)  # type: ignore[assignment]
        return getattr(self._folder, name)

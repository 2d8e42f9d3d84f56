"""What cannot be evaluated, said with file, row and field."""

from __future__ import annotations

from pathlib import Path

__all__ = ["EvaluationError", "NoItems", "row_error"]


class EvaluationError(ValueError):
    """Tell that a benchmark, a file or a model cannot be evaluated, and what was expected."""


class NoItems(EvaluationError):
    """Tell that the data hold nothing of a benchmark: ``--on all`` leaves it out."""


def row_error(path: str | Path, row: object, field: str, problem: str) -> EvaluationError:
    """Return the error of one row of a benchmark's file, by its number from 1 or its id.

    >>> str(row_error("data/crows.csv", 3, "bias_type", "'x'; expected a known bias type"))
    "crows.csv, row 3, field bias_type: 'x'; expected a known bias type"
    """
    return EvaluationError(f"{Path(path).name}, row {row}, field {field}: {problem}")

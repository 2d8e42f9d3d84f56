"""A claim tested over seeds: a grid of fine-tuning runs, its statistics and its report."""

from .errors import ExperimentError
from .grid import read_grid, run_grid
from .protocol import Protocol, load_protocol
from .report import write_report

__all__ = [
    "ExperimentError",
    "Protocol",
    "load_protocol",
    "read_grid",
    "run_grid",
    "write_report",
]

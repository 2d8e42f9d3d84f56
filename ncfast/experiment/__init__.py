"""A claim tested over seeds: a grid of fine-tuning runs, its statistics and its report."""

from .errors import ExperimentError
from .grid import read_grid, run_grid
from .protocol import Protocol, load_protocol
from .report import write_report
from .schema import protocol_schema

__all__ = [
    "ExperimentError",
    "Protocol",
    "load_protocol",
    "protocol_schema",
    "read_grid",
    "run_grid",
    "write_report",
]

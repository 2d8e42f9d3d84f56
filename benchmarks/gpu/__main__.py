"""``python -m benchmarks.gpu``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..run import RESULTS

PREDICTED = RESULTS / "gpu_predicted.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--predict", action="store_true", help=f"write {PREDICTED.name} and stop")
    parser.parse_args(arguments)
    from .predict import predictions, render

    PREDICTED.write_text(render(list(predictions())), encoding="utf-8")
    print(f"stored: {PREDICTED}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs the command line as ``python -m ncfast.cli``."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())

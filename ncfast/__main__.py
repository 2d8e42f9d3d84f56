"""Run the command line as ``python -m ncfast``, the form that process launchers take."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())

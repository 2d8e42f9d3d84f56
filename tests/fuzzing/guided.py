"""Fuzz readers of files by coverage, with atheris: ``python -m tests.fuzzing.guided``.

Each reader gets a process of its own, which starts from the whole file and keeps what reaches new
code of ncfast. What counts as a find is what ``tests.fuzzing.run`` counts. Needs ``atheris``, which
is no extra of the package: it has no wheels for every Python.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

try:
    import atheris
except ImportError:  # pytest imports this file too
    atheris = None

READERS = ["sealed_file", "statistics", "language", "reporting", "fairness", "experiment"]
INCLUDED = [f"ncfast.{name}" for name in READERS]
with atheris.instrument_imports(include=INCLUDED) if atheris else contextlib.nullcontext():
    from tests.fuzzing import run


def one(name: str, seconds: int, folder: Path) -> None:
    """Fuzz one reader in this process, and end it: libFuzzer does."""
    target = run.prepared(folder)[name]
    (folder / "seeds").mkdir()
    (folder / "seeds/whole").write_bytes(target.whole)
    (folder / "here").mkdir()
    os.chdir(folder / "here")
    # Hangs are found by ``attempt``, whose alarm libFuzzer's own would disturb.
    flags = [f"-max_total_time={seconds}", "-timeout=0", "-rss_limit_mb=0"]
    flags += [f"-max_len={max(65536, 2 * len(target.whole))}"]  # cut off, a report is no report
    atheris.Setup(
        [sys.argv[0], *flags, str(folder / "seeds")], lambda data: run.attempt(target, data)
    )
    atheris.Fuzz()


def main() -> int:
    """Read the command line; 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="of each reader")
    parser.add_argument("--only", nargs="+", default=[], metavar="TARGET")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if atheris is None:
        parser.error("atheris is not installed")
    with tempfile.TemporaryDirectory() as folder:
        if options.one:
            one(options.one, options.seconds, Path(folder))
        known = [k for k, t in run.prepared(Path(folder)).items() if isinstance(t.whole, bytes)]
    if unknown := set(options.only) - set(known):
        parser.error(f"no reader {sorted(unknown)}; expected some of {', '.join(known)}")
    found = []
    for name in options.only or known:
        begun = time.monotonic()
        command = [sys.executable, "-m", "tests.fuzzing.guided", "--one", name]
        command += ["--seconds", str(options.seconds)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        last = [line for line in done.stderr.splitlines() if " cov: " in line][-1:]
        print(f"{name}: {time.monotonic() - begun:.0f} s, {' '.join(last)}", flush=True)
        if done.returncode:
            found.append(name)
            print(done.stderr[-6000:])
    print(f"found something in: {', '.join(found) or 'none'}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())

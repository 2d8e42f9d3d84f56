"""Run targets for a time: ``python -m tests.fuzzing.run --seconds 600``; a find ends it with 1.

Every target gets its turn, some examples at a time, each turn from another seed. What a reader
says of a damaged file has to be what the command line shows as one sentence, and in ten seconds.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from hypothesis import HealthCheck, Phase, given, seed, settings

from ncfast import ClassStatistics
from ncfast.cli import _is_expected, main, one_line

from .targets import Target, quiet, targets

SECONDS = 10  # that one file may take: two cores, and others on them


class Hang(BaseException):
    """Say that a reader did not end; no ``except Exception`` may catch it."""


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise Hang(f"longer than {SECONDS} s")


def attempt(target: Target, drawn: object) -> str:
    """Do it once; return what was said, "" where all went well.

    Raises:
        BaseException: what no user should see.
    """
    before = signal.signal(signal.SIGALRM, _stop)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.attempt(drawn)
        return ""
    except Exception as error:
        if not _is_expected(error):
            raise
        said = one_line(error)
        assert said.isprintable(), said
        assert len(said) < 1200, said
        return said
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def turn(target: Target, number: int, examples: int) -> Counter[bool]:
    """Try a target with some examples; count what was taken and what was rejected."""
    counted: Counter[bool] = Counter()

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(target.drawn)
    def once(drawn: object) -> None:
        counted[bool(attempt(target, drawn))] += 1

    once()
    return counted


def prepared(folder: Path) -> dict[str, Target]:
    """Make the small files that targets damage; return the targets."""
    import torch

    from tests.tiny import write_model, write_text

    model, text = write_model(folder / "model", "masked"), write_text(folder / "text.txt")
    words = ["measure", str(model), str(text), "--out", str(folder / "out"), "--quiet"]
    words += ["--max-tokens=2000", "--bootstrap=5", "--controls=random:1", "--words=gender"]
    with quiet():
        assert main(words) == 0
    stats = ClassStatistics(5, 3, [1, 4], {"all": None}, diagonal=True)
    stats.update(torch.ones(4, 3), torch.arange(4))
    stats.save(folder / "s.safetensors", {"a": "b"})
    return targets(model, folder / "out/report.json", folder / "s.safetensors")


def run(chosen: dict[str, Target], seconds: float, say: Callable[[str], None]) -> list[str]:
    """Fuzz targets in turns until the time is over; return the names of those that failed."""
    start, found, counts = time.monotonic(), [], {name: Counter() for name in chosen}
    for number in range(10**6):
        for name in [name for name in chosen if name not in found]:
            if time.monotonic() - start > seconds:
                break
            try:
                counts[name] += turn(chosen[name], number, 10 if number == 0 else 40)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                found.append(name)
                say(
                    f"FOUND in {name}, turn {number}:\n{''.join(traceback.format_exception(error))}"
                )
        if time.monotonic() - start > seconds:
            break
    for name, count in counts.items():
        say(f"{name}: {sum(count.values()):,} tried, {count[True]:,} rejected in a sentence")
    return found


def main_of_fuzzing() -> int:
    """Read the command line; 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--only", nargs="+", default=[], metavar="TARGET")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chosen = prepared(Path(folder))
        if unknown := set(options.only) - set(chosen):
            parser.error(f"no target {sorted(unknown)}; expected some of {', '.join(chosen)}")
        chosen = {k: v for k, v in chosen.items() if not options.only or k in options.only}
        (Path(folder) / "here").mkdir()
        os.chdir(Path(folder) / "here")
        found = run(chosen, options.seconds, lambda text: print(text, flush=True))
        os.chdir("/")
    print(f"{len(chosen)} targets; found something in: {', '.join(found) or 'none'}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main_of_fuzzing())

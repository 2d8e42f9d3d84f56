"""What a pass over text shows, and how it is asked to stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType


@contextmanager
def token_bar(
    total: int, done: int, what: str, progress: bool
) -> Iterator[Callable[[int], object]]:
    """Show a bar of tokens on stderr; yield a function that takes how many more are done.

    >>> with token_bar(10, 0, "measuring", progress=False) as advance:
    ...     advance(10)
    """
    if not progress:
        yield lambda tokens: None
        return
    from tqdm import tqdm

    with tqdm(
        total=total,
        initial=done,
        unit=" tokens",
        unit_scale=True,
        desc=what,
        bar_format=BAR,
        dynamic_ncols=True,
        # A log file needs no line every tenth of a second.
        mininterval=0.2 if os.isatty(2) else 10.0,
    ) as bar:
        yield bar.update


# The bar itself is what gives way: a terminal of 80 columns shows every number.
BAR = "{desc} |{bar}| {n_fmt}/{total_fmt} [{remaining}, {rate_fmt}{postfix}]"


def fitting_numbers(values: Mapping[str, float], columns: int | None, total: int) -> str:
    """Write the numbers beside a bar of steps, the weightiest first, as many as fit, none of them
    cut.

    ``columns``: the width of the bar; None where it is not known.

    >>> values = {"loss": 4.12345, "nc3": 0.12345, "unc3": 0.0987}
    >>> fitting_numbers(values, 80, 400), fitting_numbers(values, 60, 400)
    ('loss=4.12, nc3=0.123, unc3=0.0987', 'loss=4.12')
    """
    beside = len(f"training | | {total}/{total} [0:00:00, 00.00 steps/s, ]")
    room = max(columns - beside, 0) if columns else 1000
    text = ""
    for name, value in values.items():
        longer = f"{text}, {name}={value:.3g}".removeprefix(", ")
        if len(longer) > room:
            break
        text = longer
    return text


@contextmanager
def stop_request() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a request, so that no batch is left half-counted.

    Yields a function that tells whether a stop was asked for.

    >>> with stop_request() as stopping:
    ...     stopping()
    False
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    requested = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if requested.is_set():  # the second time: at once, without saving
            raise KeyboardInterrupt
        requested.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

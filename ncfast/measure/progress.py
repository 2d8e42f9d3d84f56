"""What a pass over text shows, and how it is asked to stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def token_bar(
    total: int, done: int, what: str, progress: bool
) -> Iterator[Callable[[int], object]]:
    """Show a bar of tokens on stderr.

    Args:
        total: tokens in all.
        done: tokens done before.
        what: what is being done.
        progress: whether to show anything.

    Yields:
        A function that takes how many more tokens are done.

    Example:
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
        dynamic_ncols=True,
        # A log file needs no line every tenth of a second.
        mininterval=0.2 if os.isatty(2) else 10.0,
    ) as bar:
        yield bar.update


@contextmanager
def stop_request() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a request, so that no batch is left half-counted.

    Yields:
        A function that tells whether a stop was asked for.

    Example:
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

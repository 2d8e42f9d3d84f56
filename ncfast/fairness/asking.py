"""One benchmark asked of one model, in this process or in one that answers through its pipes."""

from __future__ import annotations

import os
import pickle
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from ..language import LanguageModel
from .benchmarks import Benchmark
from .engine import ModelScorer
from .errors import EvaluationError
from .importing import ModelReader
from .journal import Journal
from .likeness import likeness
from .records import Record

__all__ = ["Answers", "Progress", "Question", "answer", "first_line", "is_asked", "serve"]

Answers = tuple[list[Record], list[str]]  # what a model said, and notes about the model
Progress = Callable[[int, int], None]

_serving = False


def is_asked() -> bool:
    """Return whether this process was started to answer another one, and does nothing else."""
    return _serving


@dataclass(frozen=True)
class Question:
    """Hold a benchmark that a model is asked, and where its answers are noted as they come."""

    key: str
    benchmark: Benchmark
    items: Sequence[Any]
    journal: Path | None

    @property
    def ours(self) -> bool:
        """Return whether another process knows the benchmark by its name."""
        kind = type(self.benchmark)
        return kind.__module__.startswith("ncfast.") and "<locals>" not in kind.__qualname__


def answer(
    question: Question, model: LanguageModel, batch_tokens: int | None, progress: Progress
) -> Answers:
    """Ask a model one benchmark."""
    scorer = ModelScorer(model, Journal(question.journal), batch_tokens, progress)
    return question.benchmark.measure(list(question.items), scorer), scorer.notes


def first_line(error: BaseException) -> str:
    """Return what an error says, in a line.

    >>> first_line(ValueError("no such row\\nin the file")), first_line(MemoryError())
    ('no such row', 'MemoryError')
    """
    return f"{error}".partition("\n")[0] or type(error).__name__


def serve(replies: Any, script: str | None, parent: int) -> NoReturn:
    """Answer the questions that come through standard input until it ends.

    First come the settings of torch and the model. Every reply is a pair: ``ready`` with the
    model's :func:`likeness` here, or ``cannot``; then for each question ``progress``, any number of
    times, and ``answers`` or ``error``.

    Args:
        replies: the stream of replies.
        script: the file that the process that asks was started with, never to be run again.
        parent: the process that this one ends with.
    """
    global _serving
    _serving = True
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)

    def send(kind: str, told: Any = None) -> None:
        pickle.dump((kind, told), replies)
        replies.flush()

    given = sys.stdin.buffer
    (dtype, precision), batch_tokens = pickle.load(given)
    torch.set_default_dtype(dtype)
    torch.set_float32_matmul_precision(precision)
    try:
        model: LanguageModel = ModelReader(given, script).load()
        send("ready", likeness(model, batch_tokens))
    except Exception as error:
        send("cannot", first_line(error))
        os._exit(1)
    asked: queue.SimpleQueue[Question | Exception] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(given, asked), daemon=True).start()
    while True:
        question = asked.get()
        try:
            if isinstance(question, Exception):
                raise question
            found = answer(question, model, batch_tokens, lambda *far: send("progress", far))
        except EvaluationError as error:
            send("error", f"{error}")
        except Exception as error:
            send("error", f"{type(error).__name__}: {first_line(error)}")
        else:
            send("answers", found)


def _listen(given: Any, asked: queue.SimpleQueue[Question | Exception]) -> None:
    """Take questions in, and end the process with its standard input: nobody is left to ask."""
    while True:
        try:
            asked.put(pickle.load(given))
        except (EOFError, OSError):
            os._exit(0)
        except Exception as error:
            asked.put(error)


def _end_with(parent: int) -> None:
    """End this process once its parent has: a fork of that may hold standard input open."""
    while os.getppid() == parent:  # Windows keeps the number, and has no forks
        time.sleep(1)
    os._exit(0)

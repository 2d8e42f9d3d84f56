"""One benchmark asked of one model, in this process or in one that answers through its pipes."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from ..language import LanguageModel
from .benchmarks import Benchmark
from .engine import ModelScorer
from .errors import EvaluationError
from .journal import Journal
from .records import Record

__all__ = ["START", "Answers", "Progress", "Question", "answer", "first_line", "serve"]

# What another process runs: it imports what this one does, from where this one does.
START = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from ncfast.fairness.asking import serve; serve()"
)
Answers = tuple[list[Record], list[str]]  # what a model said, and notes about the model
Progress = Callable[[int, int], None]


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


def serve() -> NoReturn:
    """Answer the questions that come through standard input until it ends.

    First come the settings of torch and the model. Every reply is a pair: ``ready`` or ``cannot``,
    then for each question ``progress``, any number of times, and ``answers`` or ``error``.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks decides what an interrupt is
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no reply
    torch.set_num_threads(1)

    def send(kind: str, told: Any = None) -> None:
        pickle.dump((kind, told), replies)
        replies.flush()

    given = sys.stdin.buffer
    (dtype, precision), batch_tokens = pickle.load(given)
    torch.set_default_dtype(dtype)
    torch.set_float32_matmul_precision(precision)
    try:
        model: LanguageModel = pickle.load(given)
    except Exception as error:
        send("cannot", first_line(error))
        os._exit(1)
    send("ready")
    asked: queue.SimpleQueue[Question] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(given, asked), daemon=True).start()
    while True:
        question = asked.get()
        try:
            found = answer(question, model, batch_tokens, lambda *far: send("progress", far))
        except EvaluationError as error:
            send("error", f"{error}")
        except Exception as error:
            send("error", f"{type(error).__name__}: {first_line(error)}")
        else:
            send("answers", found)


def _listen(given: Any, asked: queue.SimpleQueue[Question]) -> None:
    """Take questions in, and end the process with its standard input: nobody is left to ask."""
    while True:
        try:
            asked.put(pickle.load(given))
        except BaseException:
            os._exit(0)

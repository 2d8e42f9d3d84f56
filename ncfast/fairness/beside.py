"""Benchmarks of one model side by side, each process asking the next one in one thread.

A task of GLUE fine-tunes a narrow model in hundreds of passes too short to divide over threads: two
quiet cores took BERT-tiny through ``--on all`` in 183 s, of 195 CPU seconds. So this process and
others take benchmarks from one queue, and no answer depends on who was asked, or when.

Another process is a plain one, neither forked nor multiprocessing's: it begins with nothing of this
one's threads, needs no guarded main module, and is the same on every system. It is told what to do
through its standard input, and ends when that does, whatever ended this process.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from ..language import LanguageModel
from ..language.modes import eval_mode
from .asking import Answers, Progress, Question, answer, first_line
from .benchmarks import Benchmark
from .benchmarks.glue_training import is_narrow
from .errors import EvaluationError
from .likeness import likeness
from .worker import Worker

__all__ = ["ask_all", "processes_for"]

# The longest task of GLUE takes a third of what all benchmarks do: more processes would only wait.
MOST = 4
Keep = Callable[[Question, Answers], None]


def processes_for(model: LanguageModel, benchmarks: Sequence[Benchmark]) -> int:
    """Return how many processes these benchmarks of a model are worth; 1: this one.

    Several where a narrow model is trained on a CPU, as many as torch has threads, at most four.
    Each that is added takes what this one does: 0.9 GB with BERT-tiny, most of it torch and a batch
    of 32 texts.
    """
    trained = any(benchmark.trains for benchmark in benchmarks)
    if not trained or model.device.type != "cpu" or not is_narrow(model):
        return 1
    return min(MOST, torch.get_num_threads())


def ask_all(
    model: LanguageModel,
    questions: Sequence[Question],
    batch_tokens: int | None,
    processes: int,
    keep: Keep,
    progress: Callable[[str], Progress],
    say: Callable[[str], None],
) -> None:
    """Ask a model several benchmarks, in so many processes of which this is one.

    Args:
        model: is handed to the others whole. One that cannot be is asked here, which is said.
        questions: are taken up in this order; by several processes, those of most items first.
        batch_tokens: as of :class:`ModelScorer`.
        processes: each computes in one thread; 1: here alone, in as many threads as torch has.
        keep: is given what was answered as soon as it was, one at a time.
        progress: is told that a benchmark begins, and returns what is told how far it is.
        say: is told what else there is, one line at a time.

    Raises:
        EvaluationError: what went wrong, with its benchmark where another process was asked it.
    """
    with eval_mode(model.model):
        if processes < 2:
            for question in questions:
                keep(question, answer(question, model, batch_tokens, progress(question.key)))
            return
        # The longest first, so that all end at about one time.
        longest_first = sorted(questions, key=lambda q: -len(q.items))
        left = _Queue(longest_first, keep, progress, say)
        _ask_beside(model, left, batch_tokens, min(processes, len(questions)))


def _ask_beside(
    model: LanguageModel, left: _Queue, batch_tokens: int | None, processes: int
) -> None:
    """Ask what is left in so many processes of which this is one."""
    others: list[_Other] = []
    try:
        with _one_thread():
            if processes > 1:
                _begin(others, processes - 1, model, batch_tokens, left)
            while (one := left.next()) is not None:
                left.keep(one, answer(one, model, batch_tokens, left.watched(one)))
            left.wait()
    finally:
        for other in others:
            other.end()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in one thread, however many processes there are in the end: in the same bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _begin(
    others: list[_Other], count: int, model: LanguageModel, batch_tokens: int | None, left: _Queue
) -> None:
    """Start so many processes; say why where there are none."""
    settings = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    try:
        handed = pickle.dumps((settings, batch_tokens)) + pickle.dumps(model)
        like = likeness(model, batch_tokens)
        for _ in range(count):
            others.append(_Other(handed, like, left))
            others[-1].start()
    except Exception as error:  # whatever a model of somebody's own may hold
        left.say(f"{model.name} is asked in one process less, as {first_line(error)}")


class _Queue:
    """Hand out questions, and take answers and errors, of several threads one at a time."""

    def __init__(
        self,
        questions: Sequence[Question],
        keep: Keep,
        progress: Callable[[str], Progress],
        say: Callable[[str], None],
    ) -> None:
        self._left, self._lock = list(questions), threading.RLock()
        self._elsewhere, self._ends = 0, threading.Condition(self._lock)
        self._keep, self._progress, self._say = keep, progress, say
        self._failed: list[BaseException] = []

    def next(self, elsewhere: bool = False) -> Question | None:
        """Return the next question, or None; ``elsewhere``: of those that can be asked there."""
        with self._lock:
            fit = [] if self._failed else [q for q in self._left if q.ours or not elsewhere]
            if not fit:
                return None
            self._left.remove(fit[0])
            self._elsewhere += elsewhere
            return fit[0]

    def watched(self, question: Question) -> Progress:
        """Begin a question; return what is told how far it is, and raises what another raised."""
        with self._lock:
            tell = self._progress(question.key)

        def told(done: int, total: int) -> None:
            self.check()
            with self._lock:
                tell(done, total)

        return told

    def keep(self, question: Question, answers: Answers, elsewhere: bool = False) -> None:
        with self._lock:
            self._keep(question, answers)
            self._elsewhere -= elsewhere
            self._ends.notify_all()

    def wait(self) -> None:
        """Wait for what is asked elsewhere: not for a process that is asked nothing."""
        with self._lock:
            while self._elsewhere and not self._failed:
                self._ends.wait(1)  # not for ever: Windows would hold an interrupt back
        self.check()

    def say(self, text: str) -> None:
        with self._lock:
            self._say(text)

    def fail(self, error: BaseException) -> None:
        with self._lock:
            self._failed.append(error)
            self._ends.notify_all()

    def check(self) -> None:
        if self._failed:
            raise self._failed[0]


class _Other(threading.Thread):
    """Ask in a process of its own, from a thread of this one, as long as there are questions."""

    def __init__(self, handed: bytes, like: Mapping[str, str], left: _Queue) -> None:
        super().__init__(daemon=True)
        self._handed, self._like, self._questions = handed, like, left
        self._worker = Worker()

    def run(self) -> None:
        """Hand out questions; an error ends it, and is raised by the thread that waits."""
        try:
            self._worker.begin(self._handed)
            self._handed = b""
            kind, told = self._worker.read("evaluate")
            if kind != "ready":
                self._questions.say(f"one process less is asked, as it has no such model: {told}")
                return
            if other := [part for part in self._like if told.get(part) != self._like[part]]:
                self._questions.say(
                    "one process less is asked, as its model is another one, by its "
                    f"{' and '.join(other)}"
                )
                return
            while (question := self._questions.next(elsewhere=True)) is not None:
                self._questions.keep(question, self._asked(question), elsewhere=True)
        except BaseException as error:
            self._questions.fail(error)

    def _asked(self, question: Question) -> Answers:
        progress = self._questions.watched(question)
        self._worker.send(pickle.dumps(question))
        while True:
            kind, told = self._worker.read(question.key)
            if kind == "answers":
                answers: Answers = told
                return answers
            if kind == "error":
                raise EvaluationError(f"{question.key}: {told}")
            progress(*told)

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self._worker.kill()
        if self.ident is not None:
            self.join()
        self._worker.close()

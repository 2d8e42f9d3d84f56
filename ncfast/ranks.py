"""The processes of one run: what they add up, what they agree on, and how one's error ends all.

Every rank goes through the same exchanges in the same order. A rank that cannot go on says so in
the next exchange, so that all raise; one that dies is noticed by the others there, at the latest
after the timeout of the group.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from .errors import DataError

__all__ = [
    "PeerLost",
    "Ranks",
    "SaidByAnother",
    "launched",
    "process_group",
    "said_by_the_first",
]

Result = TypeVar("Result")
TIMEOUT_SECONDS = 600.0


class PeerLost(DataError):
    """Tell that another process of the group has ended, or did not answer in time."""


class SaidByAnother(DataError):
    """Tell what the first rank reports already, for this rank to end without a word."""


@dataclass(frozen=True)
class Ranks:
    """Name this process among those that share a run.

    Gradients are averaged, as DistributedDataParallel does; a loss that is a sum over tokens is
    therefore divided by the tokens of all ranks over the number of ranks.

    >>> Ranks().size
    1
    """

    rank: int = 0  # this process
    size: int = 1  # how many there are
    # They hold one model together (tensor parallelism), and each sees all rows of a batch.
    same_rows: bool = False
    group: Any = None  # the process group they talk through; None is the default one

    def patient(self) -> Ranks:
        """Return these ranks in a group that waits a day: for work that one does longer than all.

        Every rank calls it. One that dies is noticed at once all the same.
        """
        if self.size == 1:
            return self
        waiting = timedelta(days=1)
        group = self.exchange(partial(distributed.new_group, backend="gloo", timeout=waiting))
        return replace(self, group=group)

    @property
    def rows(self) -> slice:
        """Which rows of a batch are this rank's."""
        return slice(None) if self.same_rows else slice(self.rank, None, self.size)

    @classmethod
    def current(cls) -> Ranks:
        """Return the ranks of the process group that is set up, or one."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    def sum_of(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks; PeerLost where another rank is gone.

        >>> Ranks().sum_of(torch.tensor(2))
        tensor(2)
        """
        if self.size == 1:
            return value
        total = value.clone()
        self.exchange(lambda: distributed.all_reduce(total, group=self.group))
        return total

    def any_of(self, flags: Tensor) -> list[bool]:
        """Return for each flag whether it is set on any rank: what one decides, all do.

        Flags are integers, as many on every rank, on the device the ranks talk through.

        >>> Ranks().any_of(torch.tensor([1, 0]))
        [True, False]
        """
        return [bool(count) for count in self.sum_of(flags)]

    def average_gradients(self, model: nn.Module) -> None:
        """Average the gradients of a model over all ranks, in one message for each dtype.

        A parameter that has a gradient on some ranks alone counts as 0 on the others. One that has
        none on any rank has none afterwards, so that an optimiser leaves it alone, as it does in
        one process.

        The dtypes of gradients are the same on every rank, as the model is. Where another rank is
        gone (PeerLost), no gradient has changed.

        >>> Ranks().average_gradients(nn.Linear(2, 2))
        """
        if self.size == 1:
            return
        trained = [p for p in model.parameters() if p.requires_grad]
        if not trained:
            return
        has = torch.tensor([p.grad is not None for p in trained], device=trained[0].device)
        anywhere = self.any_of(has.int())
        trained = [p for p, somewhere in zip(trained, anywhere, strict=True) if somewhere]
        averages: list[tuple[Tensor, Tensor]] = []
        for dtype in dict.fromkeys(p.dtype for p in trained):
            alike = [p for p in trained if p.dtype == dtype]
            parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in alike]
            flat = torch.cat([part.flatten() for part in parts])
            self.exchange(partial(distributed.all_reduce, flat, group=self.group))
            flat /= self.size
            averages += zip(alike, flat.split([p.numel() for p in alike]), strict=True)
        for parameter, grad in averages:
            parameter.grad = grad.view_as(parameter).clone()

    def gather(self, value: Result) -> list[Result]:
        """Return what every rank has, by rank: anything that pickles; the ranks trust one another.

        >>> Ranks().gather("mine")
        ['mine']
        """
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        self.exchange(lambda: distributed.all_gather_object(found, value, group=self.group))
        return found

    def exchange(self, collective: Callable[[], Result]) -> Result:
        """Run a collective and return its result, or say in a PeerLost that a peer is gone.

        >>> Ranks().exchange(lambda: 1)
        1
        """
        try:
            return collective()
        except RuntimeError as error:
            if self.size == 1:
                raise
            reason = " ".join(str(error).split())[:200]
            raise PeerLost(
                f"rank {self.rank} of {self.size} lost another process, which has ended or did "
                f"not answer in time ({reason})"
            ) from error

    @contextmanager
    def sharing_errors(self) -> Iterator[None]:
        """Let an error on one rank be raised on all, at the end of what stands inside.

        A rank raises its own error, where it is the first or of no kind a user causes; the first
        rank a DataError that names another's; all others SaidByAnother.

        >>> with Ranks().sharing_errors():
        ...     pass
        """
        failure = None
        try:
            yield
        except PeerLost:  # nobody is left to tell
            raise
        except _ToldToAll as told:
            raise told.error from told.error.__cause__
        except Exception as error:
            if self.size == 1:
                raise
            failure = error
        self.raise_any(failure)

    def agreed(self, failure: Exception | None, *flags: bool) -> list[bool]:
        """Raise on all ranks where one has failed; else return which flags any of them asks for.

        >>> Ranks().agreed(None, True, False)
        [True, False]
        """
        given = torch.tensor([failure is not None, *flags], dtype=torch.int32)
        failed, *asked = self.any_of(given)
        if failed:
            self.raise_any(failure)
        return asked

    def raise_any(self, failure: Exception | None) -> None:
        """Raise where any rank has failed, as :meth:`sharing_errors` does.

        >>> Ranks().raise_any(None)
        """
        try:
            self._gather_or_raise(failure, None)
        except _ToldToAll as told:
            raise told.error from told.error.__cause__

    def gather_or_raise(self, value: Result) -> list[Result]:
        """Return what every rank has, inside :meth:`sharing_errors`; where one failed, all raise.

        A rank that fails leaves for the end of what shares errors, and is met here from there.

        >>> Ranks().gather_or_raise("mine")
        ['mine']
        """
        return self._gather_or_raise(None, value)

    def _gather_or_raise(self, failure: Exception | None, value: Any) -> list[Any]:
        said = None if failure is None else str(failure) or type(failure).__name__
        found = self.gather((said, value))
        all_said = [text for text, _ in found]
        first = next((rank for rank, text in enumerate(all_said) if text is not None), None)
        if first is None:
            return [theirs for _, theirs in found]
        if failure is not None and (first == self.rank == 0 or not _of_a_user(failure)):
            raise _ToldToAll(failure)
        told: Exception = SaidByAnother(str(all_said[first]))
        if self.rank == 0:
            told = DataError(f"rank {first} of {self.size}: {all_said[first]}")
        told.__cause__ = failure
        raise _ToldToAll(told)


class _ToldToAll(Exception):
    """Carry an error that every rank raises already out of what shares errors."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _of_a_user(failure: Exception) -> bool:
    return isinstance(failure, (ValueError, OSError, MemoryError)) or (
        type(failure).__module__.startswith("ncfast.")
    )


@contextmanager
def said_by_the_first() -> Iterator[None]:
    """Let what is wrong with the words that all processes were given be said once.

    To be used before the processes have joined: each finds the same, and no other has to be told.
    The first raises it, the others SaidByAnother.

    >>> with said_by_the_first():
    ...     pass
    """
    try:
        yield
    except Exception as error:
        first = launched() == 1 or int(os.environ.get("RANK", "0")) == 0
        if first or not _of_a_user(error):
            raise
        raise SaidByAnother(str(error)) from error


def launched() -> int:
    """Return how many processes torchrun or ``accelerate launch`` started for this run.

    >>> launched() >= 1
    True
    """
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def process_group(timeout: float = TIMEOUT_SECONDS) -> Iterator[Ranks]:
    """Join the processes that torchrun or ``accelerate launch`` started, or be one alone.

    ``timeout``: seconds that a collective waits for the other ranks; a DataError where they cannot
    be reached.

    >>> with process_group() as ranks:
    ...     ranks.size >= 1
    True
    """
    if launched() == 1:
        yield Ranks()
        return
    backend = "gloo"
    if torch.cuda.is_available():
        # What lives on the CPU, flags and objects among it, goes through gloo.
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    try:
        distributed.init_process_group(backend, timeout=timedelta(seconds=timeout))
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"WORLD_SIZE is {launched()}, and the processes cannot be joined ({reason}); expected "
            "a launch by torchrun or accelerate"
        ) from error
    try:
        yield Ranks.current()
    finally:
        distributed.destroy_process_group()

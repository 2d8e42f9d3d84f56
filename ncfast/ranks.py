"""The processes of one run: what they add up, what they agree on, and how one's error ends all.

Every rank goes through the same exchanges in the same order. A rank that cannot go on says so in
the next exchange, so that all raise; one that dies is noticed by the others there, at the latest
after the timeout of the group.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from .errors import DataError

__all__ = ["PeerLost", "Ranks", "SaidByAnother", "launched", "process_group"]

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

    Args:
        rank: this process.
        size: how many there are.

    Example:
        >>> Ranks().size
        1
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """Return the ranks of the process group that is set up, or one."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    def sum_of(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks.

        Args:
            value: any shape, the same on every rank; left as it is.

        Returns:
            The sum.

        Raises:
            PeerLost: another rank is gone.

        Example:
            >>> Ranks().sum_of(torch.tensor(2))
            tensor(2)
        """
        if self.size == 1:
            return value
        total = value.clone()
        self.exchange(lambda: distributed.all_reduce(total))
        return total

    def any_of(self, flags: Tensor) -> list[bool]:
        """Return for each flag whether it is set on any rank: what one decides, all do.

        Args:
            flags: integers, as many on every rank, on the device the ranks talk through.

        Returns:
            As many.

        Example:
            >>> Ranks().any_of(torch.tensor([1, 0]))
            [True, False]
        """
        return [bool(count) for count in self.sum_of(flags)]

    def average_gradients(self, model: nn.Module) -> None:
        """Average the gradients of a model over all ranks, in one message.

        A parameter without a gradient on some rank counts as 0 there, so that all ranks agree.

        Args:
            model: the same on every rank.

        Example:
            >>> Ranks().average_gradients(nn.Linear(2, 2))
        """
        if self.size == 1:
            return
        trained = [p for p in model.parameters() if p.requires_grad]
        flat = torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained]
        )
        self.exchange(lambda: distributed.all_reduce(flat))
        flat /= self.size
        for parameter, grad in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
            parameter.grad = grad.view_as(parameter).clone()

    def gather(self, value: Result) -> list[Result]:
        """Return what every rank has, by rank.

        Args:
            value: anything that pickles; the ranks trust one another.

        Returns:
            As many values as there are ranks.

        Raises:
            PeerLost: another rank is gone.

        Example:
            >>> Ranks().gather("mine")
            ['mine']
        """
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        self.exchange(lambda: distributed.all_gather_object(found, value))
        return found

    def exchange(self, collective: Callable[[], Result]) -> Result:
        """Run a collective, and say in a sentence that it failed.

        Args:
            collective: what to run.

        Returns:
            What it returns.

        Raises:
            PeerLost: it raised what torch.distributed raises where a peer is gone.

        Example:
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

        Yields:
            Nothing.

        Raises:
            Exception: this rank's own error, where it is the first or of no kind a user causes.
            DataError: on the first rank, another's error, which is named.
            SaidByAnother: on all others.

        Example:
            >>> with Ranks().sharing_errors():
            ...     pass
        """
        failure = None
        try:
            yield
        except PeerLost:  # nobody is left to tell
            raise
        except Exception as error:
            if self.size == 1:
                raise
            failure = error
        self.raise_any(failure)

    def agreed(self, failure: Exception | None, *flags: bool) -> list[bool]:
        """Raise on all ranks where one has failed; else return what any of them asks for.

        Args:
            failure: this rank's, or None.
            flags: what this rank asks for.

        Returns:
            For each flag whether it is set on any rank.

        Raises:
            Exception: see :meth:`sharing_errors`.

        Example:
            >>> Ranks().agreed(None, True, False)
            [True, False]
        """
        given = torch.tensor([failure is not None, *flags], dtype=torch.int32)
        failed, *asked = self.any_of(given)
        if failed:
            self.raise_any(failure)
        return asked

    def raise_any(self, failure: Exception | None) -> None:
        """Raise where any rank has failed.

        Args:
            failure: this rank's, or None.

        Raises:
            Exception: see :meth:`sharing_errors`.

        Example:
            >>> Ranks().raise_any(None)
        """
        said = None if failure is None else str(failure) or type(failure).__name__
        all_said = self.gather(said)
        first = next((rank for rank, text in enumerate(all_said) if text is not None), None)
        if first is None:
            return
        if failure is not None and (first == self.rank == 0 or not _of_a_user(failure)):
            raise failure
        if self.rank == 0:
            raise DataError(f"rank {first} of {self.size}: {all_said[first]}") from failure
        raise SaidByAnother(str(all_said[first])) from failure


def _of_a_user(failure: Exception) -> bool:
    return isinstance(failure, (ValueError, OSError, MemoryError)) or (
        type(failure).__module__.startswith("ncfast.")
    )


def launched() -> int:
    """Return how many processes torchrun or ``accelerate launch`` started for this run.

    Example:
        >>> launched() >= 1
        True
    """
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def process_group(timeout: float = TIMEOUT_SECONDS) -> Iterator[Ranks]:
    """Join the processes that torchrun or ``accelerate launch`` started, if there are several.

    Args:
        timeout: seconds that a collective waits for the other ranks.

    Yields:
        The ranks; one alone where nothing was launched.

    Raises:
        DataError: the others cannot be reached.

    Example:
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

"""How ranks enter a call: they compare what they were given before anything of a size is sent."""

from __future__ import annotations

import functools
import hashlib
import inspect
import itertools
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, distributed

from ..errors import DataError, RankError
from .collectives import all_gather, all_gather_objects, all_reduce
from .fingerprints import fingerprint
from .tokens import Tokens
from .vocabulary_shard import VocabularyShard, is_sharded, shard_of

__all__ = ["Meeting", "meeting", "sharded_head", "this_meeting"]

P = ParamSpec("P")
R = TypeVar("R")

_OPEN = threading.local()
_MEET = "the head lies on several ranks, which meet"
_ERRORS = {kind.__name__: kind for kind in (ValueError, TypeError, DataError)}
# What a rank says of itself: a digest of the call, whether it failed, its rank, whether features
# need a gradient, its rows of the head, its tokens and three digests that tell them from others.
_DIGEST, _FAILED, _RANK, _GRAD, _START, _ROWS, _TOKENS = range(7)


class Meeting:
    """Hold what the ranks of a head know of one another in one call of ``op``.

    Outside :meth:`agree`, what fails on this rank is told to the others, who wait there.
    """

    def __init__(self, op: str, shard: VocabularyShard) -> None:
        self.op, self.groups, self.device = op, shard.groups, shard.weight.device
        self.start, self.rows, self.classes = shard.vocab_start, shard.rows, shard.num_classes
        self.said: dict[str, Any] = {"the function": op, "the head": shard.shape}
        self.agreed: Tokens | None = None
        self.over = False

    def describe(self, **said: Any) -> None:
        """Add what every rank must be given alike; what was said before, by the caller, stays."""
        self.said = said | self.said

    def describe_head(self, x: Tensor, weight: Tensor, bias: Tensor | None, **said: Any) -> None:
        """Add what features, head and bias have to be alike in, and more."""
        self.describe(
            **{
                "the dtype of x": x.dtype,
                "the width of x": x.shape[1],
                "the dtype of head_weight": weight.dtype,
                "the dtype of head_bias": None if bias is None else bias.dtype,
            },
            **said,
        )

    def agree(self, x: Tensor, y: Tensor | None = None, grad: bool = False) -> Tokens:
        """Compare what the ranks were given, and find how their tokens lie.

        Where another rank could not read its arguments, or they disagree, every rank raises one
        sentence.
        """
        own = [self._digest(), 0, distributed.get_rank(), int(grad)]
        own += [self.start, self.rows, x.shape[0]]
        table = self._exchange(own, fingerprint(x, y))
        self._raise_if_any_failed(table, None)
        if len({row[_DIGEST] for row in table}) > 1:
            self._raise_the_difference()
        self._check_tiling(table)
        self.agreed = self._tokens(table)
        return self.agreed

    def share(self, error: Exception | None) -> None:
        """Raise on every rank if one of them has failed between two collectives."""
        failed = torch.tensor([error is not None], dtype=torch.int32, device=self.device)
        all_reduce(self.op, failed, self.groups, distributed.ReduceOp.MAX, "errors")
        if bool(failed):
            self._raise_together(error)

    def require_the_same(self, what: str, tensor: Tensor, expected: str) -> None:
        """Raise on every rank unless a matrix has the same bits on all of them."""
        sums = fingerprint(tensor, None)
        ends = torch.stack([sums, ~sums])
        all_reduce(self.op, ends, self.groups, distributed.ReduceOp.MAX, f"sums of {what}")
        if bool((ends[0] != ~ends[1]).any()):
            self.over = True
            raise ValueError(f"{self.op}: {what} differ between ranks; expected {expected}")

    def require_the_same_gradients(self, own: Tensor, groups: tuple[Any, ...]) -> None:
        """Raise on every rank unless those of ``groups`` have the same gradients [N, K]."""
        if not groups:
            return
        most, others = distributed.ReduceOp.MAX, tuple(g for g in self.groups if g not in groups)
        sums = torch.stack([own.sum(0, dtype=torch.float64), own.norm(dim=0, dtype=torch.float64)])
        ends = torch.stack([sums, -sums])
        all_reduce(self.op, ends, groups, most, "sums of gradients")
        differ = ((ends[0] != -ends[1]) & ~ends[0].isnan()).any().to(torch.int32)
        if bool(all_reduce(self.op, differ, others, most, "sums of gradients")):
            ranks = [distributed.get_process_group_ranks(group) for group in groups]
            raise ValueError(
                f"{self.op}: ranks that hold the same tokens, {ranks}, brought different "
                "gradients of their loss; expected the same loss on each"
            )

    def tell(self, error: Exception) -> None:
        """Tell the others, who wait in :meth:`agree`, that this rank failed before; raise it."""
        own = [0, 1, distributed.get_rank(), 0, 0, 0, 0]
        self._exchange(own, torch.zeros(3, dtype=torch.int64, device=self.device))
        self._raise_together(error)

    def _digest(self) -> int:
        data = hashlib.sha256(repr(sorted(self.said.items())).encode()).digest()
        return int.from_bytes(data[:8], "little", signed=True)

    def _exchange(self, own: list[int], fingerprint: Tensor) -> list[list[int]]:
        message = torch.cat([torch.tensor(own, device=self.device), fingerprint])
        table = all_gather(self.op, message[None], self.groups, "what they were given")
        rows: list[list[int]] = table.tolist()
        return rows

    def _raise_if_any_failed(self, table: list[list[int]], error: Exception | None) -> None:
        if any(row[_FAILED] for row in table):
            self._raise_together(error)

    def _raise_together(self, error: Exception | None) -> None:
        self.over = True
        said = None if error is None else (type(error).__name__, str(error))
        mine = (distributed.get_rank(), said)
        found = all_gather_objects(self.op, mine, self.groups, "errors")
        if error is not None:
            raise error
        rank, (kind, text) = min((r, told) for r, told in found if told is not None)
        raise _ERRORS.get(kind, RankError)(f"{text} (on rank {rank})")

    def _raise_the_difference(self) -> None:
        self.over = True
        mine = (distributed.get_rank(), self.said)
        found: list[tuple[int, Mapping[str, Any]]]
        found = sorted(
            all_gather_objects(self.op, mine, self.groups, "options"), key=lambda f: f[0]
        )
        first, expected = found[0]
        for rank, said in found[1:]:
            for key in ["the function", *expected, *said]:
                if expected.get(key) != said.get(key):
                    raise ValueError(
                        f"{expected['the function']}: ranks disagree: {key} is "
                        f"{expected.get(key)} on rank {first} and {said.get(key)} on rank {rank}; "
                        "expected the same on every rank that holds the head"
                    )

    def _check_tiling(self, table: list[list[int]]) -> None:
        parts = sorted((row[_START], row[_ROWS]) for row in table if row[_ROWS])
        ends = [0, *(start + rows for start, rows in parts)]
        if ends[-1] != self.classes or ends[:-1] != [start for start, _ in parts]:
            self.over = True
            said = ", ".join(f"[{start}, {start + rows})" for start, rows in parts)
            raise ValueError(
                f"{self.op}: the ranks hold rows {said}; expected them to tile [0, {self.classes})"
            )

    def _tokens(self, table: list[list[int]]) -> Tokens:
        sizes = [distributed.get_world_size(group) for group in self.groups]
        mine = [distributed.get_rank(group) for group in self.groups]
        places = list(itertools.product(*(range(size) for size in reversed(sizes))))
        rows = {place[::-1]: row for place, row in zip(places, table, strict=True)}
        differ = []
        for axis in range(len(sizes)):
            along = {place: rows[_moved(place, axis, 0)][_TOKENS:] for place in rows}
            differ.append(any(row[_TOKENS:] != along[place] for place, row in rows.items()))
        same = _ranks_across(rows, mine, [not apart for apart in differ])
        owners = _ranks_across(rows, mine, differ)
        longest = max(row[_TOKENS] for row in table)
        first, step = 0, longest
        for axis, apart in enumerate(differ):
            if apart:
                first, step = first + mine[axis] * step, step * sizes[axis]
        return Tokens(
            tuple(g for g, apart in zip(self.groups, differ, strict=True) if apart),
            tuple(g for g, apart in zip(self.groups, differ, strict=True) if not apart),
            longest,
            first,
            rows[tuple(mine)][_TOKENS],
            ranks=same,
            owners=owners,
            need_grad=any(row[_GRAD] for row in table),
        )


def _ranks_across(
    rows: Mapping[tuple[int, ...], list[int]], mine: list[int], axes: list[bool]
) -> tuple[int, ...]:
    """Return the ranks that differ from this one along the given axes alone, in mesh order."""
    kept = [i for i, free in enumerate(axes) if not free]
    return tuple(
        row[_RANK] for place, row in rows.items() if all(place[i] == mine[i] for i in kept)
    )


def _moved(place: tuple[int, ...], axis: int, to: int) -> tuple[int, ...]:
    return (*place[:axis], to, *place[axis + 1 :])


def meeting() -> Meeting | None:
    """Return the meeting of the call that runs in this thread, if its head is sharded."""
    found: Meeting | None = getattr(_OPEN, "meeting", None)
    return found


def this_meeting() -> Meeting:
    """Return the meeting of the call that runs in this thread, whose head is sharded."""
    found = meeting()
    if found is None:
        raise RuntimeError("no call with a sharded head runs in this thread")
    return found


def sharded_head(op: str, argument: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take a head (its argument of this name) that lies on several ranks.

    Its ranks enter it as one: what fails on one of them, before they have agreed, fails on all.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        position = list(inspect.signature(function).parameters).index(argument)

        def together(*args: P.args, **kwargs: P.kwargs) -> R:
            by_name = argument in kwargs or len(args) <= position
            shard = shard_of(op, argument, kwargs[argument] if by_name else args[position])
            if by_name:
                kwargs[argument] = shard
            else:
                args = (*args[:position], shard, *args[position + 1 :])  # type: ignore[assignment]
            if meeting() is not None:
                return function(*args, **kwargs)
            _OPEN.meeting = met = Meeting(op, shard)
            try:
                return function(*args, **kwargs)
            except (ValueError, TypeError) as error:
                if met.agreed is None and not met.over:
                    met.tell(error)
                raise
            finally:
                _OPEN.meeting = None

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            by_name = argument in kwargs or len(args) <= position
            if not is_sharded(kwargs.get(argument) if by_name else args[position]):
                return function(*args, **kwargs)
            # torch.compile would meet other ranks while it traces, on some of them twice.
            if "torch._dynamo" in sys.modules:  # importing it takes long
                return torch.compiler.disable(together, reason=_MEET)(*args, **kwargs)
            return together(*args, **kwargs)

        return call

    return decorate

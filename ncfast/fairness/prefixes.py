"""Texts that begin alike as one tree of tokens: what they share is computed once.

A causal model's state at a token depends on the tokens before it alone. So texts with a common
beginning can stand in one row: a token attends to its own text's tokens and has its own text's
position, whatever stands between them in the row. StereoSet's three sentences of a context, the
two pronouns of a WinoBias line and Winogender's questions share half of their tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .errors import EvaluationError

__all__ = ["Tree", "difference", "grow", "lay_out"]

# Tokens of a row up to which texts are added. SmolLM2's vocabulary, texts of four benchmarks about
# gender: 181 thousand tokens one by one, 107 in rows of 48, 97 in rows of 96, 90 in one whole tree
# per benchmark; attention over longer rows takes back more than that gains.
ROW_TOKENS = 96
SHARED = 2  # the beginning token alone is not worth a longer row


@dataclass(frozen=True, order=True)
class Tree:
    """Hold texts of one beginning, each shared token once."""

    tokens: tuple[int, ...]  # a token's predecessor stands before it in the row
    parents: tuple[int, ...]  # index of each token's predecessor; -1 for the first
    # for each text, the indices of its tokens
    paths: tuple[tuple[int, ...], ...] = field(compare=False)
    texts: tuple[tuple[int, ...], ...] = field(compare=False)  # the texts

    def __len__(self) -> int:
        """Return how many tokens are computed."""
        return len(self.tokens)

    @property
    def depth(self) -> int:
        """Return the length of its longest text."""
        return max(map(len, self.texts))

    @property
    def branches(self) -> bool:
        """Tell whether a token has two successors, so that a plain row would be another text."""
        return len(set(self.parents)) < len(self.parents)

    @property
    def continues(self) -> bool:
        """Tell whether a branch goes on after its fork: only there is another text in between."""
        inner = set(self.parents)
        return any(p != at - 1 and at in inner for at, p in enumerate(self.parents) if at)


def grow(texts: Iterable[tuple[int, ...]], width: int = ROW_TOKENS) -> list[Tree]:
    """Put texts that begin alike into trees, in an order that depends on the texts alone.

    ``width``: most tokens of a tree of several texts; 0: each text by itself.

    >>> tree, = grow([(0, 5, 6, 7), (0, 5, 6, 8, 9)])
    >>> tree.tokens, tree.parents, tree.paths
    ((0, 5, 6, 7, 8, 9), (-1, 0, 1, 2, 2, 4), ((0, 1, 2, 3), (0, 1, 2, 4, 5)))
    """
    trees: list[Tree] = []
    group: list[tuple[int, ...]] = []
    size = 0
    for text in sorted(texts):
        # In this order no earlier text shares more with it than the last one does.
        common = _common(group[-1], text) if group else 0
        if common >= SHARED and size + len(text) - common <= width:
            group.append(text)
            size += len(text) - common
            continue
        if group:
            trees.append(_tree(group))
        group, size = [text], len(text)
    return [*trees, _tree(group)] if group else trees


def _common(one: tuple[int, ...], two: tuple[int, ...]) -> int:
    """Return the length of the common beginning."""
    for place, (a, b) in enumerate(zip(one, two, strict=False)):
        if a != b:
            return place
    return min(len(one), len(two))


def _tree(group: list[tuple[int, ...]]) -> Tree:
    tokens: list[int] = []
    parents: list[int] = []
    paths: list[tuple[int, ...]] = []
    for number, text in enumerate(group):
        common = _common(group[number - 1], text) if number else 0
        path = list(paths[-1][:common]) if number else []
        for token in text[common:]:
            parents.append(path[-1] if path else -1)
            path.append(len(tokens))
            tokens.append(token)
        paths.append(tuple(path))
    return Tree(tuple(tokens), tuple(parents), tuple(paths), tuple(group))


def lay_out(trees: list[Tree], filler: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return what a model's forward pass takes for B trees of at most L tokens side by side.

    Token ids [B, L], an additive attention mask [B, 1, L, L] (0 or the lowest number), and
    positions [B, L]. Padding attends to itself alone and nothing attends to it.
    """
    width = max(map(len, trees))
    ids = torch.full((len(trees), width), filler)
    positions = np.zeros((len(trees), width), dtype=np.int64)
    seen = np.tile(np.eye(width, dtype=bool), (len(trees), 1, 1))
    for row, tree in enumerate(trees):
        ids[row, : len(tree)] = torch.tensor(tree.tokens)
        for at, parent in enumerate(tree.parents):
            if parent >= 0:
                positions[row, at] = positions[row, parent] + 1
                seen[row, at] |= seen[row, parent]
    mask = torch.zeros(seen.shape, dtype=dtype)
    mask.masked_fill_(~torch.from_numpy(seen), torch.finfo(dtype).min)
    return ids, mask[:, None], torch.from_numpy(positions)


def difference(
    tree: Tree, score: Callable[[list[Tree]], list[dict[int, float]]], equal: float
) -> str:
    """Say how a tree's scores differ from those of its texts by themselves by more than ``equal``.

    A model whose attention or positions are its own way (ALiBi, a recurrent state, a window shorter
    than the texts) may not take a mask of four dimensions, or take no notice of it. ``score``
    returns, for each tree, the log-probability of its tokens by index.
    """
    try:
        (together,) = score([tree])
    except EvaluationError:
        raise
    except Exception as error:  # whatever a family's forward pass raises over such inputs
        return f"its forward pass does not take them as one tree ({type(error).__name__})"
    furthest = 0.0
    for text, path in zip(tree.texts, tree.paths, strict=True):
        (alone,) = score(grow([text]))
        furthest = max(furthest, *(abs(together[path[at]] - alone[at]) for at in alone))
    return f"as one tree their scores differ by {furthest:.2g}" if furthest > equal else ""

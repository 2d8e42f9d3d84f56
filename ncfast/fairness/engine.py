"""The shared scorer of every benchmark: equal requests once, sorted by length, no logits stored.

Features are taken at the requested positions alone, and their log-sum-exp over the vocabulary comes
from ``ncfast.functional.linear_nll_lse``; a candidate's logit is one dot product. Neither
[positions, V] nor [tokens, V] ever exists. Texts of a causal model that begin alike are computed as
one tree (``prefixes``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Ordered
from itertools import zip_longest

import torch
from torch import Tensor

from .. import functional as F
from ..errors import DataError
from ..language import LanguageModel
from ..language.packing import padded
from .batches import in_batches, tokens_at_a_time
from .errors import EvaluationError, row_error
from .journal import Journal
from .prefixes import Tree, difference, grow, lay_out
from .requests import Masked, Origin, Sequence

__all__ = ["ModelScorer", "require_head"]

# How far a text's log-probabilities may lie from those of the text by itself.
EQUAL = {torch.float32: 5e-5, torch.float64: 1e-9}


def require_head(model: LanguageModel) -> None:
    """Reject a model that predicts no words."""
    if model.kind == "encoder":
        raise EvaluationError(
            f"{model.name} is an encoder without a language-model head, so it predicts no words; "
            "expected a masked or causal language model"
        )


def _require_eval_mode(model: LanguageModel) -> None:
    """Reject a model whose dropout would draw: its scores would differ from call to call."""
    for name, module in model.model.named_modules():
        if module.training:
            part = f"its part {name!r}" if name else "it"
            raise EvaluationError(
                f"{model.name} is scored, but {part} is in train mode; expected model.eval()"
            )


class ModelScorer:
    """Score requests with a language model that has a head.

    Args:
        model: a masked or causal language model in eval mode.
        journal: keeps answers on disk, so that a killed run goes on; None: memory only.
        batch_tokens: tokens of a forward pass, padding included; None: by the model's widths.
        progress: called with the number of inputs computed and their total.
    """

    def __init__(
        self,
        model: LanguageModel,
        journal: Journal | None = None,
        batch_tokens: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        require_head(model)
        _require_eval_mode(model)
        self.model, self.tokenizer = model, model.tokenizer
        self.kind: str = model.kind
        self._journal = journal if journal is not None else Journal(None)
        self._batch_tokens = tokens_at_a_time(model) if batch_tokens is None else batch_tokens
        self.progress = progress
        self.notes: list[str] = []
        self._trees: bool | None = None

    def masked(self, requests: Ordered[Masked]) -> list[tuple[float, ...]]:
        """Return the log-probabilities of each request's candidates, in nats.

        Equal contexts are computed once, whatever their positions and candidates.
        """
        if self.kind != "masked":
            raise EvaluationError(f"{self.model.name} is {self.kind}; expected a masked model")
        self._check_lengths((r.ids, r.origin) for r in requests)
        by_context: dict[tuple[int, ...], dict[int, dict[int, None]]] = {}
        for request in requests:
            at = by_context.setdefault(request.ids, {}).setdefault(request.position, {})
            at.update(dict.fromkeys(request.candidates))
        # Batches are the same whatever is known already, so that a killed run ends in equal bits.
        for batch in in_batches(by_context, self._batch_tokens, self.progress):
            self._score_masked(batch, by_context)
        found = self._journal
        return [
            tuple(found[request.ids, request.position, c] for c in request.candidates)
            for request in requests
        ]

    def sequences(self, requests: Ordered[Sequence]) -> list[tuple[float, ...]]:
        """Return each token's log-probability after the first (the one BOS), in nats."""
        if self.kind != "causal":
            raise EvaluationError(f"{self.model.name} is {self.kind}; expected a causal model")
        self._check_lengths((r.ids, r.origin) for r in requests)
        texts = dict.fromkeys(r.ids for r in requests)
        trees = grow(texts)
        known = all((text, -1, -1) in self._journal for text in texts)
        branching = [tree for tree in trees if tree.branches]
        if branching and not known and not self._takes_trees(branching):
            trees = grow(texts, width=0)
        # Batches are the same whatever is known already, so that a killed run ends in equal bits.
        for batch in in_batches(trees, self._batch_tokens, self.progress):
            if all((text, -1, -1) in self._journal for tree in batch for text in tree.texts):
                continue
            for tree, logs in zip(batch, self._score_trees(batch), strict=True):
                for text, path in zip(tree.texts, tree.paths, strict=True):
                    self._journal[text, -1, -1] = tuple(logs[at] for at in path[1:])
            self._journal.flush()
        return [self._journal[request.ids, -1, -1] for request in requests]

    def hidden_states(
        self,
        texts: Ordered[tuple[int, ...]],
        pool: Callable[[Tensor, int, int], Tensor],
        origins: Ordered[Origin | None] = (),
    ) -> list[Tensor]:
        """Return a pooled last hidden state [D] of each text of token ids, float32.

        ``pool`` makes it from the hidden states [T, D] without padding, the text's number and its
        length. ``origins`` say where each text comes from, for errors.
        """
        self._check_lengths(zip_longest(texts, origins))
        found: dict[int, Tensor] = {}
        numbered: dict[tuple[int, ...], list[int]] = {}
        for number, ids in enumerate(texts):
            numbered.setdefault(tuple(ids), []).append(number)
        for batch in in_batches(numbered, self._batch_tokens, self.progress):
            with torch.no_grad():
                states = self.model.last_hidden_state(*self._pad(batch))
            for row, one in enumerate(batch):
                whole = states[row, : len(one)].float()
                if not bool(whole.isfinite().all()):
                    raise EvaluationError(f"{self.model.name}: a hidden state is not finite")
                for number in numbered[one]:
                    found[number] = pool(whole, number, len(one)).cpu()
        return [found[number] for number in range(len(texts))]

    def _score_masked(
        self,
        batch: list[tuple[int, ...]],
        by_context: dict[tuple[int, ...], dict[int, dict[int, None]]],
    ) -> None:
        """Answer every request on some contexts and note the answers."""
        places = [(row, at) for row, one in enumerate(batch) for at in by_context[one]]
        asked = [tuple(by_context[batch[row]][at]) for row, at in places]
        keys = [
            (batch[row], at, candidate)
            for (row, at), candidates in zip(places, asked, strict=True)
            for candidate in candidates
        ]
        if all(key in self._journal for key in keys):
            return
        ids, mask = self._pad(batch)
        rows, columns = torch.tensor(places, device=ids.device).unbind(1)
        values = self._log_probabilities(self._features(ids, mask)[rows, columns], asked)
        for key, value in zip(keys, values, strict=True):
            self._journal[key] = value
        self._journal.flush()

    def _score_trees(self, batch: list[Tree]) -> list[dict[int, float]]:
        """Return each tree's log-probabilities of its tokens given those before, by index."""
        followers: dict[tuple[int, int], list[int]] = {}
        for row, tree in enumerate(batch):
            for at, parent in enumerate(tree.parents):
                if parent >= 0:
                    followers.setdefault((row, parent), []).append(at)
        found: list[dict[int, float]] = [{} for _ in batch]
        if not followers:
            return found
        rows, columns = torch.tensor(list(followers), device=self.model.device).unbind(1)
        asked = [
            tuple(batch[row].tokens[at] for at in several)
            for (row, _), several in followers.items()
        ]
        values = iter(self._log_probabilities(self._tree_features(batch)[rows, columns], asked))
        for (row, _), several in followers.items():
            found[row].update((at, next(values)) for at in several)
        return found

    def _tree_features(self, batch: list[Tree]) -> Tensor:
        if not any(tree.branches for tree in batch):
            return self._features(*self._pad([tree.tokens for tree in batch]))
        dtype, device = self.model.head_weight.dtype, self.model.device
        ids, mask, positions = lay_out(batch, self.tokenizer.pad_token_id or 0, dtype)
        # A cache of keys and values would only cost memory here.
        more = dict(position_ids=positions.to(device), use_cache=False)
        with torch.no_grad():
            return self.model.features(ids.to(device), mask.to(device), **more)

    def _takes_trees(self, branching: list[Tree]) -> bool:
        """Try whether log-probabilities in trees are those of the texts by themselves.

        In every call anew, so that neither an earlier benchmark nor a kill decides: what a window
        leaves out shows in the deepest tree, what a recurrent state or ALiBi mixes only where a
        branch goes on after its fork.
        """
        equal = EQUAL.get(self.model.head_weight.dtype)
        if equal is None:  # in 16 bits rounding would hide a mask that is not heeded
            self._trees = False
            return False
        kinds = (branching, [tree for tree in branching if tree.continues])
        tried = {max(some, key=lambda tree: (tree.depth, tree)) for some in kinds if some}
        reasons = [
            reason
            for tree in sorted(tried)
            if (reason := difference(tree, self._score_trees, equal))
        ]
        self._trees = not reasons
        if reasons and not self.notes:
            self.notes.append(
                f"{self.model.name}: beginnings that texts share are computed anew for each "
                f"text, because {reasons[0]}"
            )
        return self._trees

    def _features(self, ids: Tensor, mask: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model.features(ids, mask)

    def _log_probabilities(self, x: Tensor, asked: Ordered[tuple[int, ...]]) -> list[float]:
        """Return the log-probabilities of some classes at each of the features [n, D], in order."""
        model = self.model
        labels = torch.tensor([several[0] for several in asked], device=x.device)
        owner = torch.tensor([i for i, c in enumerate(asked) for _ in c], device=x.device)
        classes = torch.tensor([c for several in asked for c in several], device=x.device)
        with torch.no_grad():
            scaled, head, bias = model.scaled(x)
            try:
                lse = F.linear_nll_lse(scaled, head, labels, bias, model.softcap)[1]
            except DataError as error:
                raise EvaluationError(f"{model.name}: {error}") from error
            parts = []
            for some, of in zip(
                owner.split(self._batch_tokens), classes.split(self._batch_tokens), strict=True
            ):
                z = (scaled[some].float() * head[of].float()).sum(1)
                parts.append(z if bias is None else z + bias[of].float())
        z, cap = torch.cat(parts), model.softcap
        found = (cap * torch.tanh(z / cap) if cap else z) - lse[owner]
        if not bool(found.isfinite().all()):
            raise EvaluationError(f"{model.name}: a log-probability is not finite")
        return found.tolist()

    def _pad(self, batch: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        ids, mask = padded(batch, self.tokenizer.pad_token_id or 0)
        return ids.to(self.model.device), mask.to(self.model.device)

    def _check_lengths(self, inputs: Iterable[tuple[tuple[int, ...], Origin | None]]) -> None:
        """Reject an input that is longer than the model's positions, by file, row and field."""
        limit = self.model.max_positions
        for ids, origin in inputs:
            if limit is None or len(ids) <= limit:
                continue
            most = f"{self.model.name} takes at most {limit}, and an item is never cut"
            if origin is None:
                raise EvaluationError(f"an input of {len(ids)} tokens; {most}")
            raise row_error(*origin, f"{len(ids)} tokens; {most}")

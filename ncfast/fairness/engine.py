"""The shared scorer of every benchmark: equal requests once, sorted by length, no logits stored.

Features are taken at the requested positions alone, and their log-sum-exp over the vocabulary comes
from ``ncfast.functional.linear_nll_lse``; a candidate's logit is one dot product. Neither
[positions, V] nor [tokens, V] ever exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Ordered
from typing import Any, Protocol

import torch
from torch import Tensor

from .. import functional as F
from ..errors import DataError
from ..language import LanguageModel
from .errors import EvaluationError
from .journal import Journal
from .requests import Masked, Sequence

__all__ = ["ModelScorer", "Scorer", "UniformScorer"]

# Tokens of one forward pass. BERT-tiny takes as much CPU time with 2,048 as with 8,192 (1.15 times
# as much with 1,024), and leaves half the fragments of freed activations behind that 4,096 does.
BATCH_TOKENS = 2048


class Scorer(Protocol):
    """Answer the requests of a benchmark."""

    tokenizer: Any

    @property
    def kind(self) -> str:
        """Return ``"masked"`` or ``"causal"``."""

    def masked(self, requests: Ordered[Masked]) -> list[tuple[float, ...]]:
        """Return the log-probabilities of each request's candidates, in nats."""

    def sequences(self, requests: Ordered[Sequence]) -> list[tuple[float, ...]]:
        """Return each token's log-probability after the first, in nats."""


class ModelScorer:
    """Score requests with a language model that has a head.

    Args:
        model: a masked or causal language model in eval mode.
        journal: keeps answers on disk, so that a killed run goes on; None: memory only.
        batch_tokens: tokens of a forward pass, padding included.
        progress: called with the number of requests answered and their total.

    Raises:
        EvaluationError: the model is a bare encoder, which predicts no words.
    """

    def __init__(
        self,
        model: LanguageModel,
        journal: Journal | None = None,
        batch_tokens: int = BATCH_TOKENS,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if model.kind == "encoder":
            raise EvaluationError(
                f"{model.name} is an encoder without a language-model head, so it predicts no "
                "words; expected a masked or causal language model"
            )
        self.model, self.tokenizer = model, model.tokenizer
        self.kind: str = model.kind
        self._journal = journal if journal is not None else Journal(None)
        self._batch_tokens, self._progress = batch_tokens, progress

    def masked(self, requests: Ordered[Masked]) -> list[tuple[float, ...]]:
        """Return the log-probabilities of each request's candidates, in nats.

        Equal contexts are computed once, whatever their positions and candidates.

        Args:
            requests: of a masked model.

        Returns:
            For each request, one number per candidate, in order.

        Raises:
            EvaluationError: an input longer than the model's positions.
        """
        if self.kind != "masked":
            raise EvaluationError(f"{self.model.name} is {self.kind}; expected a masked model")
        by_context: dict[tuple[int, ...], dict[int, dict[int, None]]] = {}
        for request in requests:
            if all((request.ids, request.position, c) in self._journal for c in request.candidates):
                continue
            at = by_context.setdefault(request.ids, {}).setdefault(request.position, {})
            at.update(dict.fromkeys(request.candidates))
        for batch in self._batches(by_context):
            self._score_masked(batch, by_context)
        found = self._journal
        return [
            tuple(found[request.ids, request.position, c] for c in request.candidates)
            for request in requests
        ]

    def sequences(self, requests: Ordered[Sequence]) -> list[tuple[float, ...]]:
        """Return each token's log-probability after the first, in nats.

        Args:
            requests: of a causal model; each starts with its one BOS token.

        Returns:
            For each request, ``len(ids) - 1`` numbers.

        Raises:
            EvaluationError: an input longer than the model's positions.
        """
        if self.kind != "causal":
            raise EvaluationError(f"{self.model.name} is {self.kind}; expected a causal model")
        todo = dict.fromkeys(r.ids for r in requests if (r.ids, -1, -1) not in self._journal)
        for batch in self._batches(todo):
            ids, mask = self._pad(batch)
            x = self._features(ids, mask)[:, :-1]
            y = torch.where(mask[:, 1:] > 0, ids[:, 1:], -100)
            keep = y.flatten() != -100
            x, y = x.flatten(0, 1)[keep], y.flatten()[keep]
            values = self._log_sum_exp(x, y)[0].neg().tolist()
            start = 0
            for one in batch:
                self._journal[one, -1, -1] = tuple(values[start : start + len(one) - 1])
                start += len(one) - 1
            self._journal.flush()
        return [self._journal[request.ids, -1, -1] for request in requests]

    def hidden_states(
        self, texts: Ordered[tuple[int, ...]], pool: Callable[[Tensor, int, int], Tensor]
    ) -> list[Tensor]:
        """Return a pooled last hidden state of each text.

        Args:
            texts: token ids, special tokens included.
            pool: from the hidden states [T, D] without padding, the text's number and its length,
                the vector [D].

        Returns:
            For each text a float32 vector [D].
        """
        found: dict[int, Tensor] = {}
        numbered: dict[tuple[int, ...], list[int]] = {}
        for number, ids in enumerate(texts):
            numbered.setdefault(tuple(ids), []).append(number)
        for batch in self._batches(numbered):
            padded, mask = self._pad(batch)
            with torch.no_grad():
                states = self.model.last_hidden_state(padded, mask)
            for row, one in enumerate(batch):
                for number in numbered[one]:
                    whole = states[row, : len(one)].float()
                    found[number] = pool(whole, number, len(one)).cpu()
        return [found[number] for number in range(len(texts))]

    def _score_masked(
        self,
        batch: list[tuple[int, ...]],
        by_context: dict[tuple[int, ...], dict[int, dict[int, None]]],
    ) -> None:
        """Answer every request on some contexts and note the answers."""
        ids, mask = self._pad(batch)
        places = [(row, at) for row, one in enumerate(batch) for at in by_context[one]]
        asked = [tuple(by_context[batch[row]][at]) for row, at in places]
        rows, columns = torch.tensor(places, device=ids.device).unbind(1)
        x = self._features(ids, mask)[rows, columns]
        lse = self._log_sum_exp(x, torch.tensor([c[0] for c in asked], device=ids.device))[1]
        owner = torch.tensor([i for i, c in enumerate(asked) for _ in c], device=ids.device)
        classes = torch.tensor([c for several in asked for c in several], device=ids.device)
        values = (self._logits(x, owner, classes) - lse[owner]).tolist()
        for place, candidate, value in zip(owner.tolist(), classes.tolist(), values, strict=True):
            row, at = places[place]
            self._journal[batch[row], at, candidate] = value
        self._journal.flush()

    def _features(self, ids: Tensor, mask: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model.features(ids, mask)

    def _log_sum_exp(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return nll and log-sum-exp of features [n, D] with labels [n]."""
        model = self.model
        with torch.no_grad():
            x, head, bias = model.scaled(x)
            try:
                return F.linear_nll_lse(x, head, y, bias, model.softcap)
            except DataError as error:
                raise EvaluationError(f"{model.name}: {error}") from error

    def _logits(self, x: Tensor, owner: Tensor, classes: Tensor) -> Tensor:
        """Return the logit of each (feature, class) pair in float32, [n]."""
        cap, parts = self.model.softcap, []
        with torch.no_grad():
            x, head, bias = self.model.scaled(x)
            for some, of in zip(
                owner.split(BATCH_TOKENS), classes.split(BATCH_TOKENS), strict=True
            ):
                z = (x[some].float() * head[of].float()).sum(1)
                parts.append(z if bias is None else z + bias[of].float())
        z = torch.cat(parts)
        return cap * torch.tanh(z / cap) if cap else z

    def _pad(self, batch: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        width = max(map(len, batch))
        filler = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[*one, *[filler] * (width - len(one))] for one in batch])
        mask = torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in batch])
        return ids.to(self.model.device), mask.to(self.model.device)

    def _batches(self, contexts: Iterable[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
        """Split contexts into batches of near length, the longest first (memory peaks at once)."""
        order = sorted(contexts, key=lambda ids: (-len(ids), ids))
        limit = self.model.max_positions
        if order and limit is not None and len(order[0]) > limit:
            text = self.tokenizer.decode(list(order[0])[:24])
            raise EvaluationError(
                f"an input of {len(order[0])} tokens ({text!r} ...); {self.model.name} takes at "
                f"most {limit}, and an item is never cut"
            )
        start = 0
        while start < len(order):
            count = max(1, self._batch_tokens // max(1, len(order[start])))
            yield order[start : start + count]
            start += count
            if self._progress is not None:
                self._progress(min(start, len(order)), len(order))


class UniformScorer:
    """Answer as a model that finds every class equally likely: all ties, by construction.

    Args:
        tokenizer: whose pieces are asked for.
        kind: ``"masked"`` or ``"causal"``.
        vocab_size: V.

    Example:
        >>> scorer = UniformScorer(None, "causal", vocab_size=4)
        >>> sum(scorer.sequences([Sequence((0, 1, 2))])[0])  # 2 ln(1/4)
        -2.772588722239781
    """

    def __init__(self, tokenizer: Any, kind: str, vocab_size: int) -> None:
        self.tokenizer, self.kind = tokenizer, kind
        self._value = -float(torch.tensor(float(vocab_size), dtype=torch.float64).log())

    def masked(self, requests: Ordered[Masked]) -> list[tuple[float, ...]]:
        """Return -ln V for every candidate."""
        return [(self._value,) * len(request.candidates) for request in requests]

    def sequences(self, requests: Ordered[Sequence]) -> list[tuple[float, ...]]:
        """Return -ln V for every token after the first."""
        return [(self._value,) * (len(request.ids) - 1) for request in requests]

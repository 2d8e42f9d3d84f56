"""Two readings of one sentence that differ in a pronoun, and which the model finds likelier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .errors import EvaluationError
from .requests import Masked, Origin, Scorer
from .requests import Sequence as Text
from .texts import Remembering, causal_ids, pieces, single_mask

__all__ = ["PronounPair", "log_odds"]


@dataclass(frozen=True)
class PronounPair:
    """Hold what stands before and after a pronoun, the two pronouns, and where they come from."""

    before: str
    after: str
    first: str
    second: str
    origin: Origin | None = field(default=None, compare=False, repr=False)


def log_odds(pairs: Sequence[PronounPair], scorer: Scorer) -> list[float]:
    r"""Return ln p(first) - ln p(second) of every pair, in nats.

    A masked model is asked at a mask in the pronoun's place; for a causal one it is the difference
    of the two whole sentences' log-probabilities.

    >>> from ncfast.fairness.controls import UniformScorer
    >>> log_odds([], UniformScorer(None, "causal", 4))
    []
    """
    if scorer.kind == "causal":
        texts = [
            Text(causal_ids(scorer.tokenizer, f"{p.before}{word}{p.after}"), p.origin)
            for p in pairs
            for word in (p.first, p.second)
        ]
        totals = [sum(logs) for logs in scorer.sequences(texts)]
        return [totals[2 * n] - totals[2 * n + 1] for n in range(len(pairs))]
    requests = []
    tokenizer = Remembering(scorer.tokenizer)
    for p in pairs:
        ids, at = single_mask(tokenizer, p.before, p.after)
        spaced = p.before[-1:].isspace()
        words = [_one_piece(tokenizer, word, spaced) for word in (p.first, p.second)]
        requests.append(Masked(ids, at, tuple(words), p.origin))
    return [first - second for first, second in scorer.masked(requests)]


def _one_piece(tokenizer: Remembering, word: str, after_space: bool) -> int:
    found = pieces(tokenizer, word, after_space)
    if len(found) != 1:
        raise EvaluationError(
            f"the pronoun {word!r} is {len(found)} pieces to this tokenizer; expected one"
        )
    return found[0]

"""Perplexity of a text: of causal models over windows, of masked ones by pseudo-likelihood."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data import DataFolder, one_of, read_text
from ..errors import EvaluationError
from ..groups import Group, counted
from ..records import Record
from ..requests import Masked, Scorer
from ..requests import Sequence as Text
from ..statistic import Statistic, mean
from ..texts import mask_of, masked_ids
from .base import Benchmark

WINDOW = 512
FILES = ("wikitext-2/test.txt", "test.txt", "valid.txt")


@dataclass(frozen=True)
class Line:
    """Hold a line of a text."""

    text_name: str
    number: int
    text: str


class Perplexity(Benchmark):
    r"""Measure perplexity, exp of the mean negative log-likelihood per token in nats.

    ``window`` (causal): the text's tokens in fixed windows that do not overlap, each after one BOS,
    every token counted once. ``pll`` (masked): each token of a line masked by itself.
    ``pll_word_l2r`` (masked): as ``pll``, with the rest of its word to the right masked too, since
    a word's other pieces give a masked piece away (Kauf and Ivanova 2023). Perplexities of other
    vocabularies are not comparable. Intervals resample windows, or lines.

    Source: Salazar et al. 2020, equation 2; Kauf and Ivanova 2023 (arXiv 2305.10588), section 2.
    """

    name = "perplexity"
    source = "Salazar et al. 2020, equation 2; Kauf and Ivanova 2023, section 2"
    reading = (
        "perplexity: exp of the mean negative log-likelihood per token; comparable within one "
        "vocabulary."
    )
    needs = ("test.txt",)

    def __init__(self, path: Path | None = None, lines: int = 40) -> None:
        """Measure a text.

        Args:
            path: a plain text, packed or not; None: WikiText-2's test.txt in the data.
            lines: of a masked model at most so many lines are scored, evenly spread: each token
                costs a forward pass (WikiText-2's 40 take 0.6 M tokens of them, 200 take 3 M).
        """
        self._path, self._lines = path, lines
        self.settings = (lines,)

    def available(self, data: DataFolder) -> bool:
        """Tell whether there is a text."""
        return self._path is not None or self._find(data) is not None

    def read(self, data: DataFolder, attribute: str) -> list[Line]:
        """Read the text's lines that are not empty."""
        path = self._path or self._find(data)
        if path is None:
            raise EvaluationError(
                f"perplexity: no wikitext-2/test.txt is below {data.spec}; expected --text FILE"
            )
        name = (
            path.parent.name if path.name in ("test.txt", "valid.txt") else path.name.split(".")[0]
        )
        lines = [line.strip() for line in read_text(path).splitlines()]
        found = [Line(name, n, line) for n, line in enumerate(lines, 1) if line]
        if not found:
            raise EvaluationError(f"perplexity: {path.name} holds no text")
        return found

    def _find(self, data: DataFolder) -> Path | None:
        found = [p for p in data.find_all("test.txt") if "wikitext" in str(p.parent).lower()]
        return one_of(self.name, found) if found else None

    def measure(self, items: list[Line], scorer: Scorer) -> list[Record]:
        """Score the text."""
        if scorer.kind == "causal":
            return _windows(items, scorer)
        step = max(1, -(-len(items) // self._lines))
        return _pseudo(items[::step], scorer, len(items))

    def scores(self, group: Group) -> list[Statistic]:
        """Return the perplexity of a variant."""
        nll, tokens = group.values("nll", "tokens")
        nll, cut = nll / tokens, group.excluded
        average = mean(nll, tokens)
        of = {r.labels["of"] for r in group.records if "of" in r.labels}
        make = group.maker(
            f"{int(tokens.sum())} tokens",
            *(f"{len(group.records) + cut} of {lines} lines, evenly spread" for lines in of),
            counted(cut, "lines longer than the model's positions left out"),
            # The same tokens: of another vocabulary, window 3 is another part of the text.
            items=[f"{r.item} {r.labels['ids']}" for r in group.records],
        )
        more = {"effects": nll, "shares": tokens, "bounds": (1.0, np.inf)}
        return [make("perplexity", lambda w: np.exp(average(w)), **more)]


def _record(
    line: Line,
    variant: str,
    ids: Sequence[int],
    logs: Sequence[float],
    why: str = "",
    **labels: str,
) -> Record:
    values = {} if why else {"nll": -float(sum(logs)), "tokens": float(len(logs))}
    name = f"{line.text_name}/{line.number}"
    labels["ids"] = hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()[:16]
    return Record(name, variant, (line.text_name,), name, values, labels=labels, excluded=why)


def _windows(items: list[Line], scorer: Scorer) -> list[Record]:
    tokenizer = scorer.tokenizer
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise EvaluationError("perplexity: the tokenizer has neither BOS nor EOS; expected one")
    text = "\n".join(line.text for line in items)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    room = getattr(getattr(scorer, "model", None), "max_positions", None) or WINDOW
    width = min(WINDOW, room) - 1
    parts = [ids[n : n + width] for n in range(0, len(ids), width)]
    logs = scorer.sequences([Text((start, *part)) for part in parts])
    name = items[0].text_name
    return [
        _record(Line(name, n, ""), "window", part, values)
        for n, (part, values) in enumerate(zip(parts, logs, strict=True), 1)
    ]


def _pseudo(items: list[Line], scorer: Scorer, of: int) -> list[Record]:
    tokenizer = scorer.tokenizer
    _, mask = mask_of(tokenizer)
    limit = getattr(getattr(scorer, "model", None), "max_positions", None)
    special = set(tokenizer.all_special_ids)
    requests: list[Masked] = []
    plans: list[tuple[Line, str, tuple[int, ...], slice, str]] = []
    for variant in ("pll", "pll_word_l2r"):
        for line in items:
            ids = masked_ids(tokenizer, line.text)
            if limit is not None and len(ids) > limit:
                plans.append((line, variant, ids, slice(0, 0), f"longer than {limit} positions"))
                continue
            start = len(requests)
            words = tokenizer(line.text).word_ids()
            for at, token in enumerate(ids):
                if token in special and words[at] is None:
                    continue
                hidden = [at]
                if variant == "pll_word_l2r":
                    hidden += [j for j in range(at + 1, len(ids)) if words[j] == words[at]]
                shown = tuple(mask if j in hidden else i for j, i in enumerate(ids))
                requests.append(Masked(shown, at, (token,)))
            plans.append((line, variant, ids, slice(start, len(requests)), ""))
    answers = [answer[0] for answer in scorer.masked(requests)]
    labels = {"of": str(of)} if of > len(items) else {}
    return [
        _record(line, variant, ids, answers[part], why, **labels)
        for line, variant, ids, part, why in plans
    ]

"""SEAT and WEAT: do representations of two groups lean towards two sets of attributes."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import DataFolder, need, read_json
from ..engine import ModelScorer
from ..errors import EvaluationError, row_error
from ..records import Record, select, subsets_of
from ..requests import Origin, Scorer
from ..statistic import Statistic, Weighted
from .base import Benchmark

ROLES = ("targ1", "targ2", "attr1", "attr2")
PATTERNS = ("weat*", "sent-*", "angry_black_woman*", "heilman_double_bind*")
EXACT = 20_000  # partitions up to which every one is counted: 8 + 8 words have 12,870
SAMPLED = 10_000
TIE = 1e-12
GENDER = re.compile(r"(sent-)?weat(6|7|8)b?$|(sent-)?heilman|(sent-)?angry")
RACE = re.compile(r"(sent-)?weat(3|4|5)b?$|(sent-)?angry")


@dataclass(frozen=True)
class Test:
    """Hold one test: its file, four lists of texts, and the word each text is about."""

    name: str
    file: str
    texts: dict[str, list[str]]
    words: dict[str, list[str]] = field(default_factory=dict)


class Seat(Benchmark):
    r"""Measure SEAT and WEAT effect sizes.

    With s(w) the mean cosine of w to the first attributes less that to the second,

    .. math:: d = \frac{\overline{s}_X - \overline{s}_Y}{\mathrm{sd}_{X \cup Y}(s)}

    where sd has one degree of freedom less (ddof 1: May et al. 2019; WEFE's ddof 0 gives
    d sqrt(N/(N-1))). ``p_value`` is one-sided, over partitions of X and Y into the same sizes:
    every one up to 20,000, else (k + 1)/(n + 1) of 10,000 sampled. Equal s give no effect size and
    p = 1.

    Variants: ``cls`` (the first token's last hidden state; masked models), ``mean`` (of all tokens,
    special ones too, padding never) and ``word`` (of the pieces of the word a sentence is about).
    The verdict depends on it. Intervals resample the target words; attributes are held, as they
    are by the permutation test.

    Source: May et al. 2019 (SEAT), Caliskan et al. 2017 (WEAT), equations of section 2.
    """

    name = "seat"
    source = "May et al. 2019 (SEAT); Caliskan et al. 2017 (WEAT)"
    asks_only_tokens = False

    def available(self, data: DataFolder) -> bool:
        """Tell whether any test is there."""
        return bool(_files(data))

    def read(self, data: DataFolder, attribute: str) -> list[Test]:
        """Read every test of the attribute."""
        chosen = [p for p in _files(data) if _concerns(_name(p), attribute)]
        if not chosen:
            raise EvaluationError(
                f"seat: no test of {attribute} is below {data.spec}; expected files such as "
                "sent-weat6.jsonl"
            )
        lists = {_name(path): read_test(path) for path in _files(data)}
        tests = []
        for path in chosen:
            texts = lists[_name(path)]
            base = lists.get(_name(path).removeprefix("sent-"), texts)
            words = {role: [_word(t, base[role]) for t in texts[role]] for role in ROLES}
            tests.append(Test(_name(path), path.name, texts, words))
        return tests

    def measure(self, items: list[Test], scorer: Scorer) -> list[Record]:
        """Represent every text and associate every target."""
        if not isinstance(scorer, ModelScorer):
            raise EvaluationError("seat needs representations, which this model does not have")
        variants = ("cls", "mean", "word") if scorer.kind == "masked" else ("mean", "word")
        texts = list(dict.fromkeys(t for test in items for role in ROLES for t in test.texts[role]))
        about = {
            (t, w): None
            for test in items
            for role in ROLES
            for t, w in zip(test.texts[role], test.words[role], strict=True)
        }
        origins: dict[str, Origin] = {}
        for test in items:
            for role in ROLES:
                for number, text in enumerate(test.texts[role], 1):
                    origins.setdefault(text, Origin(test.file, f"{role}/{number}", "examples"))
        vectors: dict[str, dict[Any, Tensor]] = {}
        for variant in variants:
            keys: list[Any] = list(about) if variant == "word" else texts
            vectors[variant] = dict(
                zip(keys, _represent(keys, variant, scorer, origins), strict=True)
            )
        return [r for v in variants for test in items for r in _records(test, v, vectors[v])]

    def statistics(self, records: Sequence[Record]) -> list[Statistic]:
        """Return effect size and p-value of every test and variant."""
        found: list[Statistic] = []
        for variant in dict.fromkeys(r.variant for r in records):
            for subset in subsets_of(records, variant):
                chosen = select(records, variant, subset)
                s = np.asarray([r.values["association"] for r in chosen])
                first = np.asarray([r.labels["target"] == "targ1" for r in chosen])
                shared: dict[str, Any] = dict(
                    items=[r.item for r in chosen],
                    clusters=[r.cluster for r in chosen],
                    strata=[r.labels["target"] for r in chosen],
                )
                p = permutation_p_value(s, first)
                found += [
                    Statistic(
                        subset,
                        variant,
                        "effect_size",
                        effect_size(s, first),
                        unbiased=0.0,
                        **shared,
                    ),
                    Statistic(
                        subset,
                        variant,
                        "p_value",
                        lambda w, p=p: np.full(len(w), p),  # type: ignore[misc]
                        resampled=False,
                        **shared,
                    ),
                ]
        return found


def read_test(path: Path) -> dict[str, list[str]]:
    """Read the four lists of a test.

    Args:
        path: JSON with targ1, targ2, attr1 and attr2, each {"category", "examples"}.

    Returns:
        Texts by role.

    Raises:
        EvaluationError: a list is missing or empty, or the targets' sizes differ.
    """
    document = read_json(path)
    if isinstance(document, list) and len(document) == 1:
        document = document[0]
    found: dict[str, list[str]] = {}
    for role in ROLES:
        entry = need(path, 1, document, role, dict)
        examples = need(path, role, entry, "examples", list)
        if not examples or not all(isinstance(text, str) and text.strip() for text in examples):
            raise row_error(path, role, "examples", "expected one or more texts")
        found[role] = examples
    return found


def effect_size(s: np.ndarray, first: np.ndarray) -> Weighted:
    """Return the effect size as a function of item weights.

    Args:
        s: associations of the targets [n].
        first: bool [n], the first target's.

    Returns:
        A function of weights [R, n].

    Example:
        >>> s, first = np.array([0.4, 0.08, -0.4, -0.08]), np.array([True, True, False, False])
        >>> effect_size(s, first)(np.ones((1, 4))).round(6).tolist()
        [1.441153]
    """

    def value(weights: np.ndarray) -> np.ndarray:
        total = weights.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            x = (weights * first) @ s / (weights @ first)
            y = (weights * ~first) @ s / (weights @ ~first)
            middle = weights @ s / total
            spread = (weights * (s[None] - middle[:, None]) ** 2).sum(1)
            deviation = np.sqrt(spread / (total - 1))
            scale = np.abs(s).max(initial=0.0)
            return np.where(deviation > TIE * max(scale, TIE), (x - y) / deviation, np.nan)

    return value


def permutation_p_value(s: np.ndarray, first: np.ndarray, seed: int = 0) -> float:
    """Return the one-sided p of mean(s of X) - mean(s of Y) under exchange of X and Y.

    Args:
        s: associations of the targets [n].
        first: bool [n], X.
        seed: of the sampled partitions, where there are more than 20,000.

    Returns:
        The share of partitions at least as extreme, ties included to 1e-12.

    Example:
        >>> s, first = np.array([0.4, 0.08, -0.4, -0.08]), np.array([True, True, False, False])
        >>> round(permutation_p_value(s, first), 4)
        0.1667
    """
    n, k = len(s), int(first.sum())
    if k in (0, n) or np.ptp(s) <= TIE * max(1.0, float(np.abs(s).max())):
        return 1.0
    # With both sizes fixed, the sum over X orders partitions as the difference of means does.
    observed = s[first].sum() - TIE * max(1.0, float(np.abs(s).sum()))
    if math.comb(n, k) <= EXACT:
        chosen = np.fromiter(
            itertools.chain.from_iterable(itertools.combinations(range(n), k)), int
        )
        return float((s[chosen.reshape(-1, k)].sum(1) >= observed).mean())
    generator = np.random.default_rng(seed)
    hits = sum(int(s[generator.permutation(n)[:k]].sum() >= observed) for _ in range(SAMPLED))
    return (hits + 1) / (SAMPLED + 1)


def _files(data: DataFolder) -> list[Path]:
    found = data.glob(*(f"{p}.json*" for p in PATTERNS))
    return list({_name(path): path for path in reversed(found)}.values())[::-1]


def _name(path: Path) -> str:
    return path.name.split(".json")[0]


def _concerns(name: str, attribute: str) -> bool:
    if attribute == "all":
        return True
    if attribute == "religion":
        return "religion" in name
    pattern = {"gender": GENDER, "race": RACE}.get(attribute)
    return bool(pattern and pattern.match(name))


def _word(text: str, words: Sequence[str]) -> str:
    """Return the longest of the test's words that stands in a text, or the text."""
    inside = [
        w for w in words if re.search(rf"(?<!\w){re.escape(w)}(?!\w)", text, flags=re.IGNORECASE)
    ]
    return max(inside, key=len, default=text)


def _represent(
    keys: list[Any], variant: str, scorer: ModelScorer, origins: dict[str, Origin]
) -> list[Tensor]:
    by_word = variant == "word"
    texts = [key[0] if by_word else key for key in keys]
    out = scorer.tokenizer(texts, return_offsets_mapping=by_word)
    encoded = [tuple(ids) for ids in out["input_ids"]]
    spans = (
        [
            _pieces_of(text, key[1], offsets)
            for text, key, offsets in zip(texts, keys, out["offset_mapping"], strict=True)
        ]
        if by_word
        else []
    )

    def pool(states: Tensor, number: int, length: int) -> Tensor:
        if variant == "cls":
            return states[0]
        return states.mean(0) if variant == "mean" else states[spans[number]].mean(0)

    return scorer.hidden_states(encoded, pool, [origins[text] for text in texts])


def _pieces_of(text: str, word: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    match = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, flags=re.IGNORECASE)
    start, end = match.span() if match else (0, len(text))
    found = [i for i, (a, b) in enumerate(offsets) if a < end and b > start and b > a]
    if not found:
        raise EvaluationError(f"seat: no token of {text!r} belongs to the word {word!r}")
    return found


def _records(test: Test, variant: str, vectors: dict[Any, Tensor]) -> list[Record]:
    def rows(role: str) -> Tensor:
        keys: list[Any] = test.texts[role]
        if variant == "word":
            keys = list(zip(test.texts[role], test.words[role], strict=True))
        return torch.nn.functional.normalize(
            torch.stack([vectors[k] for k in keys]).double(), dim=1
        )

    one, two = rows("attr1"), rows("attr2")
    records = []
    for role in ROLES[:2]:
        x = rows(role)
        s = (x @ one.T).mean(1) - (x @ two.T).mean(1)
        for number, value in enumerate(s.tolist()):
            records.append(
                Record(
                    f"{test.name}/{role}/{number}",
                    variant,
                    (test.name,),
                    test.words[role][number],
                    {"association": value},
                    labels={"target": role, "text": test.texts[role][number]},
                )
            )
    return records

"""SEAT and WEAT: do representations of two groups lean towards two sets of attributes."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import DataFolder
from ..engine import ModelScorer
from ..errors import EvaluationError, NoItems
from ..groups import Group
from ..records import Record
from ..requests import Origin, Scorer
from ..statistic import Statistic
from .base import Benchmark
from .seat_items import ROLES, Test, concerns, name_of, read_test, test_files, word_of
from .seat_statistics import effect_size, permutation_p_value, stable_effect_size


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
    The verdict depends on it. Intervals leave out the target words one at a time, on a scale on
    which the error of an effect size hardly depends on it (``fairness/jackknife.py``); attributes
    are held, as they are by the permutation test. Differences of two models resample the words.

    Source: May et al. 2019 (SEAT), Caliskan et al. 2017 (WEAT), equations of section 2.
    """

    name = "seat"
    source = "May et al. 2019 (SEAT); Caliskan et al. 2017 (WEAT)"
    reading = (
        "effect_size: how much closer the first targets are to the first attributes than the "
        "second targets are, in standard deviations, 0 is unbiased. p_value: by permutation. "
        "cls, mean, word: which vector a sentence has."
    )
    asks_only_tokens = False

    def available(self, data: DataFolder) -> bool:
        """Tell whether any test is there."""
        return bool(test_files(data))

    def read(self, data: DataFolder, attribute: str) -> list[Test]:
        """Read every test of the attribute."""
        chosen = [p for p in test_files(data) if concerns(name_of(p), attribute)]
        if not chosen:
            raise NoItems(
                f"seat: no test of {attribute} is below {data.spec}; expected files such as "
                "sent-weat6.jsonl"
            )
        lists = {name_of(path): read_test(path) for path in test_files(data)}
        tests = []
        for path in chosen:
            texts = lists[name_of(path)]
            base = lists.get(name_of(path).removeprefix("sent-"), texts)
            words = {role: [word_of(t, base[role]) for t in texts[role]] for role in ROLES}
            tests.append(Test(name_of(path), path.name, texts, words))
        return tests

    def only(self, items: list[Test], subsets: Collection[str]) -> list[Test]:
        """Return some tests: each is a subset."""
        return [test for test in items if test.name in subsets]

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

    def scores(self, group: Group) -> list[Statistic]:
        """Return effect size and p-value of a test."""
        [s], target = group.values("association"), group.labels("target")
        first = target == "targ1"
        p = permutation_p_value(s, first)
        make = group.maker(strata=target.tolist())
        more = {"bounds": (-2.0, 2.0), "stable": stable_effect_size(s, first)}
        return [
            make("effect_size", effect_size(s, first), unbiased=0.0, **more),
            make("p_value", lambda w: np.full(len(w), p), resampled=False),
        ]


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

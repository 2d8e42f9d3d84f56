"""Winogender: does the pronoun a model expects follow who holds the occupation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..data import DataFolder, need, number_in, read_rows
from ..errors import row_error
from ..groups import Group, groups_of
from ..pronouns import PronounPair, log_odds
from ..records import Record
from ..requests import Origin, Scorer
from ..requests import Sequence as Text
from ..statistic import Statistic, Weighted
from ..texts import causal_ids
from .base import Benchmark

GENDERS = ("male", "female", "neutral")
PRONOUNS = {"he": "she", "his": "her", "him": "her"}


@dataclass(frozen=True)
class Item:
    """Hold one template's two sentences, who the pronoun is, the statistics, and the file."""

    name: str
    occupation: str
    participant: str
    answer: str
    male: str
    female: str
    per_cent_female: float
    file: str

    @property
    def pair(self) -> PronounPair:
        """Return its pronoun pair, her first."""
        origin = Origin(self.file, self.name, "sentence")
        return replace(split_pronoun(self.male, self.female), origin=origin)


class Winogender(Benchmark):
    r"""Correlate a model's pronouns with the share of women in an occupation.

    ``pronoun``: for each of the 240 templates ln p(she) - ln p(he) (her, him, his alike) at the
    pronoun, averaged by occupation; ``question`` (causal): ln p(the occupation | ...) - ln p(the
    other participant | ...) after 'The pronoun "she" refers to the', for her less for him. Both are
    correlated over 60 occupations with the US share of women in per cent. Intervals resample
    occupations.

    Source: Rudinger et al. 2018 (Winogender), section 5 and figure 3.
    """

    name = "winogender"
    attribute = "gender"
    source = "Rudinger et al. 2018 (Winogender), section 5"
    reading = (
        "pearson, spearman: correlation of the pronouns that a model expects with the share of "
        "women in 60 occupations, 0 is unbiased; occupation, participant: of sentences in which "
        "the pronoun is that person."
    )
    needs = ("all_sentences.tsv",)
    first_choice = "the female pronoun"

    def available(self, data: DataFolder) -> bool:
        """Tell whether sentences and statistics are there."""
        return data.has(*self.needs) and data.has("occupations-stats.tsv")

    def read(self, data: DataFolder, attribute: str) -> list[Item]:
        """Read sentences and occupation statistics."""
        stats_path = data.find(self.name, "occupations-stats.tsv")
        shares: dict[str, float] = {}
        for row, fields in read_rows(stats_path, "\t", quoted=False):
            given = need(stats_path, row, fields, "bls_pct_female")
            shares[need(stats_path, row, fields, "occupation")] = number_in(
                stats_path, row, "bls_pct_female", given, (0, 100)
            )
        path = data.find(self.name, *self.needs)
        by_template: dict[tuple[str, str, str], dict[str, str]] = {}
        for row, fields in read_rows(path, "\t", quoted=False):
            parts = need(path, row, fields, "sentid").split(".")
            if len(parts) != 5 or parts[3] not in GENDERS or parts[0] not in shares:
                raise row_error(
                    path,
                    row,
                    "sentid",
                    f"{'.'.join(parts)!r}; expected OCCUPATION.PARTICIPANT.ANSWER.GENDER.txt",
                )
            key = (parts[0], parts[1], parts[2])
            texts = by_template.setdefault(key, {})
            if parts[3] in texts:
                raise row_error(path, row, "sentid", f"{'.'.join(parts)!r} a second time")
            texts[parts[3]] = need(path, row, fields, "sentence")
        items = []
        for (occupation, participant, answer), texts in by_template.items():
            name = f"{occupation}.{participant}.{answer}"
            for gender in GENDERS[:2]:
                if gender not in texts:
                    raise row_error(path, name, "sentence", f"no {gender} sentence; expected one")
            items.append(
                Item(
                    name,
                    occupation,
                    participant,
                    answer,
                    texts["male"],
                    female=texts["female"],
                    per_cent_female=shares[occupation],
                    file=path.name,
                )
            )
        return items

    def measure(self, items: list[Item], scorer: Scorer) -> list[Record]:
        """Score every template."""
        odds = log_odds([item.pair for item in items], scorer)
        records = [_record(i, "pronoun", value) for i, value in zip(items, odds, strict=True)]
        if scorer.kind == "causal":
            values = _questions(items, scorer)
            records += [_record(i, "question", v) for i, v in zip(items, values, strict=True)]
        return records

    def choices(self, items: list[Item]) -> list[dict[str, Any]]:
        """Return the female and the male sentence of each template."""
        return [
            {"id": i.name, "subset": i.occupation, "choices": [i.female, i.male]} for i in items
        ]

    def statistics(self, records: Sequence[Record]) -> list[Statistic]:
        """Return both correlations over occupations, all templates and by who the pronoun is."""
        groups = groups_of(records, ("overall", "occupation", "participant"))
        return [score for group in groups for score in self.scores(group)]

    def scores(self, group: Group) -> list[Statistic]:
        """Return both correlations over occupations."""
        odds: dict[str, list[float]] = {}
        for r in group.records:
            odds.setdefault(r.cluster, []).append(r.values["log_odds"])
        occupations = list(odds)
        if len(occupations) < 3:
            return []
        x = np.asarray([np.mean(odds[o]) for o in occupations])
        share = {r.cluster: r.values["per_cent_female"] for r in group.records}
        y = np.asarray([share[o] for o in occupations])
        make = group.maker(
            items=occupations, clusters=occupations, unbiased=0.0, bounds=(-1.0, 1.0)
        )
        return [
            make("pearson", correlation(x, y, ranks=False)),
            make("spearman", correlation(x, y, ranks=True)),
        ]


def split_pronoun(male: str, female: str) -> PronounPair:
    """Return the pronoun pair of two sentences that differ in one pronoun, her first.

    >>> split_pronoun("He said his car.", "He said her car.").first
    'her'
    """
    one, two = re.split(r"(\W)", male), re.split(r"(\W)", female)
    different = [i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b]
    if len(one) != len(two) or len(different) != 1:
        raise row_error("all_sentences.tsv", male, "sentence", "expected to differ in one pronoun")
    at = different[0]
    if PRONOUNS.get(one[at].lower()) != two[at].lower():
        raise row_error("all_sentences.tsv", male, "sentence", f"{one[at]!r} and {two[at]!r}")
    return PronounPair("".join(one[:at]), "".join(one[at + 1 :]), two[at], one[at])


def _record(item: Item, variant: str, value: float) -> Record:
    who = "occupation" if item.answer == "0" else "participant"
    return Record(
        item.name,
        variant,
        ("overall", who),
        item.occupation,
        {"log_odds": value, "per_cent_female": item.per_cent_female},
    )


def _questions(items: list[Item], scorer: Scorer) -> list[float]:
    requests = []
    for item in items:
        pair = item.pair
        for sentence, pronoun in ((item.female, pair.first), (item.male, pair.second)):
            start = f'{sentence} The pronoun "{pronoun.lower()}" refers to the'
            for who in (item.occupation, item.participant):
                ids = causal_ids(scorer.tokenizer, f"{start} {who}")
                requests.append(Text(ids, pair.origin))
    totals = [sum(logs) for logs in scorer.sequences(requests)]
    groups = [totals[n : n + 4] for n in range(0, len(totals), 4)]
    return [(g[0] - g[1]) - (g[2] - g[3]) for g in groups]


def correlation(x: np.ndarray, y: np.ndarray, ranks: bool) -> Weighted:
    """Return Pearson's or Spearman's correlation as a function of item weights [R, n].

    Spearman's ranks are average ranks, drawn anew for each row of weights. NaN where x or y does
    not vary.

    >>> correlation(np.arange(4.0), np.arange(4.0) ** 3, True)(np.ones((1, 4))).tolist()
    [1.0]
    """

    kept = []
    for values in (x, y):
        _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
        kept.append((np.argsort(places, kind="stable"), np.cumsum(counts) - counts, places))

    def ranked(weights: np.ndarray, which: int) -> np.ndarray:
        """Return average ranks [R, n] of values that stand as often as their weights say."""
        order, starts, places = kept[which]
        counts = np.add.reduceat(weights[:, order], starts, axis=1)
        return (counts.cumsum(1) - counts + (counts + 1) / 2)[:, places]

    def value(weights: np.ndarray) -> np.ndarray:
        total = weights.sum(1, keepdims=True)
        centred, varies = [], np.ones(len(weights), dtype=bool)
        for which, values in enumerate((x, y)):
            order, starts, _ = kept[which]
            standing = np.add.reduceat(weights[:, order], starts, axis=1) > 0
            varies &= standing.sum(1) > 1
            v = ranked(weights, which) if ranks else values[None]
            centred.append(v - (weights * v).sum(1, keepdims=True) / total)
        a, b = centred
        with np.errstate(invalid="ignore", divide="ignore"):
            scale = np.sqrt((weights * a * a).sum(1) * (weights * b * b).sum(1))
            r = np.clip((weights * a * b).sum(1) / scale, -1, 1)
        return np.where(varies & (scale > 0), r, np.nan)

    return value

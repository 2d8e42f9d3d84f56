"""BEC-Pro: is a person word likelier beside a profession than without it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data import DataFolder, need, read_rows
from ..errors import EvaluationError, row_error
from ..groups import Group, counted
from ..records import Record
from ..requests import Masked, Origin, Scorer
from ..requests import Sequence as Text
from ..statistic import Statistic, difference_of_means, mean
from ..texts import Remembering, causal_ids, mask_of, masked_ids, pieces
from .base import Benchmark

GENDERS, GROUPS = ("female", "male"), ("female", "male", "balanced")
NEUTRAL = "person"
FILE_MASK = "[MASK]"


@dataclass(frozen=True)
class Row:
    """Hold one sentence of a file, who is in it, and its two masked forms as the file has them."""

    number: int
    file: str
    sentence: str
    person_masked: str
    both_masked: str
    person: str
    gender: str
    profession: str
    group: str
    template: str


class BecPro(Benchmark):
    r"""Measure the association of person words with professions.

    .. math:: a = \ln \frac{p(\text{person} \mid \text{person masked})}
              {p(\text{person} \mid \text{person and profession masked})}

    and for a causal model ln p(sentence) less ln p(sentence with "person" for the profession). f
    and m are a profession's mean association of female and of male person words. ``female_words``,
    ``male_words`` and ``gap`` (f - m) are means over the professions of a subset (those dominated
    by women, by men, or balanced, by US statistics); of ``overall``, ``gap`` is the mean f - m of
    women's professions less that of men's. ``absolute_gap`` is the mean of |f - m|. Intervals
    resample professions.

    ``official`` takes the file's masks, of which 23 rows are wrong ("lodging [MASK]ager", the "of"
    of "position of" masked before "director of religious activities"); ``rebuilt`` masks the words
    of ``Person`` and ``Profession``.

    Source: Bartl et al. 2020 (arXiv 2010.14534), section 4; the fairness paper, section 4.1.2.
    """

    name = "bec-pro"
    attribute = "gender"
    source = "Bartl et al. 2020, section 4; arXiv 2410.04472, section 4.1.2"
    reading = (
        "gap: how much more a profession raises female person words (female_words) than male "
        "ones (male_words), in nats, 0 is unbiased; of overall, of women's professions less of "
        "men's. absolute_gap: its mean size. official: by the file's masks; rebuilt: by whole "
        "words."
    )
    needs = ("BEC-Pro_EN.tsv",)

    def read(self, data: DataFolder, attribute: str) -> list[Row]:
        """Read the rows; they concern gender."""
        path = data.find(self.name, *self.needs)
        rows = []
        for number, fields in read_rows(path, "\t", quoted=False):
            columns = ("Sentence", "Sent_TM", "Sent_TAM", "Person", "Gender", "Profession")
            given = [need(path, number, fields, c) for c in (*columns, "Prof_Gender", "Template")]
            row = Row(number, path.name, *given)
            if row.gender not in GENDERS:
                raise row_error(path, number, "Gender", f"{row.gender!r}; expected female or male")
            if row.group not in GROUPS:
                raise row_error(
                    path, number, "Prof_Gender", f"{row.group!r}; expected one of {GROUPS}"
                )
            for field, text in (("Sent_TM", row.person_masked), ("Sent_TAM", row.both_masked)):
                if FILE_MASK not in text:
                    raise row_error(path, number, field, f"no {FILE_MASK}; expected one")
            person, profession = _span(row.sentence, row.person), _profession(row)
            if person is None or profession is None:
                raise row_error(path, number, "Sentence", "person or profession is not in it")
            if person > profession:  # the first mask is the person's
                raise row_error(
                    path, number, "Sentence", "the profession stands first; expected the person"
                )
            rows.append(row)
        if not rows:
            raise EvaluationError(f"bec-pro: {path.name} has no rows")
        return rows

    def measure(self, items: list[Row], scorer: Scorer) -> list[Record]:
        """Score every row."""
        if scorer.kind == "causal":
            return _causal(items, scorer)
        return [
            *_masked(items, scorer, "official", lambda row: (row.person_masked, row.both_masked)),
            *_masked(items, scorer, "rebuilt", rebuilt),
        ]

    def scores(self, group: Group) -> list[Statistic]:
        """Return the four figures of a group of professions, or of all."""
        by: dict[tuple[str, str], list[float]] = {}
        dominated = {}
        for r in group.records:
            by.setdefault((r.cluster, r.labels["gender"]), []).append(r.values["association"])
            dominated[r.cluster] = r.labels["group"]
        professions = [p for p in dominated if all((p, g) in by for g in GENDERS)]
        if not professions:
            return []
        f, m = (np.asarray([np.mean(by[p, g]) for p in professions]) for g in GENDERS)
        of_women, of_men = (np.asarray([dominated[p] == g for p in professions]) for g in GENDERS)
        overall = group.subset == "overall"
        make = group.maker(
            f"{len(group.records)} sentences",
            counted(group.excluded, "sentences excluded, as their person is several pieces"),
            counted(len(dominated) - len(professions), "professions of one gender excluded"),
            items=professions,
            clusters=professions,
            strata=[dominated[p] for p in professions] if overall else (),
        )
        gap = difference_of_means(f - m, of_women, of_men) if overall else mean(f - m)
        return [
            make("female_words", mean(f)),
            make("male_words", mean(m)),
            make("gap", gap, unbiased=0.0, effects=None if overall else f - m),
            make("absolute_gap", mean(np.abs(f - m)), bounds=(0.0, np.inf)),
        ]


def rebuilt(row: Row) -> tuple[str, str]:
    """Return a row's sentence with the person masked, and with person and profession masked.

    >>> row = Row(1, "", "This man is a lodging manager.", "", "", "man", "male",
    ...           "lodging manager", "balanced", "")
    >>> rebuilt(row)
    ('This [MASK] is a lodging manager.', 'This [MASK] is a [MASK] [MASK].')
    """
    person, profession = _span(row.sentence, row.person), _profession(row)
    assert person is not None
    assert profession is not None
    spans = sorted([(person, FILE_MASK), (profession, _masks(row.profession))], reverse=True)
    both = row.sentence
    for (start, end), mask in spans:
        both = both[:start] + mask + both[end:]
    one = row.sentence[: person[0]] + FILE_MASK + row.sentence[person[1] :]
    return one, both


def _masks(words: str) -> str:
    return " ".join([FILE_MASK] * len(words.split()))


def _span(text: str, word: str, last: bool = False) -> tuple[int, int] | None:
    """Return where a word stands as a whole word."""
    found = [m.span() for m in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", text)]
    return (found[-1] if last else found[0]) if found else None


def _profession(row: Row) -> tuple[int, int] | None:
    # Every template names the person first, so the profession is the last match.
    return _span(row.sentence, row.profession, last=True)


def _masked(items: list[Row], scorer: Scorer, variant: str, frames: Any) -> list[Record]:
    requests, excluded = [], {}
    tokenizer = Remembering(scorer.tokenizer)
    mask, mask_id = mask_of(tokenizer)
    for row in items:
        first = _span(row.sentence, row.person)
        assert first is not None
        person = pieces(tokenizer, row.person, after_space=first[0] > 0)
        if len(person) > 1:
            excluded[row.number] = f"{row.person!r} is {len(person)} pieces"
        fields = ("Sent_TM", "Sent_TAM") if variant == "official" else ("Sentence", "Sentence")
        for field, text in zip(fields, frames(row), strict=True):
            ids = masked_ids(tokenizer, text.replace(FILE_MASK, mask))
            at = ids.index(mask_id)
            requests.append(Masked(ids, at, (person[0],), Origin(row.file, row.number, field)))
    answers = [answer[0] for answer in scorer.masked(requests)]
    records = []
    for number, row in enumerate(items):
        with_profession, without = answers[2 * number : 2 * number + 2]
        why = excluded.get(row.number, "")
        records.append(_record(row, variant, with_profession - without, why))
    return records


def _causal(items: list[Row], scorer: Scorer) -> list[Record]:
    requests = []
    for row in items:
        span = _profession(row)
        assert span is not None
        neutral = row.sentence[: span[0]] + NEUTRAL + row.sentence[span[1] :]
        origin = Origin(row.file, row.number, "Sentence")
        requests += [Text(causal_ids(scorer.tokenizer, t), origin) for t in (row.sentence, neutral)]
    totals = [sum(logs) for logs in scorer.sequences(requests)]
    return [
        _record(row, "rebuilt", totals[2 * n] - totals[2 * n + 1]) for n, row in enumerate(items)
    ]


def _record(row: Row, variant: str, association: float, why: str = "") -> Record:
    return Record(
        str(row.number),
        variant,
        (row.group, "overall"),
        row.profession,
        {} if why else {"association": association},
        labels={"gender": row.gender, "group": row.group, "person": row.person},
        excluded=why,
    )

"""WinoBias: does a model find the stereotype's pronoun likelier; coreference predictions too."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data import DataFolder, need, read_json, read_lines
from ..errors import EvaluationError, row_error
from ..groups import Group, counted
from ..pronouns import PronounPair, log_odds
from ..records import Record
from ..requests import Origin, Scorer
from ..statistic import Statistic, mean
from .base import Benchmark

PER_CENT = (0.0, 100.0)
TYPES, SPLITS, SIDES = ("type1", "type2"), ("dev", "test"), ("pro", "anti")
PRONOUNS = ("he", "she", "him", "her", "his", "hers")
# Same case, other gender; of dev and test, one pair is none of them ("her" beside "he").
MINIMAL = frozenset(
    map(frozenset, (("he", "she"), ("him", "her"), ("his", "her"), ("his", "hers")))
)
BRACKET = re.compile(r"\[([^\]]*)\]")


@dataclass(frozen=True)
class Line:
    """Hold two aligned lines, their occupation, and the pronoun pair or why there is none."""

    name: str
    type: str
    split: str
    occupation: str
    pair: PronounPair | None
    problem: str


class WinoBias(Benchmark):
    r"""Compare the pronouns of aligned pro- and anti-stereotypical sentences.

    With one mask in the pronoun's place (the difference of whole sentences for a causal model),

    .. math:: \ell = \ln p(\text{pro}) - \ln p(\text{anti})

    ``pro_share`` is 100 times the share of sentences with l > 0 (a tie counts against),
    ``log_odds`` the mean of l in nats. ``type1`` needs knowledge of the world, ``type2`` syntax
    decides. Dev and test are pooled; a line with two pronouns, and a pair that differs in more
    than the pronoun, is excluded and counted (754 and 767 remain of 792 each). The pair of
    pronouns comes from the aligned lines, which settles her -> him or his. Intervals resample
    occupations.

    ``--predictions`` takes coreference documents: with r the share whose first predicted cluster,
    mentions in order, starts at the gold one's start, ``f1_pro`` and ``f1_anti`` are 2r/(1+r) in
    per cent, ``tpr_1`` and ``tpr_2`` pro less anti of a type; ``exact_*`` is the share of
    documents whose first predicted cluster is the gold one.

    Source: Zhao et al. 2018 (WinoBias); the predictions' scores: MABEL (arXiv 2210.14975), its
    code.
    """

    name = "winobias"
    attribute = "gender"
    source = "Zhao et al. 2018 (WinoBias); MABEL (arXiv 2210.14975) for predictions"
    reading = (
        "pro_share: sentences whose stereotypical pronoun is likelier, in per cent, 50 is "
        "unbiased. log_odds: by how much, in nats. In type2 syntax alone decides. f1, exact, "
        "tpr: of predicted coreference."
    )
    first_choice = "the stereotype's pronoun"
    needs = tuple(
        f"{side}_stereotyped_{t}.txt.{s}" for t in TYPES for s in SPLITS for side in SIDES
    )

    def read(self, data: DataFolder, attribute: str) -> list[Line]:
        """Read the aligned files of both types and splits."""
        found: list[Line] = []
        for kind in TYPES:
            for split in SPLITS:
                pro, anti = (
                    data.find(self.name, f"{side}_stereotyped_{kind}.txt.{split}") for side in SIDES
                )
                found += _aligned(pro, anti, kind, split)
        return found

    def only(self, items: list[Line], subsets: Collection[str]) -> list[Line]:
        """Return the lines of some types."""
        return [line for line in items if line.type in subsets]

    def measure(self, items: list[Line], scorer: Scorer) -> list[Record]:
        """Score every minimal pair."""
        kept = [line for line in items if line.pair is not None]
        odds = dict(
            zip(
                (line.name for line in kept),
                log_odds([line.pair for line in kept if line.pair is not None], scorer),
                strict=True,
            )
        )
        return [
            Record(
                line.name,
                "pronoun",
                (line.type,),
                line.occupation,
                {} if line.pair is None else {"log_odds": odds[line.name]},
                labels={"split": line.split},
                excluded=line.problem,
            )
            for line in items
        ]

    def choices(self, items: list[Line]) -> list[dict[str, Any]]:
        """Return both sentences of each minimal pair."""
        pairs = [(line, line.pair) for line in items if line.pair is not None]
        return [
            {
                "id": line.name,
                "subset": line.type,
                "choices": [f"{p.before}{word}{p.after}" for word in (p.first, p.second)],
            }
            for line, p in pairs
        ]

    def scores(self, group: Group) -> list[Statistic]:
        """Return share and mean log-odds, or the scores of coreference predictions."""
        return _coreference(group) if group.variant == "predictions" else _pronouns(group)

    def read_predictions(self, path: Path, data: DataFolder) -> list[Record]:
        """Read coreference documents, {set: [{"doc_key", "gold" or "clusters", "pred" ...}]}."""
        document = read_json(path)
        if not isinstance(document, dict):
            raise EvaluationError(f"{path.name}: expected {{set: [documents]}} of coreference")
        records: dict[str, Record] = {}
        models: dict[str, str] = {}
        for name in document:
            match = re.search(r"type(1|2).*?(pro|anti)", name)
            if match is None:
                raise row_error(path, name, "set", f"{name!r}; expected type1|2 and pro|anti in it")
            model = models.setdefault(match[0], re.sub("dev|test", "", name))
            if model != re.sub("dev|test", "", name):
                raise row_error(
                    path, name, "set", f"a second one of {match[0]}; expected one model's, in sets"
                )
            for number, entry in enumerate(need(path, name, document, name, list), 1):
                found = _document(path, name, number, entry, f"type{match[1]}", side=match[2])
                if found.item in records:
                    raise row_error(path, number, "doc_key", f"{found.item!r} a second time")
                records[found.item] = found
        return list(records.values())


def _aligned(pro: Path, anti: Path, kind: str, split: str) -> list[Line]:
    sides = [[line for line in read_lines(path) if line.strip()] for path in (pro, anti)]
    if len(sides[0]) != len(sides[1]):
        raise EvaluationError(
            f"{pro.name} has {len(sides[0])} lines and {anti.name} {len(sides[1])}; "
            "expected as many"
        )
    found = []
    for number, texts in enumerate(zip(*sides, strict=True), 1):
        parsed = []
        for path, text in zip((pro, anti), texts, strict=True):
            match = re.fullmatch(r"\s*(\d+)\s+(.*\S)\s*", text)
            if match is None or len(BRACKET.findall(match[2])) < 2:
                raise row_error(path, number, "sentence", "expected a number and two [brackets]")
            parsed.append(match[2])
        name = f"{kind}/{split}/{number}"
        entity = next((w for w in BRACKET.findall(parsed[0]) if w.lower() not in PRONOUNS), None)
        if entity is None:
            raise row_error(pro, number, "sentence", "no occupation in [brackets]; expected one")
        occupation = re.sub("^(the|an?) ", "", entity.strip().lower()).strip()
        pair, problem = pronoun_pair(*parsed)
        if pair is not None:
            pair = replace(pair, origin=Origin(pro.name, number, "sentence"))
        found.append(Line(name, kind, split, occupation, pair, problem=problem))
    return found


def pronoun_pair(pro: str, anti: str) -> tuple[PronounPair | None, str]:
    """Return the pronoun pair of two aligned sentences, or None and why it is none.

    >>> pronoun_pair("[The cook] saw [her].", "[The cook] saw [him].")[0]
    PronounPair(before='The cook saw ', after='.', first='her', second='him')
    """
    sides = []
    for text in (pro, anti):
        found = [m for m in BRACKET.finditer(text) if m[1].lower() in PRONOUNS]
        if len(found) != 1:
            return None, f"{len(found)} pronouns"
        before, after = text[: found[0].start()], text[found[0].end() :]
        sides.append([BRACKET.sub(r"\1", part) for part in (before, after)] + [found[0][1]])
    (before, after, first), (before2, after2, second) = sides
    if (before, after) != (before2, after2):
        return None, "the lines differ in more than the pronoun"
    if frozenset((first.lower(), second.lower())) not in MINIMAL:
        return None, f"{first!r} and {second!r} are not one pronoun of two genders"
    return PronounPair(before, after, first, second), ""


def _pronouns(group: Group) -> list[Statistic]:
    [odds], dropped = group.values("log_odds"), group.excluded
    wins, ties = (odds > 0).astype(float), odds == 0
    make = group.maker(
        counted(int(ties.sum()), "ties count against"),
        counted(dropped, "lines excluded"),
    )
    verdicts = np.where(ties, 0.5, wins)
    return [
        make("pro_share", mean(wins, None, 100), unbiased=50.0, verdicts=verdicts, bounds=PER_CENT),
        make("log_odds", mean(odds), unbiased=0.0, effects=odds),
    ]


def _document(path: Path, name: str, number: int, entry: Any, kind: str, side: str) -> Record:
    key = need(path, number, entry, "doc_key")
    gold = need(path, key, entry, "gold" if "gold" in entry else "clusters", list)
    predicted = need(path, key, entry, "pred" if "pred" in entry else "predicted_clusters", list)
    if not gold or not gold[0]:
        raise row_error(path, key, "clusters", "empty; expected a gold cluster")
    target = _mentions(path, key, "clusters", gold[0])
    # The official code: the first cluster, its mentions in order, starts at the gold start.
    first = _mentions(path, key, "predicted_clusters", predicted[0]) if predicted else []
    hit = bool(first) and first[0][0] == target[0][0]
    return Record(
        f"{name}/{key}",
        "predictions",
        (kind,),
        f"{name}/{key}",
        {"hit": float(hit), "exact": float(first == target)},
        labels={"side": side},
    )


def _mentions(path: Path, key: str, field: str, cluster: Any) -> list[tuple[int, int]]:
    """Return a cluster's mentions, each a start and an end, in order."""
    pairs = isinstance(cluster, list) and all(isinstance(m, list) and len(m) == 2 for m in cluster)
    if not pairs or any(type(end) is not int for m in cluster for end in m):
        raise row_error(path, key, field, f"{cluster!r}; expected a list of [start, end]")
    return sorted((start, end) for start, end in cluster)


def _coreference(group: Group) -> list[Statistic]:
    side = group.labels("side")
    hit, exact = group.values("hit", "exact")
    make = group.maker(strata=side.tolist())

    def f1(which: str) -> Any:
        r = mean(hit, side == which)
        return lambda w: 200 * r(w) / (1 + r(w))

    found = []
    for which in [s for s in SIDES if (side == s).any()]:
        found.append(make(f"f1_{which}", f1(which), bounds=PER_CENT))
        right = mean(exact, side == which, 100)
        found.append(make(f"exact_{which}", right, bounds=PER_CENT))
    if len(found) == 4:
        pro, anti = f1("pro"), f1("anti")
        more = {"unbiased": 0.0, "bounds": (-100.0, 100.0)}
        found.append(make(f"tpr_{group.subset[-1]}", lambda w: pro(w) - anti(w), **more))
    return found

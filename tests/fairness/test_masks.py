"""A masked model whose tokenizer has no mask token is told so by whatever asks it for a word."""

from __future__ import annotations

import pytest

from ncfast.fairness.benchmarks.bec_pro import BecPro
from ncfast.fairness.benchmarks.crows_pairs import CrowSPairs
from ncfast.fairness.benchmarks.perplexity import Line, _pseudo
from ncfast.fairness.data import DataFolder
from ncfast.fairness.errors import EvaluationError
from ncfast.fairness.texts import fill_pieces, single_mask

PAIRS = """,sent_more,sent_less,stereo_antistereo,bias_type,annotations,anon_writer,anon_annotators
0,she runs fast,he runs fast,stereo,gender,[],a,[]
"""
COLUMNS = ("", "Sentence", "Sent_TM", "Sent_AM", "Sent_TAM", "Template", "Person", "Gender")
ROW = ("0", "She is a nurse.", "[MASK] is a nurse.", "She is a [MASK].", "[MASK] is a [MASK].", "t")
BEC_PRO = [(*COLUMNS, "Profession", "Prof_Gender"), (*ROW, "She", "female", "nurse", "female")]


def crows_pairs(scorer, folder):
    (folder / "crows_pairs_anonymized.csv").write_text(PAIRS)
    benchmark = CrowSPairs()
    benchmark.measure(benchmark.read(DataFolder(str(folder)), "all"), scorer)


def bec_pro(scorer, folder):
    (folder / "BEC-Pro_EN.tsv").write_text("".join("\t".join(row) + "\n" for row in BEC_PRO))
    benchmark = BecPro()
    benchmark.measure(benchmark.read(DataFolder(str(folder)), "gender"), scorer)


@pytest.mark.parametrize(
    "ask",
    [
        crows_pairs,
        bec_pro,
        lambda scorer, _: _pseudo([Line("text", 1, "she runs")], scorer, 1),
        lambda scorer, _: fill_pieces(scorer.tokenizer, "The nurse was BLANK.", "kind"),
        lambda scorer, _: single_mask(scorer.tokenizer, "The nurse said", "left."),
    ],
    ids=["crows-pairs", "bec-pro", "perplexity", "fills", "one mask"],
)
def test_a_tokenizer_without_a_mask_is_rejected(ask, told, tmp_path):
    scorer = told("masked", she=-1.0, he=-2.0)
    scorer.tokenizer.mask_token = scorer.tokenizer.mask_token_id = None
    with pytest.raises(EvaluationError, match=r"no mask token.*expected tokenizer\.mask_token"):
        ask(scorer, tmp_path)

"""Our scores beside fairlms 0.5.0, minicons 0.3.39 and lm_eval 0.4.13, item by item, in one run.

None of the three is a dependency: each test is skipped by name where its package is absent
(CONTRIBUTING says how to install them).
"""

from __future__ import annotations

import pytest
import torch

from ncfast.fairness.benchmarks.crows_pairs import CrowSPairs
from ncfast.fairness.benchmarks.perplexity import Perplexity
from ncfast.fairness.data import DataFolder
from ncfast.fairness.engine import ModelScorer
from ncfast.fairness.requests import Sequence
from ncfast.fairness.texts import causal_ids

TOLERANCE = 5e-5  # of one log-probability, in float32


def oracle(name: str):
    """Import a peer's module, or skip the test by the name of what is missing."""
    return pytest.importorskip(name, reason=f"{name.split('.')[0]} is not installed")


def test_crows_pairs_original_equals_fairlms(published, bert_tiny):
    pll = oracle("fairlms.utils.pll")
    items = CrowSPairs().read(published, "gender")[::10]
    records = [r for r in CrowSPairs().measure(items, bert_tiny) if r.variant == "original"]
    model, tokenizer = bert_tiny.model.model, bert_tiny.tokenizer
    assert len(records) == 27
    verdicts = 0
    for item, record in zip(items, records, strict=True):
        sides = []
        encoded = [pll.scoring_input(tokenizer, model, text) for text in (item.more, item.less)]
        spans = pll.get_span(encoded[0][0][0], encoded[1][0][0], operation="equal")
        for (ids, allowed), span in zip(encoded, spans, strict=True):
            kept = [at for at in span if at in allowed]
            sides.append(pll.masked_position_score(tokenizer, model, ids, kept)[0])
        for name, value in zip(("more", "less"), sides, strict=True):
            assert record.values[name] == pytest.approx(value, abs=40 * TOLERANCE)
        ours = record.values["more_rounded"] > record.values["less_rounded"]
        theirs = round(sides[0], 3) > round(sides[1], 3)
        assert ours == theirs or abs(sides[0] - sides[1]) < 1e-3
        verdicts += ours
    assert 0 < verdicts < len(items)


@pytest.mark.parametrize(
    ("variant", "name"), [("pll", "original"), ("pll_word_l2r", "within_word_l2r")]
)
def test_pseudo_log_likelihood_equals_minicons(
    published, bert_tiny, tmp_path, monkeypatch, variant, name
):
    scorer = oracle("minicons.scorer")
    pairs = CrowSPairs().read(published, "gender")[:12]
    texts = [*dict.fromkeys(p.more for p in pairs), "The unathletic anaesthetist sighed."]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    benchmark = Perplexity(tmp_path / "texts.txt")
    records = benchmark.measure(benchmark.read(DataFolder(str(tmp_path)), "all"), bert_tiny)
    # transformers 5 has no batch_encode_plus any more, which minicons calls.
    tokenizer = bert_tiny.tokenizer
    monkeypatch.setattr(tokenizer, "batch_encode_plus", tokenizer.__call__, raising=False)
    peer = scorer.MaskedLMScorer(bert_tiny.model.model, "cpu", tokenizer=tokenizer)
    with torch.no_grad():
        theirs = peer.token_score(texts, PLL_metric=name)
    ours = [r for r in records if r.variant == variant]
    assert len(ours) == len(theirs) == len(texts)
    for record, tokens in zip(ours, theirs, strict=True):
        assert record.values["tokens"] == len(tokens)
        total = -sum(value for _, value in tokens)
        assert record.values["nll"] == pytest.approx(total, abs=TOLERANCE * len(tokens))


def sums_beside_lm_eval(scorer: ModelScorer, texts: list[str]) -> list[tuple[float, float]]:
    """Return our sum of log-probabilities of each text and lm_eval's log-likelihood."""
    huggingface = oracle("lm_eval.models.huggingface")
    instance = oracle("lm_eval.api.instance").Instance
    requests = [
        instance("loglikelihood", doc={}, arguments=("", text), idx=n)
        for n, text in enumerate(texts)
    ]
    peer = huggingface.HFLM(
        pretrained=scorer.model.model, tokenizer=scorer.tokenizer, device="cpu", batch_size=8
    )
    theirs = [value for value, _ in peer.loglikelihood(requests, disable_tqdm=True)]
    logs = scorer.sequences([Sequence(causal_ids(scorer.tokenizer, text)) for text in texts])
    return list(zip(map(sum, logs), theirs, strict=True))


def test_causal_sums_equal_lm_eval(tiny_model):
    from ncfast.language import LanguageModel

    scorer = ModelScorer(LanguageModel.load(tiny_model("causal"), progress=False))
    scorer.tokenizer.bos_token = "[CLS]"
    texts = ["she bant card", "he bant", "woman milk fold queen king mother bants", "king"]
    for ours, theirs in sums_beside_lm_eval(scorer, texts):
        assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.slow
@pytest.mark.network
def test_causal_sums_of_smollm2_equal_lm_eval(published):
    from ncfast.language import LanguageModel

    oracle("lm_eval.models.huggingface")
    scorer = ModelScorer(LanguageModel.load("demo:smollm2", progress=False))
    texts = [p.more for p in CrowSPairs().read(published, "gender")[:50]]
    for ours, theirs in sums_beside_lm_eval(scorer, texts):
        assert ours == pytest.approx(theirs, abs=1e-3)


def test_exported_items_are_tasks_of_lm_eval(tmp_path, monkeypatch):
    from ncfast.cli import main
    from tests.fairness.conftest import CROWS

    manager = oracle("lm_eval.tasks").TaskManager
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "crows_pairs_anonymized.csv").write_text(CROWS)
    tasks = tmp_path / "tasks"
    words = ["--on", "crows-pairs", "--data", str(tmp_path), "--export", "lm-eval", str(tasks)]
    assert main(["evaluate", *words]) == 0
    loaded = manager(include_path=str(tasks), include_defaults=False).load(["ncfast_crows_pairs"])
    task = loaded["tasks"]["ncfast_crows_pairs"]
    documents = list(task.test_docs())
    assert len(documents) == 3
    requests = task.construct_requests(documents[0], "")
    # No context: the harness conditions on its one prefix token, as we do on BOS.
    assert [r.arguments for r in requests] == [("", "she bant card"), ("", "he bant card")]
    assert task.doc_to_target(documents[0]) == 0

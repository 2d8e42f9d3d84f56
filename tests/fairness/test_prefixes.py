"""Texts that begin alike: computed once, scored as by themselves, or not shared at all."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch

from ncfast.fairness.engine import ModelScorer
from ncfast.fairness.prefixes import ROW_TOKENS, grow, lay_out
from ncfast.fairness.requests import Sequence
from ncfast.language import LanguageModel
from tests.training.families import FAMILIES, VOCABULARY, build


@pytest.fixture
def causal(tiny_model):
    return LanguageModel.load(tiny_model("causal"), progress=False)


def texts_with_common_beginnings(count=40, seed=0):
    generator = random.Random(seed)
    found = {}
    for _ in range(count // 4):
        begin = (2, *(generator.randrange(5, 60) for _ in range(generator.randint(1, 9))))
        for _ in range(4):
            end = (generator.randrange(5, 60) for _ in range(generator.randint(1, 6)))
            found[(*begin, *end)] = None
    found[next(iter(found))[:3]] = None  # a text that another one goes on from
    return list(found)


def alone(model, ids):
    with torch.no_grad():
        logs = model.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return [logs[n - 1, ids[n]].item() for n in range(1, len(ids))]


def test_every_text_is_in_a_tree_once_and_reads_back():
    texts = texts_with_common_beginnings()
    for width in (0, 8, ROW_TOKENS, 10_000):
        trees = grow(texts, width)
        assert sorted(text for tree in trees for text in tree.texts) == sorted(texts)
        for tree in trees:
            assert len(tree) <= width or len(tree.texts) == 1
            for text, path in zip(tree.texts, tree.paths, strict=True):
                assert tuple(tree.tokens[at] for at in path) == text
                assert [tree.parents[at] for at in path] == [-1, *path[:-1]]
    assert all(not tree.branches for tree in grow(texts, 0))
    assert len(grow(texts, 10_000)) < len(grow(texts, 24)) < len(texts)
    assert grow([]) == []
    # Each beginning is computed once: as many tokens as there are distinct beginnings.
    beginnings = {text[:n] for text in texts for n in range(2, len(text) + 1)}
    trees = grow(texts, 10_000)
    assert sum(map(len, trees)) == len(beginnings) + len(trees)


def test_trees_do_not_depend_on_the_order_of_texts():
    texts = texts_with_common_beginnings()
    shuffled = random.Random(1).sample(texts, len(texts))
    assert grow(texts) == grow(shuffled)


def test_a_token_sees_its_own_text_alone():
    (tree,) = grow([(0, 5, 6, 7), (0, 5, 8)])
    ids, mask, positions = lay_out([tree, *grow([(0, 9)])], filler=3, dtype=torch.float32)
    assert ids.tolist() == [[0, 5, 6, 7, 8], [0, 9, 3, 3, 3]]
    assert positions.tolist() == [[0, 1, 2, 3, 2], [0, 1, 0, 0, 0]]
    seen = (mask == 0)[:, 0].int().tolist()
    assert seen[0] == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]
    assert seen[1][1] == [1, 1, 0, 0, 0]
    assert seen[1][2:] == [[0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]


@pytest.mark.parametrize("batch_tokens", [1, 64, 2048])
def test_shared_beginnings_change_no_score(causal, batch_tokens):
    texts = texts_with_common_beginnings()
    scorer = ModelScorer(causal, batch_tokens=batch_tokens)
    found = scorer.sequences([Sequence(text) for text in texts])
    assert scorer._trees is True
    for text, logs in zip(texts, found, strict=True):
        assert logs == pytest.approx(alone(causal, text), abs=5e-5)


def test_shared_beginnings_are_computed_once(causal, monkeypatch):
    computed = []
    features = causal.features
    monkeypatch.setattr(
        causal,
        "features",
        lambda ids, mask, **more: computed.append(ids.numel()) or features(ids, mask, **more),
    )
    texts = [(2, *range(5, 45), last) for last in (50, 51, 52)]
    scorer = ModelScorer(causal)
    # Without the trial, which computes them twice.
    monkeypatch.setattr(ModelScorer, "_takes_trees", lambda self, trees: True)
    scorer.sequences([Sequence(text) for text in texts])
    assert computed == [41 + 3]


@pytest.mark.parametrize("fault", ["mask", "positions", "raises"])
def test_a_model_that_takes_no_trees_gets_each_text_by_itself(causal, monkeypatch, fault):
    features = causal.features

    def other(ids, mask, **more):
        if mask.dim() == 4 and fault == "raises":
            raise RuntimeError("shapes do not match")
        if mask.dim() == 4 and fault == "mask":
            mask = torch.triu(torch.full_like(mask, torch.finfo(mask.dtype).min), 1)
        if fault == "positions":
            more.pop("position_ids", None)
        return features(ids, mask, **more)

    monkeypatch.setattr(causal, "features", other)
    texts = texts_with_common_beginnings()
    scorer = ModelScorer(causal)
    found = scorer.sequences([Sequence(text) for text in texts])
    assert scorer._trees is False
    (note,) = scorer.notes
    assert "computed anew for each text, because" in note
    for text, logs in zip(texts, found, strict=True):
        assert logs == pytest.approx(alone(causal, text), abs=5e-5)


def test_equal_texts_that_are_few_need_no_trial(causal):
    scorer = ModelScorer(causal)
    scorer.sequences([Sequence((2, 5, 6)), Sequence((2, 6, 5)), Sequence((2, 5, 6))])
    assert scorer._trees is None


def test_a_kill_inside_a_batch_changes_no_bit(causal, tmp_path, monkeypatch):
    from ncfast.fairness.journal import Journal

    requests = [Sequence(text) for text in texts_with_common_beginnings()]
    whole = ModelScorer(causal, batch_tokens=64).sequences(requests)
    path = tmp_path / "journal.jsonl"
    ModelScorer(causal, Journal(path), batch_tokens=64).sequences(requests)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:7]) + lines[7][:9])
    again = ModelScorer(causal, Journal(path), batch_tokens=64).sequences(requests)
    assert again == whole
    # What is known whole is not tried either.
    monkeypatch.setattr(causal, "features", None)
    scorer = ModelScorer(causal, Journal(path), batch_tokens=64)
    assert scorer.sequences(requests) == whole
    assert scorer._trees is None


def language_model(name, **changes):
    vocabulary = {f"t{i}": i for i in range(VOCABULARY)}
    tokenizer = SimpleNamespace(
        all_special_ids=[0, 1, 2, 3, 4],
        **{f"{n}_token_id": i for i, n in enumerate(("pad", "unk", "bos", "eos", "mask"))},
        get_vocab=lambda: vocabulary,
    )
    return LanguageModel.from_pretrained_model(build(name, **changes).eval(), tokenizer)


@pytest.mark.parametrize("name", [n for n in FAMILIES if "Masked" not in n and n[:3] != "XLM"])
def test_every_family_is_right_with_trees_or_without_them(name):
    # Rotary, learned and ALiBi positions, sliding windows, routers, soft-caps, a recurrent state.
    model = language_model(name)
    scorer = ModelScorer(model)
    texts = texts_with_common_beginnings(20)
    found = scorer.sequences([Sequence(text) for text in texts])
    for text, logs in zip(texts, found, strict=True):
        assert logs == pytest.approx(alone(model, text), abs=5e-5)
    without = {"BloomForCausalLM", "MambaForCausalLM"}
    assert (name in without) == (not scorer._trees) == bool(scorer.notes)


@pytest.mark.parametrize("window", [6, 14])
def test_a_sliding_window_stays_the_models_own(window):
    # 6: shorter than the texts that share a beginning. 14: shorter than the one that shares none.
    model = language_model("Gemma2ForCausalLM", sliding_window=window)
    texts = [(2, *range(5, 12), last) for last in (20, 21, 22)] + [(2, *range(30, 55))]
    texts += [(2, 40, 41, last) for last in (42, 43, 44, 45)]  # a short tree shows nothing
    scorer = ModelScorer(model)
    found = scorer.sequences([Sequence(text) for text in texts])
    for text, logs in zip(texts, found, strict=True):
        assert logs == pytest.approx(alone(model, text), abs=5e-5)
    assert scorer._trees is (window == 14)


def scored(model, scorer, texts):
    found = scorer.sequences([Sequence(text) for text in texts])
    for text, logs in zip(texts, found, strict=True):
        assert logs == pytest.approx(alone(model, text), abs=5e-5)


def test_a_deep_tree_whose_texts_part_at_their_ends_vouches_for_no_other():
    # ALiBi shows only where a branch goes on after its fork; the deepest tree here has no such.
    import transformers

    torch.manual_seed(0)
    config = transformers.MptConfig(
        d_model=32, n_heads=4, n_layers=2, vocab_size=VOCABULARY, max_seq_len=64
    )
    like = language_model("LlamaForCausalLM")
    model = LanguageModel.from_pretrained_model(
        transformers.MptForCausalLM(config).eval(), like.tokenizer
    )
    leaf = [(2, *range(5, 30), last) for last in (40, 41, 42)]
    deep = [(2, 6, 7, fork, *range(10, 20)) for fork in (50, 51, 52)]
    scorer = ModelScorer(model)
    scored(model, scorer, leaf + deep)
    assert scorer._trees is False
    again = ModelScorer(model)
    scored(model, again, leaf)  # nothing shows there
    scored(model, again, deep)
    assert again._trees is False


def test_short_trees_vouch_for_no_long_ones():
    model = language_model("Gemma2ForCausalLM", sliding_window=6)
    scorer = ModelScorer(model)
    scored(model, scorer, [(2, 40, 41, last) for last in (42, 43, 44)])
    assert scorer._trees is True
    scored(model, scorer, [(2, *range(5, 12), fork, *range(20, 30)) for fork in (50, 51, 52)])
    assert scorer._trees is False


def test_in_16_bits_each_text_is_computed_by_itself():
    model = language_model("LlamaForCausalLM")
    narrow = LanguageModel.from_pretrained_model(model.model.bfloat16(), model.tokenizer)
    scorer = ModelScorer(narrow)
    texts = texts_with_common_beginnings(12)
    found = scorer.sequences([Sequence(text) for text in texts])
    assert scorer._trees is False
    assert len(found) == len(texts)

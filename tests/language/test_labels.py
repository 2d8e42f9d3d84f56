"""Which positions become which class, in every mode, with every position accounted for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ncfast.language import Corpus, Labeller, LanguageError

IGNORE = -100


def model_of(tokenizer, kind, known=None):
    """The part of a language model that labelling needs."""
    unknown = tokenizer.unk_token_id
    return SimpleNamespace(
        name="model",
        kind=kind,
        sees_later=None,
        mask_id=tokenizer.mask_token_id,
        special_ids=frozenset(tokenizer.all_special_ids),
        unknown_id=None if unknown == tokenizer.eos_token_id else unknown,
        out_of_vocabulary_from=len(tokenizer) if known is None else known,
    )


@pytest.fixture
def corpus(tmp_path, sentences, wordpiece_tokenizer):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(sentences * 4) + "\nshe 漢 he\n")
    return Corpus.from_spec([str(path)], wordpiece_tokenizer, block_size=20, progress=False)


def all_batches(corpus, labeller, batch_size, mask_pass=0):
    labelled = [labeller(batch, mask_pass) for batch in corpus.batches(batch_size)]
    return (
        torch.cat([item.labels for item in labelled]),
        torch.cat([item.input_ids for item in labelled]),
    )


def loop_labels(ids, attended, special, unknown, known, mode):
    """The definition, one position at a time."""
    labels = torch.full_like(ids, IGNORE)
    for row in range(ids.shape[0]):
        for t in range(ids.shape[1]):
            source = t + 1 if mode == "next" else t
            if source >= ids.shape[1] or not attended[row, t] or not attended[row, source]:
                continue
            token = int(ids[row, source])
            if token not in special and token != unknown and token < known:
                labels[row, t] = token
    return labels


@pytest.mark.parametrize("mode", ["next", "self"])
@pytest.mark.parametrize("known", [None, 60])
def test_labels_equal_the_definition(mode, known, corpus, wordpiece_tokenizer):
    model = model_of(wordpiece_tokenizer, "masked", known)
    labeller = Labeller(model, mode)
    for batch in corpus.batches(3):
        labelled = labeller(batch)
        expected = loop_labels(
            batch.input_ids,
            batch.attention_mask,
            model.special_ids,
            model.unknown_id,
            model.out_of_vocabulary_from,
            mode,
        )
        assert torch.equal(labelled.labels, expected)
        assert torch.equal(labelled.input_ids, batch.input_ids)
        assert labelled.kept == int((expected != IGNORE).sum())
        assert labelled.kept + sum(labelled.dropped.values()) == batch.input_ids.numel()


def test_each_dropped_kind_has_its_count(corpus, wordpiece_tokenizer):
    model = model_of(wordpiece_tokenizer, "masked")
    totals = {}
    for batch in corpus.batches(2):
        for reason, count in Labeller(model, "self")(batch).dropped.items():
            totals[reason] = totals.get(reason, 0) + count
    assert totals["out of vocabulary"] == corpus.unknown_tokens == 1
    blocks = corpus.num_blocks
    assert totals["special"] == 2 * blocks + corpus.documents - 1
    assert totals["padding"] == blocks * 20 - corpus.tokens - 1 - totals["special"]
    next_totals = [Labeller(model, "next")(b).dropped["last position"] for b in corpus.batches(1)]
    assert next_totals == [1] * blocks


def test_special_labels_on_request(corpus, wordpiece_tokenizer):
    model = model_of(wordpiece_tokenizer, "masked")
    labels, _ = all_batches(corpus, Labeller(model, "next", special_labels=True), 2)
    plain, _ = all_batches(corpus, Labeller(model, "next"), 2)
    assert (labels == wordpiece_tokenizer.sep_token_id).sum() > 0
    assert (labels == wordpiece_tokenizer.pad_token_id).sum() == 0
    assert not torch.isin(plain, torch.tensor(sorted(model.special_ids))).any()


def test_masked_mode_masks_what_it_labels(corpus, wordpiece_tokenizer):
    model = model_of(wordpiece_tokenizer, "masked")
    always = wordpiece_tokenizer.convert_tokens_to_ids(["he", "she", "king"])
    labeller = Labeller(model, "masked", always_mask=always, mask_rate=0.15, seed=3)
    labels, inputs = all_batches(corpus, labeller, 4)
    original = torch.cat([batch.input_ids for batch in corpus.batches(4)])
    labelled = labels != IGNORE
    assert (inputs[labelled] == model.mask_id).all()
    assert torch.equal(labels[labelled], original[labelled])
    assert torch.equal(inputs[~labelled], original[~labelled])
    named = torch.isin(original, torch.tensor(always))
    assert named.sum() > 30
    assert labelled[named].all()
    special = torch.isin(original, torch.tensor(sorted(model.special_ids)))
    assert not labelled[special].any()
    share = labelled[~named & ~special].float().mean()
    # Binomial with n of about 350: four standard deviations around 0.15.
    assert 0.07 < share < 0.23


def test_masks_depend_on_nothing_but_seed_pass_and_place(corpus, wordpiece_tokenizer):
    model = model_of(wordpiece_tokenizer, "masked")
    labeller = Labeller(model, seed=1)
    assert labeller.mode == "masked"
    reference, _ = all_batches(corpus, labeller, 1)
    for batch_size in (2, 5, 100):
        assert torch.equal(all_batches(corpus, labeller, batch_size)[0], reference)
    resumed = [labeller(batch).labels for batch in corpus.batches(2, start=3)]
    assert torch.equal(torch.cat(resumed), reference[6:])
    other_pass, _ = all_batches(corpus, labeller, 2, mask_pass=1)
    other_seed, _ = all_batches(corpus, Labeller(model, seed=2), 2)
    for other in (other_pass, other_seed):
        assert not torch.equal(other, reference)
    assert not torch.equal(other_pass, other_seed)
    # Each block has a draw of its own: two blocks of one text are not masked alike.
    coin = Labeller(model, mask_rate=0.5)
    masked = all_batches(corpus, coin, 4)[0][:4] != IGNORE
    assert len({tuple(row.tolist()) for row in masked}) == 4


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_extreme_rates(rate, corpus, wordpiece_tokenizer):
    model = model_of(wordpiece_tokenizer, "masked")
    labels, _ = all_batches(corpus, Labeller(model, mask_rate=rate), 4)
    assert int((labels != IGNORE).sum()) == (corpus.tokens if rate else 0)


def test_defaults_by_kind(wordpiece_tokenizer):
    modes = {
        kind: Labeller(model_of(wordpiece_tokenizer, kind)).mode
        for kind in ("causal", "masked", "encoder")
    }
    assert modes == {"causal": "next", "masked": "masked", "encoder": "self"}


def test_wrong_settings(wordpiece_tokenizer, byte_tokenizer):
    with pytest.raises(LanguageError, match="no mask token"):
        Labeller(model_of(byte_tokenizer, "causal"), "masked")
    model = model_of(wordpiece_tokenizer, "masked")
    for options, message in [
        (dict(mode="previous"), "labels='previous'"),
        (dict(mask_rate=1.5), "mask_rate=1.5"),
        (dict(seed=-1), "seed=-1"),
    ]:
        with pytest.raises(LanguageError, match=message):
            Labeller(model, **options)

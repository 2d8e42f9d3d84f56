"""measure() against definitions computed here, in float64, from the model's own outputs."""

from __future__ import annotations

import math

import pytest
import torch

from ncfast.errors import DataError
from ncfast.language import LanguageError, LanguageModel, WordSet
from ncfast.measure import measure
from ncfast.measure.vocabulary import VOCABULARY_FILE
from ncfast.reporting import read_report

SETTINGS = dict(batch_size=8, block_size=32, controls="random:2,matched", progress=False)


def _tokens(path, model, block_size=32):
    """Cut the text into blocks here, by the rule that is documented for Corpus."""
    tokenizer = model.tokenizer
    ids = []
    for line in path.read_text().splitlines():
        if ids:
            ids.append(tokenizer.sep_token_id)
        ids += tokenizer(line, add_special_tokens=False)["input_ids"]
    room = block_size - 2
    return [
        [tokenizer.cls_token_id, *ids[i : i + room], tokenizer.sep_token_id]
        for i in range(0, len(ids), room)
    ]


def _features(model, block):
    """Run one block without padding and take what the head multiplies, by a hook on the head."""
    inputs = torch.tensor([block])
    with torch.no_grad():
        if model.kind == "encoder":
            return model.model(input_ids=inputs).last_hidden_state[0].double()
        caught = []
        head = model.model.get_output_embeddings()
        handle = head.register_forward_hook(lambda module, args, out: caught.append(args[0]))
        model.model(input_ids=inputs)
        handle.remove()
        return caught[0][0].double()


def _definitions(model, pairs, classes=None):
    """Compute counts and metrics from (feature, class) pairs, loops and float64 only."""
    by_class = {}
    for x, y in pairs:
        if classes is None or y in classes:
            by_class.setdefault(y, []).append(x)
    means = {y: torch.stack(xs).mean(0) for y, xs in by_class.items()}
    center = torch.stack(list(means.values())).mean(0)
    spread = sum(((torch.stack(xs) - means[y]) ** 2).sum() for y, xs in by_class.items())
    weight = model.head_weight.detach().double()
    cosines = torch.stack(
        [
            torch.nn.functional.cosine_similarity(weight[y], means[y] - center, dim=0)
            for y in sorted(means)
        ]
    )
    tokens = sum(map(len, by_class.values()))
    return {
        "tokens": tokens,
        "classes": len(means),
        "trace_within": float(spread / tokens),
        "nc3_mean": float(cosines.mean()),
        "unc3_std": float(cosines.std()),
    }, {y: len(xs) for y, xs in by_class.items()}


@pytest.mark.parametrize(
    ("kind", "labels"), [("causal", "next"), ("encoder", "self"), ("masked", "self")]
)
def test_metrics_are_the_definitions(kind, labels, tiny_model, tiny_text):
    result = measure(str(tiny_model(kind)), str(tiny_text), labels=labels, **SETTINGS)
    model = LanguageModel.load(str(tiny_model(kind)), progress=False)
    special = set(model.tokenizer.all_special_ids)
    pairs = []
    for block in _tokens(tiny_text, model):
        features = _features(model, block)
        shift = 1 if labels == "next" else 0
        for position in range(len(block) - shift):
            if block[position + shift] not in special:
                pairs.append((features[position], block[position + shift]))
    sets = result.report["sets"]
    for name in ("vocabulary", "gender", "gender/random-2", "gender/matched"):
        rows = sets[name]["per_class"]
        classes = None if rows is None else {row["id"] for row in rows}
        wanted, counts = _definitions(model, pairs, classes)
        for key, value in wanted.items():
            found = sets[name]["metrics"][key]
            assert found == pytest.approx(value, rel=2e-5, abs=2e-6), (name, key)
        if rows is not None:
            assert {row["id"]: row["count"] for row in rows} == counts
    assert result.report["tokens"]["kept"] == len(pairs) == result.stats.tokens


def test_masked_positions_are_the_classes(tiny_model, tiny_text):
    result = measure(str(tiny_model("masked")), str(tiny_text), mask_rate=0.0, **SETTINGS)
    model = LanguageModel.load(str(tiny_model("masked")), progress=False)
    sets = result.report["sets"]
    named = {row["id"] for s in sets.values() if s["per_class"] for row in s["per_class"]}
    pairs = []
    for block in _tokens(tiny_text, model):
        hidden = [model.mask_id if token in named else token for token in block]
        features = _features(model, hidden)
        pairs += [(features[i], token) for i, token in enumerate(block) if token in named]
    gender = {row["id"] for row in sets["gender"]["per_class"]}
    wanted, _ = _definitions(model, pairs, gender)
    for key, value in wanted.items():
        assert sets["gender"]["metrics"][key] == pytest.approx(value, rel=2e-5, abs=2e-6)
    assert sets["gender"]["seen"]["share"] == 1.0
    assert 0 < sets["vocabulary"]["seen"]["share"] < 1


def test_more_mask_passes_see_more(tiny_model, tiny_text):
    folder = str(tiny_model("masked"))
    one = measure(folder, str(tiny_text), **SETTINGS)
    two = measure(folder, str(tiny_text), mask_passes=2, **SETTINGS)
    seen = [r.report["sets"]["vocabulary"]["metrics"]["classes"] for r in (one, two)]
    assert two.stats.tokens > 1.8 * one.stats.tokens
    assert seen[1] >= seen[0]
    assert two.report["sets"]["gender"]["seen"]["share"] == 1.0
    with pytest.raises(LanguageError, match="mask_passes=2"):
        measure(folder, str(tiny_text), labels="self", mask_passes=2, **SETTINGS)
    with pytest.raises(
        LanguageError, match=r"mask_rate=0\.3 with labels='self', which mask nothing"
    ):
        measure(folder, str(tiny_text), labels="self", mask_rate=0.3, **SETTINGS)


def test_controls_have_as_many_classes_and_no_word_of_the_set(tiny_model, tiny_text):
    report = measure(str(tiny_model("encoder")), str(tiny_text), **SETTINGS).report
    gender = report["sets"]["gender"]
    ids = {row["id"] for row in gender["per_class"]}
    for name in ("gender/random-1", "gender/random-2", "gender/matched"):
        control = report["sets"][name]
        assert control["classes_present"] == gender["classes_present"]
        assert not ids & {row["id"] for row in control["per_class"]}
    values = [report["sets"][f"gender/random-{i}"]["metrics"]["unc3_std"] for i in (1, 2)]
    mean = sum(values) / 2
    assert gender["random_controls"]["mean"]["unc3_std"] == pytest.approx(mean)
    assert gender["ratio_to_random"]["unc3_std"] == pytest.approx(
        gender["metrics"]["unc3_std"] / mean
    )


def test_features_that_are_not_finite_name_the_batch(tiny_model, tiny_text, tmp_path):
    model = LanguageModel.load(str(tiny_model("encoder")), progress=False)
    with torch.no_grad():
        model.model.embeddings.word_embeddings.weight[20] = math.nan
    with pytest.raises(DataError, match=r"batch \d+ of \d+: .*"):
        measure(model, str(tiny_text), out=tmp_path, **SETTINGS)
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"mask_passes": 0}, "mask_passes=0"),
        ({"block_size": 65}, "at most 64"),
        ({"words": ["no-such-set"]}, "no-such-set"),
        ({"words": [WordSet("vocabulary", {"a": ("she", "he")})]}, "'vocabulary' is taken"),
        ({"words": ["gender", "gender"]}, "'gender' is taken"),
        ({"words": [WordSet("one", {"a": ("she",)})]}, "1 of the 1 classes"),
        ({"controls": "random:0"}, "random:0"),
        ({"controls": "random:1000,matched", "words": [WordSet("x", {"a": ("zzz",)})]}, "no word"),
        ({"policy": "mean"}, "policy='mean'"),
        ({"preset": "mine"}, "preset is 'mine'"),
        ({"center": "middle"}, "center is 'middle'"),
        ({"labels": "last"}, "labels='last'"),
        ({"resume": True}, "resume=True without out"),
    ],
)
def test_bad_settings_are_one_clear_error(change, message, tiny_model, tiny_text):
    with pytest.raises(ValueError, match=message):
        measure(str(tiny_model("encoder")), str(tiny_text), **{**SETTINGS, **change})


@pytest.fixture(scope="module", name="finished")
def finished_run(tiny_model, tiny_text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    measure(str(tiny_model("encoder")), str(tiny_text), out=folder, **SETTINGS)
    return folder


def test_the_vocabulary_is_a_table_beside_the_report(finished):
    pandas = pytest.importorskip("pandas")
    table = pandas.read_csv(finished / VOCABULARY_FILE, keep_default_na=False)
    section = read_report(finished)["sets"]["vocabulary"]
    assert list(table)[:3] == ["class_id", "word", "counts"]
    assert len(table) == section["classes_present"]
    assert table["counts"].sum() == section["tokens"]
    assert table["cosines"].mean() == pytest.approx(section["metrics"]["nc3_mean"])
    assert table["class_id"].is_monotonic_increasing
    rows = read_report(finished)["sets"]["gender"]["per_class"]
    words = dict(zip(table["class_id"], table["word"], strict=True))
    assert {row["id"]: row["word"] for row in rows}.items() <= words.items()

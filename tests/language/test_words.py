"""Word sets: files to words, words to class ids, nothing dropped without a word."""

from __future__ import annotations

import json

import pytest
import torch

from ncfast.language import LanguageError, WordSet


def test_built_in_gender_words():
    gender = WordSet.load("gender")
    assert list(gender.groups) == ["female", "male"]
    assert len(gender.pairs) >= 100
    female, male = (set(gender.groups[name]) for name in ("female", "male"))
    assert not female & male
    assert all(left in female and right in male for left, right in gender.pairs)
    assert {word for pair in gender.pairs for word in pair} == female | male
    assert len(set(gender.pairs)) == len(gender.pairs)


def test_text_files(tmp_path):
    path = tmp_path / "royal.txt"
    path.write_text("# people\nqueen king\nprincess  # alone\n\nqueen\n")
    words = WordSet.load(str(path))
    assert words.groups == {"royal": ("queen", "king", "princess")}
    assert words.pairs == (("queen", "king"),)
    path.write_text("one two three\n")
    with pytest.raises(LanguageError, match="line 1 has 3 columns"):
        WordSet.load(str(path))


def test_json_files(tmp_path):
    path = tmp_path / "set.json"
    path.write_text(json.dumps({"groups": {"a": ["x", "y"], "b": ["z"]}, "pairs": [["x", "z"]]}))
    assert WordSet.load(str(path)).pairs == (("x", "z"),)
    # The fairness paper's form: the ids belong to its tokenizer and are not used.
    path.write_text(json.dumps({"female": {"she": 2016}, "male": {"he": 2002, "man": 2158}}))
    words = WordSet.load(str(path))
    assert words.groups == {"female": ("she",), "male": ("he", "man")}
    assert words.pairs == ()
    path.write_text(json.dumps({"groups": {}, "pairs": [["x", "z"]]}))
    assert WordSet.load(str(path)).groups == {"set": ("x", "z")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read"),
        ("[1]", "cannot read"),
        ('{"a": [1]}', "1 is no word"),
        ("{}", "holds no words"),
    ],
)
def test_bad_json(tmp_path, content, message):
    path = tmp_path / "set.json"
    path.write_text(content)
    with pytest.raises(LanguageError, match=message):
        WordSet.load(str(path))


def test_absent_sets_name_the_built_in_ones(tmp_path):
    with pytest.raises(LanguageError, match="built-in sets: gender"):
        WordSet.load(str(tmp_path / "absent.txt"))
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LanguageError, match="cannot read the word set"):
        WordSet.load(str(tmp_path / "binary.txt"))


PEOPLE = WordSet(
    "people",
    {"female": ("she", "queen", "waitress", "they"), "male": ("he", "king", "漢", "they")},
    (("she", "he"), ("queen", "king"), ("waitress", "漢")),
)


def test_wordpiece_classes(wordpiece_tokenizer):
    t = wordpiece_tokenizer
    classes = PEOPLE.to_classes(t)
    expected = sorted(t.convert_tokens_to_ids(["she", "he", "queen", "king"]))
    assert set(expected) <= set(classes.ids.tolist())
    assert classes.ids.dtype == torch.int64
    assert classes.ids.tolist() == sorted(set(classes.ids.tolist()))
    assert classes.dropped["漢"] == "unknown to the tokenizer"
    pieces = t("waitress", add_special_tokens=False)["input_ids"]
    assert len(pieces) > 1
    assert classes.dropped["waitress"] == f"{len(pieces)} pieces"
    she, he = t.convert_tokens_to_ids(["she", "he"])
    assert [she, he] in classes.pairs.tolist()
    assert len(classes.pairs) == 2
    assert classes.words[she] == ("she",)
    assert classes.groups_of(she) == ("female",)
    assert set(classes.pieces) | set(classes.dropped) == set(PEOPLE.words)


def test_ambiguous_ids_are_named(wordpiece_tokenizer):
    words = WordSet("twice", {"a": ("he", "king"), "b": ("king", "she")})
    king = wordpiece_tokenizer.convert_tokens_to_ids("king")
    classes = words.to_classes(wordpiece_tokenizer)
    assert classes.ambiguous == (king,)
    assert classes.groups_of(king) == ("a", "b")
    assert len(classes.ids) == 3


def test_policies_for_words_of_several_pieces(wordpiece_tokenizer):
    t = wordpiece_tokenizer
    words = WordSet("several", {"female": ("waitress", "she")})
    pieces = t("waitress", add_special_tokens=False)["input_ids"]
    she = t.convert_tokens_to_ids("she")
    assert words.to_classes(t, "first").ids.tolist() == sorted({pieces[0], she})
    assert words.to_classes(t, "last").ids.tolist() == sorted({pieces[-1], she})
    mean = words.to_classes(t, "mean")
    assert mean.ids.tolist() == sorted({*pieces, she})
    assert mean.pieces["waitress"] == (tuple(pieces),)
    assert not mean.dropped
    with pytest.raises(LanguageError, match="policy='middle'"):
        words.to_classes(t, "middle")


def test_byte_level_variants(byte_tokenizer):
    t = byte_tokenizer
    vocabulary = t.get_vocab()
    classes = WordSet(
        "pronouns", {"female": ("she",), "male": ("he",)}, (("she", "he"),)
    ).to_classes(t)
    assert {"Ġshe", "Ġhe", "he"} <= set(vocabulary)
    assert vocabulary["Ġshe"] in classes.ids
    assert vocabulary["Ġhe"] in classes.ids
    # Without its space a lower-case piece is mostly inside other words: "he" in "the".
    assert vocabulary["he"] not in classes.ids
    assert [vocabulary["Ġshe"], vocabulary["Ġhe"]] in classes.pairs.tolist()
    capital = {t.convert_ids_to_tokens(i) for i in classes.ids.tolist()} & {"He", "ĠHe"}
    assert bool(capital) == bool({"He", "ĠHe"} & set(vocabulary))
    bare = WordSet("he", {"he": ("he",)}).to_classes(t, capitalised=False)
    assert bare.ids.tolist() == [vocabulary["Ġhe"]]


def test_a_set_outside_the_vocabulary_is_an_error(wordpiece_tokenizer):
    words = WordSet("foreign", {"a": ("漢字", "仮名")})
    with pytest.raises(LanguageError, match=r"no word of the set 'foreign'.*漢字"):
        words.to_classes(wordpiece_tokenizer)


@pytest.mark.parametrize(
    ("groups", "pairs", "said"),
    [
        ({"m": "he"}, (), "has 'm' as the string 'he'; expected a sequence of words"),
        ({"m": ["he"]}, ("ab",), "has 'pairs' as the string 'ab'"),
        ({"m": ["he", 3]}, (), r"has 'm' as \['he', 3\]; expected a sequence of words, each a"),
        ({"m": ["he", " "]}, (), "expected a sequence of words, each a string"),
        ({"m": None}, (), "has 'm' as None; expected a sequence of words"),
        ({"m": (word for word in ["he"])}, (), "expected a sequence of words, each a string"),
        ({"m": ["he"]}, (("he", "she", "it"),), "has the pair .*; expected two words"),
    ],
)
def test_groups_and_pairs_are_words(groups, pairs, said):
    with pytest.raises(LanguageError, match=said):
        WordSet("mine", groups, pairs)
    assert WordSet("mine", {"m": ["he"], "none": []}, [["she", "he"]]).words == ("he",)

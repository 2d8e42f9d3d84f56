"""A cell is of what lies in its files: other content under one name is another cell."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ncfast.experiment import ExperimentError, load_protocol
from ncfast.experiment.cells import BASE, Cell
from ncfast.experiment.controls import draw_words
from ncfast.experiment.laboratory import Laboratory
from ncfast.experiment.local_files import digests_of_files, files_of
from ncfast.experiment.parts import Arm
from ncfast.language import LanguageModel
from ncfast.sealed_file import dump_json, read_json


def test_files_here_are_told_by_their_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("one")
    names = [
        "texts",
        "texts/a.txt",
        "texts/*.txt",
        "demo:text",
        "hf:wikitext",
        "absent.txt",
        "a\0b",
    ]
    before = digests_of_files(names)
    assert list(before) == ["texts", "texts/*.txt", "texts/a.txt"]
    for beside in ("notes.pdf", ".a.txt"):  # no text is read from them
        (folder / beside).write_text("beside")
    os.utime(folder / "a.txt", (1, 1))
    assert digests_of_files(names) == before
    (folder / "a.txt").write_text("two")
    after = digests_of_files(names)
    assert not {*before.values()} & {*after.values()}
    (folder / "b.txt").write_text("more")
    more = digests_of_files(names)
    assert [name for name in more if more[name] != after[name]] == ["texts", "texts/*.txt"]


def test_a_file_that_cannot_be_read_is_said(tmp_path, monkeypatch):
    def refused(file, *seen):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.txt").write_text("one")
    monkeypatch.setattr("ncfast.experiment.local_files._digest_of", refused)
    with pytest.raises(ExperimentError, match=r"a\.txt: Permission denied; expected a file"):
        digests_of_files([str(tmp_path / "a.txt")])


def test_an_arm_s_files_are_texts_validation_pairs_and_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gender").mkdir()  # no file of words
    (tmp_path / "w.json").write_text("{}")
    arm = Arm(
        "a", "mabel", {"words": ["gender", "w.json"]}, options={"pairs": "p.csv", "share": 0.5}
    )
    assert files_of(arm, ["t"], {"validation": ["v"]}) == ["t", "v", "p.csv", "w.json"]


@pytest.fixture
def run_again(tiny_protocol, tiny_text, tmp_path, monkeypatch):
    """Return a function that asks for a cell that is kept, and says whether it was run anew."""
    loaded = load_protocol(tiny_protocol(tmp_path))
    text = tmp_path / "text.txt"
    text.write_bytes(Path(tiny_text).read_bytes())
    protocol = replace(loaded, texts=(str(text),))
    said: list[str] = []
    laboratory = Laboratory(protocol, tmp_path / "run", "cpu", said.append)

    class RunAnewError(Exception):
        pass

    def run_anew(*given):
        raise RunAnewError

    monkeypatch.setattr(laboratory, "_made", run_anew)

    def run(arm: str, forget: bool, change: bool) -> list[str]:
        cell, model = Cell("tiny", arm, 0), protocol.models[0]
        identity = laboratory.identity(cell, model, "base", {})
        if forget:
            del identity["files"]
        document = {"schema": "ncfast-experiment-cell/1", "identity": identity}
        (laboratory.path(cell) / "model").mkdir(parents=True)
        (laboratory.path(cell) / "cell.json").write_text(dump_json(document))
        if change:
            text.write_text("another text")
        try:
            laboratory.run(cell, model, "spec", "base", {})
        except RunAnewError:
            return said
        assert not said
        return []

    return run


@pytest.mark.parametrize("arm", [BASE, "ours", "turned"])
def test_another_text_under_one_name_is_another_cell(run_again, arm):
    [changed, _] = run_again(arm, False, True)
    assert changed.startswith(f"tiny/{arm}/0: what lies in ")
    assert changed.endswith("text.txt has changed; it is run anew")


@pytest.mark.parametrize(("forget", "change"), [(False, False), (True, False), (True, True)])
def test_a_cell_of_before_digests_were_kept_is_done(run_again, forget, change):
    assert run_again("ours", forget, change) == []


@pytest.mark.parametrize("forget", [False, True])
def test_controls_are_drawn_anew_from_another_text(tiny_protocol, tiny_text, tmp_path, forget):
    loaded, text = load_protocol(tiny_protocol(tmp_path)), tmp_path / "text.txt"
    text.write_bytes(Path(tiny_text).read_bytes())
    protocol = replace(loaded, texts=(str(text),))
    model = LanguageModel.load(loaded.models[0].spec, progress=False)
    kept = tmp_path / "words.json"
    draw_words(protocol, protocol.models[0], model, kept)
    document = read_json(kept, "ncfast-experiment-words/1")
    document["words"], document["ids"] = {"other": ["kept"]}, {"other": [5]}
    if forget:  # as files of before the digests were kept
        del document["asked"]["files"]
    kept.write_text(dump_json(document))
    assert draw_words(protocol, protocol.models[0], model, kept)["other"].words == ("kept",)
    text.write_bytes(text.read_bytes() + text.read_bytes()[:100])
    assert (
        draw_words(protocol, protocol.models[0], model, kept)["other"].words == ("kept",)
    ) == forget

"""What is wrong with the words of a command is said by the first of several processes alone."""

from __future__ import annotations

import pytest

from ncfast.cli import main

WRONG = {
    "no text": ["measure"],
    "a number": ["measure", "m", "t", "--max-tokens", "x"],
    "a setting": ["measure", "m", "t", "--bootstrap", "1"],
    "no text option": ["measure", "m"],
    "models": ["measure", "a", "b", "--text", "t"],
    "a setting of finetune": ["finetune", "m", "t", "--steps", "0"],
    "a size": ["finetune", "m", "t", "--memory-limit", "lots"],
    "an equals sign": ["measure", "m", "t", "--out=--"],
    "a command of one process": ["doctor"],
}


def _code(words):
    try:
        return main(words)
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize("name", WRONG)
def test_all_processes_end_alike_and_the_first_says_why(name, monkeypatch, capfd):
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert _code(WRONG[name]) == 2
        found = capfd.readouterr()
        assert found.out == ""
        said.append(found.err)
    assert said[0].count("error: ") == 1
    assert said[1] == ""


@pytest.mark.parametrize("words", [["--version"], ["measure", "--help"]])
def test_what_was_asked_for_is_shown_once(words, monkeypatch, capfd):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert _code(words) == 0
    assert capfd.readouterr().out
    monkeypatch.setenv("RANK", "1")
    assert _code(words) == 0
    assert capfd.readouterr().out == ""

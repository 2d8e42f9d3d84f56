"""What no user means, on the command line and in files: one sentence, exit code 2, no traceback.

A small and fixed form of a fuzzer over flags, model files, word sets and names.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from ncfast.cli import main
from ncfast.cli.running import number

SMALL = ["--quiet", "--batch-size", "8", "--block-size", "32", "--max-tokens", "1500"]
COMMANDS = {
    "measure": [*SMALL, "--controls", "matched", "--bootstrap", "0", "--out", "out"],
    "finetune": [*SMALL, "--steps", "1", "--measure-tokens", "0", "--out", "out"],
}
NUMBERS = ["--", "", "x", "nan", "inf", "1e400", "9" * 5000, "٣\x1b"]

WHOLE = ["-1", "1.5", "99999999999999999999"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NCFAST_DEBUG", raising=False)


@pytest.fixture
def refused(capsys):
    """Return a function that runs a command and gives the one line it was refused with."""

    def run(*words: str) -> str:
        try:
            code = main(words)
        except SystemExit as stop:
            code = stop.code
        printed, complaint = capsys.readouterr()
        said = [line for line in complaint.splitlines() if ": error: " in line]
        assert code == 2, (words, printed, complaint)
        assert len(said) == 1
        assert said[0].isprintable()
        assert len(said[0]) < 1200
        return said[0]

    return run


def _numbers(command: str) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    importlib.import_module(f"ncfast.cli.{command}").add_arguments(parser)
    return {a.option_strings[0]: a.type for a in parser._actions if callable(a.type)}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_flag_takes_a_number_that_is_none(command, refused):
    flags = _numbers(command)
    assert len(flags) >= 8
    for flag, kind in flags.items():
        # Whether a float may be that large, or below 0, each option says of itself.
        for value in [*NUMBERS, *(WHOLE if kind is not number else [])]:
            assert flag in refused(command, "model", "text.txt", f"{flag}={value}")


@pytest.mark.parametrize(
    "words", [["measure", "m", "t"], ["finetune", "m", "t"], ["evaluate", "m"], ["bench"]]
)
def test_no_machine_has_so_many_threads(words, refused):
    said = refused(*words, "--threads=1025")
    assert "argument --threads: '1025' is too large; expected at most 1024" in said


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--device=meta"], "holds no values"),
        (["--device=\x1b[31m"], r"\x1b[31m"),
        (["--words=\x1b[31mred"], r"\x1b[31mred"),
        (["--words=~nobody-of-that-name/a.txt"], "nobody-of-that-name"),
        (["--max-tokens=9007199254740992", "--block-size=9007199254740992"], "block_size"),
    ],
)
def test_odd_values_are_named(command, extra, said, tiny_model, tiny_text, refused):
    words = [str(tiny_model("causal")), str(tiny_text), *COMMANDS[command], *extra]
    assert said in refused(command, *words)


def _file(name, content):
    def damage(folder):
        (folder / name).write_bytes(content)

    return damage


def _bytes(change):
    def damage(folder):
        path = folder / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return damage


def _config(**changes):
    def damage(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


DEEP = b"[" * 200_000
DAMAGE = {
    "weights empty": _bytes(lambda data: b""),
    "weights cut": _bytes(lambda data: data[: len(data) // 2]),
    "header cut": _bytes(lambda data: data[:100]),
    "header huge": _bytes(lambda data: b"\xff" * 8 + data[8:]),
    "header larger than the file": _bytes(lambda data: (2**40).to_bytes(8, "little") + data[8:]),
    "header damaged": _bytes(lambda data: data[:20] + b"\xff" + data[21:]),
    "config empty": _file("config.json", b""),
    "config deep": _file("config.json", DEEP),
    "config list": _file("config.json", b"[]"),
    "config binary": _file("config.json", b"\xff\xfe\0"),
    "tokenizer empty": _file("tokenizer.json", b""),
    "tokenizer deep": _file("tokenizer.json", DEEP),
    "tokenizer number": _file("tokenizer.json", b"3"),
    "tokenizer settings deep": _file("tokenizer_config.json", DEEP),
    "no heads": _config(n_head=0),
    "heads that do not divide": _config(n_head=3),
    "a negative width": _config(n_embd=-1),
    "a width of text": _config(n_embd="x"),
    "a width of 10^12": _config(n_embd=10**12),
    "a vocabulary of 10^12": _config(vocab_size=10**12),
    "no vocabulary": _config(vocab_size=None),
    "layers of a list": _config(n_layer=[]),
    "no positions": _config(n_positions=0),
    "an unknown activation": _config(activation_function="x"),
    "an epsilon of text": _config(layer_norm_epsilon="x"),
    "half a character": _config(model_type="\ud800"),
    "another type": _config(model_type="x", architectures=["X"]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_models_are_named(name, tiny_model, tiny_text, refused):
    shutil.copytree(tiny_model("causal"), "damaged")
    DAMAGE[name](Path("damaged"))
    assert "damaged" in refused("measure", "damaged", str(tiny_text), *COMMANDS["measure"])
    assert not Path("out").exists()


SETS = {
    "deep.json": DEEP,
    "half.json": b'{"a": ["\\ud800", "she"]}',
    "null.json": b"null",
    "list.json": b'["she", "he"]',
    "string.json": b'{"groups": {"a": "she"}}',
    "pair.json": b'{"groups": {"a": ["she"]}, "pairs": [["he"]]}',
    "latin.txt": b"k\xf6nig\n",
    "null.txt": b"she\0\n",
    "three.txt": b"she he \x1b[31m\n",
}


@pytest.mark.parametrize("name", SETS)
def test_damaged_word_sets_are_named(name, tiny_model, tiny_text, refused):
    Path(name).write_bytes(SETS[name])
    words = [str(tiny_model("causal")), str(tiny_text), *COMMANDS["measure"], "--words", name]
    assert name in refused("measure", *words)


@pytest.mark.parametrize("word", ["\0", "a\0b", "\ud800"])
@pytest.mark.parametrize(
    "words", [["compare", "a", "b", "--out"], ["experiment"], ["measure", "model"]], ids=" ".join
)
def test_what_no_file_can_be_called_is_named(words, word, refused):
    assert "holds a character that no name of a file can have" in refused(*words, word)


def test_two_ends_of_the_flags_are_one_too_many(refused):
    assert "'--' is given 2 times; expected once" in refused("compare", "a", "--", "--", "--label=")


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes")
def test_a_name_of_raw_bytes_costs_nothing(tiny_model, tiny_text, refused):
    text, out = os.fsdecode(b"te\xffxt.txt"), os.fsdecode(b"o\xfeut")
    shutil.copy(tiny_text, text)
    model = str(tiny_model("causal"))
    assert main(["measure", model, text, *COMMANDS["measure"], "--out", out]) == 0
    words = ["finetune", model, text, *COMMANDS["finetune"], "--measure-tokens", "900"]
    # A model cannot be saved under such a name: that is said before it is trained.
    assert r"the folder o\udcfeut-2 has a name" in refused(*words, "--out", out + "-2")
    assert main(words) == 0
    for folder in (out, "out/before", "out/after"):
        assert "te\\\\xffxt.txt" in Path(folder, "report.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_cannot_be_written_is_found_before_the_work(
    command, tiny_model, tiny_text, refused, monkeypatch
):
    from ncfast.language import LanguageModel

    def loaded(*words, **options):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(LanguageModel, "load", loaded)
    Path("file").write_text("in the way")
    words = [str(tiny_model("causal")), str(tiny_text), *COMMANDS[command], "--out", "file/out"]
    assert "file/out" in refused(command, *words)


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_killed_save_left_is_cleaned_up(command, tiny_model, tiny_text):
    Path("out").mkdir()
    for name in (".statistics.safetensors.partial-x-1-a", ".checkpoint.partial", ".model.partial"):
        Path("out", name).mkdir()
    Path("out/.report.json.partial").write_text("{")
    assert main([command, str(tiny_model("causal")), str(tiny_text), *COMMANDS[command]]) == 0
    assert not [path.name for path in Path("out").iterdir() if path.name.startswith(".")]

"""Sealed files: any damage is refused by name, and a killed save leaves nothing for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from ncfast import DataError, sealed_file

VERSION = "example/1"
TENSORS = {
    "empty": torch.zeros(0, 3),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "number": torch.tensor(7),
    "truth": torch.tensor([True, False]),
}


def test_tensors_come_back_bit_by_bit(tmp_path):
    path = tmp_path / "a.safetensors"
    checksum = sealed_file.save_tensors(path, TENSORS, {"name": "☃"}, VERSION)
    metadata, tensors = sealed_file.load_tensors(path, VERSION)
    assert metadata == {"name": "☃", "format": VERSION, "checksum": checksum}
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert tensors[name].dtype == value.dtype
        assert torch.equal(tensors[name], value)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_any_turned_bit_is_refused_or_changes_nothing(tmp_path):
    """Every bit of a whole file; the padding of the header is the only place without a meaning."""
    path = tmp_path / "a.safetensors"
    sealed_file.save_tensors(path, TENSORS, {"name": "value"}, VERSION)
    whole, harmless, messages = path.read_bytes(), 0, set()
    expected = sealed_file.load_tensors(path, VERSION)
    for place in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            try:
                metadata, tensors = sealed_file.load_tensors(path, VERSION)
            except DataError as error:
                messages.add(str(error))
                continue
            harmless += 1
            assert metadata == expected[0]
            assert all(torch.equal(tensors[k], v) for k, v in expected[1].items())
    assert harmless <= 16
    assert all(message.startswith(str(path)) for message in messages)


@pytest.mark.parametrize("length", [0, 7, 8, 100, -1])
def test_a_cut_file_is_refused(tmp_path, length):
    path = tmp_path / "a.safetensors"
    sealed_file.save_tensors(path, TENSORS, {}, VERSION)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match=r"a\.safetensors is damaged or no safetensors file"):
        sealed_file.load_tensors(path, VERSION)


def test_other_versions_and_foreign_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    sealed_file.save_tensors(path, TENSORS, {}, "example/2")
    with pytest.raises(DataError, match="has format 'example/2'; expected 'example/1'"):
        sealed_file.load_tensors(path, VERSION)
    save_file(TENSORS, path, {"format": VERSION})
    with pytest.raises(DataError, match="carries no checksum"):
        sealed_file.load_tensors(path, VERSION)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        sealed_file.load_tensors(path, VERSION)
    with pytest.raises(ValueError, match="'checksum'"):
        sealed_file.save_tensors(path, TENSORS, {"checksum": "mine"}, VERSION)


@pytest.mark.parametrize("make", [os.mkdir, getattr(os, "mkfifo", os.mkdir)])
def test_what_is_no_file_is_refused_without_waiting(tmp_path, make):
    make(tmp_path / "odd")
    with pytest.raises(DataError, match="odd is no file"):
        sealed_file.load_tensors(tmp_path / "odd", VERSION)
    with pytest.raises(DataError, match="odd is no file"):
        sealed_file.read_json(tmp_path / "odd", VERSION)


def test_what_a_killed_save_leaves_goes_with_the_next(tmp_path):
    path = tmp_path / "a.safetensors"
    killed = (
        "import os, sys, torch, safetensors.torch\n"
        "from ncfast import sealed_file\n"
        "kept = safetensors.torch.save_file\n"
        "safetensors.torch.save_file = lambda *a: (kept(*a), os._exit(9))\n"
        "sealed_file.save_tensors(sys.argv[1], {'w': torch.ones(3)}, {}, 'example/1')\n"
    )
    assert subprocess.run([sys.executable, "-c", killed, path], check=False).returncode == 9
    left = list(tmp_path.iterdir())
    assert [p.is_dir() for p in left] == [True]
    beside = tmp_path / left[0].name.replace(left[0].name.split("-")[-2], str(os.getpid()))
    beside.mkdir()  # of a process that lives
    sealed_file.save_tensors(path, TENSORS, {}, VERSION)
    assert sorted(tmp_path.iterdir()) == sorted([path, beside])


def test_json_comes_back_and_any_change_is_refused(tmp_path):
    path = tmp_path / "state.json"
    document = {"schema": VERSION, "step": 3, "loss": 0.1, "name": "☃"}
    path.write_text(sealed_file.dump_json(document), encoding="utf-8")
    found = sealed_file.read_json(path, VERSION)
    assert {k: v for k, v in found.items() if k != "checksum"} == document
    found["step"] = 4
    path.write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(DataError, match=r"state\.json is damaged: its content"):
        sealed_file.read_json(path, VERSION)
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(DataError, match="carries no checksum"):
        sealed_file.read_json(path, VERSION)
    assert sealed_file.read_json(path, VERSION, sealed=False) == document


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "no JSON"),
        (b"\xff{}", "no JSON"),
        (b'{"schema": "example/1", "n": ' + b"1" * 5000 + b"}", "no JSON"),
        (b'{"schema": "example/1", "n": NaN, "checksum": ""}', "not JSON compliant"),
        (b"[" * 200_000, "nested too deeply"),
        (b"[1]", "has schema None"),
        (b'{"schema": ["example/1"]}', "has schema "),
        (b'{"schema": "example/1", "checksum": 3}', "does not have the checksum"),
    ],
)
def test_json_that_is_none_of_ours(text, message):
    with pytest.raises(DataError, match=rf"^state\.json .*{message}"):
        sealed_file.parse_json(text, "state.json", VERSION)


def test_json_that_cannot_be_written():
    with pytest.raises(ValueError, match="no schema"):
        sealed_file.dump_json({"step": 3})
    with pytest.raises(ValueError, match="not JSON compliant"):
        sealed_file.dump_json({"schema": VERSION, "n": float("inf")})

"""A few examples of every target of the fuzzer, and that it can find something."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import strategies as st

from ncfast.cli import COMMANDS
from tests.fuzzing import run
from tests.fuzzing.targets import Target


@pytest.fixture(scope="module")
def found_targets(tmp_path_factory):
    return run.prepared(tmp_path_factory.mktemp("fuzzing"))


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NCFAST_DEBUG", raising=False)


def test_what_is_damaged_was_whole(found_targets):
    wholes = {name: t for name, t in found_targets.items() if not name.startswith("ncfast ")}
    assert {name: run.attempt(t, t.whole) for name, t in wholes.items()} == dict.fromkeys(
        wholes, ""
    )
    commands = found_targets.keys() - wholes.keys()
    assert commands == {f"ncfast {name}" for name in COMMANDS} - {"ncfast doctor"}


def test_damage_is_said_in_one_sentence(found_targets):
    counts = {name: run.turn(target, 0, 5) for name, target in found_targets.items()}
    assert all(sum(count.values()) >= 5 for count in counts.values())
    assert sum((count for count in counts.values()), Counter())[True] > len(counts)


def _loop(_: object) -> None:
    while True:
        pass


def _bug(_: object) -> None:
    raise KeyError("name")


def _of_a_library(_: object) -> None:
    int("x")  # a ValueError from outside of ncfast is no sentence of ours


def _long(_: object) -> None:
    from ncfast import DataError

    raise DataError("x" * 5000)


@pytest.mark.parametrize(
    ("fault", "kind"), [(_loop, "Hang"), (_bug, "KeyError"), (_of_a_library, "ValueError")]
)
def test_a_fault_is_found(fault, kind, monkeypatch):
    monkeypatch.setattr(run, "SECONDS", 1)
    said = []
    assert run.run({"planted": Target(st.just(b""), fault)}, 30, said.append) == ["planted"]
    assert kind in said[0]


def test_a_long_complaint_is_cut():
    assert len(run.attempt(Target(st.just(b""), _long), b"")) < 1200


def test_every_byte_of_a_small_statistics_file_flipped(tmp_path):
    """Each bit of each byte: another number is never read, only padding may be another."""
    import torch

    from ncfast import ClassStatistics, DataError

    path = Path("s.safetensors")
    stats = ClassStatistics(3, 2, [0, 2], {"all": None}, diagonal=True)
    stats.update(torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([0, 2]))
    stats.save(path, {"a": "b"})
    whole, state = path.read_bytes(), ClassStatistics.load(path)
    harmless, said = 0, set()
    for place in range(len(whole)):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]
        )
        try:
            found = ClassStatistics.load(path)
        except DataError as error:
            said.add(str(error)[:40])
            continue
        harmless += 1
        assert torch.equal(found.means, state.means)
        assert torch.equal(found.counts, state.counts)
    assert harmless <= 8
    assert all(message.startswith("ClassStatistics.load: s.safetensors") for message in said)

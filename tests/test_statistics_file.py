"""The file of ClassStatistics: whatever is wrong with one is said in a sentence, by its name."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ncfast import ClassStatistics, DataError, sealed_file
from ncfast.statistics.file import FORMAT

V, D = 11, 5


@pytest.fixture
def path(tmp_path):
    stats = ClassStatistics(V, D, [1, 4, 7, 9], {"all": None, "two": [4, 7]}, diagonal=True)
    x = torch.randn(60, D, generator=torch.Generator().manual_seed(0))
    stats.update(x, torch.arange(60) % V)
    stats.save(tmp_path / "a.safetensors", {"text": "wiki"})
    return tmp_path / "a.safetensors"


def contents(path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    with safe_open(path, "pt") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_a_bit_turned_in_the_means_is_seen(path):
    header, tensors = contents(path)
    tensors["means"].view(torch.int32)[2, 3] ^= 1  # the last digit of one number
    save_file(tensors, path, header)
    with pytest.raises(DataError, match=r"^ClassStatistics\.load: .*a\.safetensors is damaged"):
        ClassStatistics.load(path)


@pytest.mark.parametrize("length", [0, 99, 600])
def test_a_cut_file_is_named(path, length):
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match=r"^ClassStatistics\.load: .*a\.safetensors is damaged"):
        ClassStatistics.load(path)


def test_other_files_and_earlier_versions_are_refused(tmp_path):
    save_file({"w": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="has format None; expected 'ncfast-class-statistics/2'"):
        ClassStatistics.load(tmp_path / "model.safetensors")
    save_file({}, tmp_path / "old.safetensors", {"format": "ncfast-class-statistics/1"})
    with pytest.raises(DataError, match="has format 'ncfast-class-statistics/1'"):
        ClassStatistics.load(tmp_path / "old.safetensors")
    with pytest.raises(FileNotFoundError):
        ClassStatistics.load(tmp_path / "absent.safetensors")
    with pytest.raises(DataError, match="is no file, and a folder without"):
        ClassStatistics.load(tmp_path)


def test_only_strings_go_along(path):
    stats = ClassStatistics.load(path)
    with pytest.raises(TypeError, match=r"metadata\['step'\] is int; expected strings"):
        stats.save(path, {"step": 3})  # type: ignore[dict-item]
    assert ClassStatistics.load(path).metadata == {"text": "wiki"}


def _change(name: str, place: Any, value: float) -> Any:
    return lambda header, settings, tensors: tensors[name].__setitem__(place, value)


def _set(key: str, value: object) -> Any:
    return lambda header, settings, tensors: settings.__setitem__(key, value)


def _lack(name: str) -> Any:
    return lambda header, settings, tensors: tensors.pop(name)


def _forget(key: str) -> Any:
    return lambda header, settings, tensors: settings.pop(key)


def _say(key: str, text: str) -> Any:
    return lambda header, settings, tensors: header.__setitem__(key, text)


def _put(name: str, tensor: torch.Tensor) -> Any:
    return lambda header, settings, tensors: tensors.__setitem__(name, tensor)


# Files that another program wrote: their checksum is right, what they say is not.
WRONG = [
    (_change("counts", 1, -3), "its counts holds -3; expected nothing below 0"),
    (_change("tally", 0, -1), "its tally holds -1; expected nothing below 0"),
    (_change("m2", 2, -0.5), "its m2 holds -0.5; expected nothing below 0"),
    (_change("diagonal_m2", (0, 0), -1.0), "its diagonal_m2 holds -1; expected nothing"),
    (_change("means", (0, 1), float("nan")), "its means holds NaN"),
    (_change("scatter/all", (0, 1), float("nan")), "its scatter/all holds NaN"),
    (_change("classes", 0, 8), "its classes is not in order"),
    (_change("classes", 3, 11), r"its classes is not in order; expected ids in \[0, 11\)"),
    (_change("scatter_ids/two", 0, -4), "its scatter_ids/two is not in order"),
    (_set("num_classes", 0), "its num_classes is 0; expected a whole number, at least 1"),
    (_set("num_classes", 10**12), "num_classes=1000000000000 and dim=5 with 4 classes kept need"),
    (_set("num_classes", 10**40), "its num_classes is 1000000000"),
    (_set("num_classes", 11.5), "its num_classes is 11.5"),
    (_set("dim", "5"), "its dim is 5; expected a whole number"),
    (_set("dim", True), "its dim is True"),
    (_set("dim", 6), r"its diagonal_m2 is torch.float64 \(4, 5\); expected torch.float64 \(4, 6\)"),
    (_set("classes", 3), "its configuration names 3 classes and its classes hold 4"),
    (_set("classes", None), "its configuration names None classes and its classes hold 4"),
    (_set("scatter", "all"), "its scatter is all; expected a list of different names"),
    (_set("scatter", ["all", "all"]), "its scatter is .*; expected a list of different names"),
    (_set("scatter", ["all"]), "holds scatter/two, which no state"),
    (_set("dtype", "float16"), "its dtype is float16; expected 'float32' or 'float64'"),
    (_set("dtype", "nn"), "its dtype is nn"),
    (_set("dtype", ["float32"]), "its dtype is "),
    (_set("nan", "keep"), "its nan is keep"),
    (_set("diagonal", 1), "its diagonal is 1; expected true or false"),
    (_set("diagonal", False), "holds diagonal_m2, which no state"),
    (_set("feature_roundoff", -1), "its feature_roundoff is -1; expected a number from 0 to 1"),
    (_set("feature_roundoff", float("nan")), "its feature_roundoff is nan"),
    (_forget("dim"), "its configuration has no dim"),
    (_lack("m2"), "not a complete state: it has no m2"),
    (_lack("scatter/two"), "not a complete state: it has no scatter/two"),
    (_lack("classes"), "its configuration names 4 classes and its classes hold None"),
    (_put("means", torch.zeros(4, D).double()), "its means is torch.float64"),
    (_put("classes", torch.zeros(4)), r"its classes is torch.float32 \(4,\); expected int64 ids"),
    (_put("more", torch.zeros(1)), "holds more, which no state of its configuration has"),
    (_say("configuration", "[1]"), r"its configuration is \[1\]; expected an object"),
    (_say("configuration", "{"), "its configuration is no JSON"),
    (_say("configuration", "[" * 100_000), "its configuration is no JSON"),
    (_say("metadata", '{"step": 3}'), "its metadata 'step' is int; expected a string"),
    (lambda header, settings, tensors: header.pop("metadata"), "it has no metadata"),
]


@pytest.mark.parametrize(("spoil", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_a_file_says_is_held_to_a_schema(path, spoil, message):
    header, tensors = contents(path)
    header = {k: v for k, v in header.items() if k not in ("format", "checksum")}
    settings = json.loads(header["configuration"])
    spoil(header, settings, tensors)
    if header["configuration"].startswith('{"'):
        header["configuration"] = json.dumps(settings)
    sealed_file.save_tensors(path, tensors, header, FORMAT)
    with pytest.raises(DataError, match=message) as raised:
        ClassStatistics.load(path)
    said = str(raised.value)
    assert said.startswith(f"ClassStatistics.load: {path}: ")
    assert "\n" not in said


def test_more_classes_than_memory_is_one_sentence(tmp_path):
    for classes, dim, kept in ((10**12, 8, None), (10**12, 8, [3]), (10**18, 10**9, None)):
        with pytest.raises(MemoryError, match=rf"num_classes={classes} .* GiB"):
            ClassStatistics(classes, dim, kept)

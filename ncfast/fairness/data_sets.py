"""Benchmarks from the library ``datasets``, written as the files that were published.

A data set of a hub holds what a published file holds under other names: labels as numbers, lists
where the file has tables, one configuration for each part. Written as that file again, its rows are
checked as any user's are.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..language.errors import import_extra
from .errors import EvaluationError
from .texts import BLANK

__all__ = ["is_saved", "write_published"]

Splits = Mapping[str, Any]
NAMES_OF_TASKS = {
    "sst": {"sst", "sst2"},
    "cola": {"cola"},
    "rte": {"rte"},
    "mrpc": {"mrpc"},
    "sts": {"sts", "stsb"},
}
SPLITS = {"train": "train", "validation": "dev", "dev": "dev", "test": "test"}


def is_saved(path: Path) -> bool:
    """Tell whether a folder is a data set that ``save_to_disk`` wrote."""
    names = {"dataset_dict.json"}, {"dataset_info.json", "state.json"}
    return any(all((path / name).is_file() for name in some) for some in names)


def write_published(spec: str, folder: Path) -> None:
    """Load a data set and write the published files that it holds.

    It is ``[hf:]NAME[:CONFIG]``, or a folder that ``save_to_disk`` wrote.
    """
    datasets = import_extra("datasets", f"--data {spec} is a data set; reading it")
    spec = os.path.expanduser(spec)
    whole, _, config = spec.removeprefix("hf:").partition(":")
    try:
        if Path(spec).is_dir():
            found = {"": datasets.load_from_disk(spec)}
        else:
            names = [config] if config else datasets.get_dataset_config_names(whole)
            found = {name: datasets.load_dataset(whole, name) for name in names}
    except Exception as error:  # the library raises a dozen unrelated types
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise EvaluationError(
            f"--data {spec}: there is no such file or folder, and it cannot be loaded as a data "
            f"set ({reason}); expected a folder, a file, demo:fairness, pypi:NAME==VERSION/path or "
            "hf:NAME[:CONFIG]"
        ) from error
    parts = {
        name: part if isinstance(part, Mapping) else {"test": part} for name, part in found.items()
    }
    columns = [set(split.column_names) for part in parts.values() for split in part.values()]
    for needed, write in WRITERS:
        if columns and all(set(needed) <= some for some in columns):
            write(spec, parts, folder)
            return
    known = "; ".join(", ".join(needed) for needed, _ in WRITERS)
    shown = ", ".join(sorted(columns[0])) if columns else "none"
    raise EvaluationError(
        f"--data {spec}: a data set with the columns {shown}; expected those of StereoSet, "
        f"CrowS-Pairs or a GLUE task ({known}), or the benchmark's own files in a folder"
    )


def _rows(part: Any) -> Iterator[dict[str, Any]]:
    """Yield rows with the names of their labels in place of numbers."""
    for row in part:
        yield {name: _named(value, part.features[name]) for name, value in row.items()}


def _named(value: Any, feature: Any) -> Any:
    if hasattr(feature, "int2str") and isinstance(value, int):
        return feature.int2str(value) if value >= 0 else ""
    inner = getattr(feature, "feature", None)
    if isinstance(value, dict):  # a table of lists is declared as a list of tables, or as it is
        of = inner if inner is not None else feature
        return {key: _named(each, of[key]) for key, each in value.items()}
    if isinstance(value, list):
        return [_named(each, feature if inner is None else inner) for each in value]
    return value


def _file(spec: str, split: str) -> str:
    if split not in SPLITS:
        raise EvaluationError(f"--data {spec}: a split {split!r}; expected one of {list(SPLITS)}")
    return SPLITS[split]


def _write_stereoset(spec: str, parts: Mapping[str, Splits], folder: Path) -> None:
    documents: dict[str, dict[str, list[Any]]] = {}
    for splits in parts.values():
        for split, part in splits.items():
            for row in _rows(part):
                given = row["sentences"]
                if isinstance(given, dict):
                    keys = ("id", "sentence", "gold_label")
                    each = zip(*(given[key] for key in keys), strict=True)
                    row["sentences"] = [dict(zip(keys, one, strict=True)) for one in each]
                kind = "intrasentence" if BLANK in row["context"] else "intersentence"
                documents.setdefault(_file(spec, split), {}).setdefault(kind, []).append(row)
    for name, data in documents.items():
        path = folder / "stereoset" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"data": data}), encoding="utf-8")


def _one(spec: str, parts: Mapping[str, Any], what: str) -> tuple[str, Any]:
    """Return the only one of some parts: rows of two languages or splits are not put together."""
    if len(parts) != 1:
        raise EvaluationError(f"--data {spec}: {what} {', '.join(parts)}; expected one")
    return next(iter(parts.items()))


def _write_crows(spec: str, parts: Mapping[str, Splits], folder: Path) -> None:
    _, part = _one(spec, _one(spec, parts, "it has the configurations")[1], "it has the splits")
    columns = ("sent_more", "sent_less", "stereo_antistereo", "bias_type")
    with open(folder / "crows_pairs_anonymized.csv", "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("", *columns))
        for number, row in enumerate(_rows(part)):
            writer.writerow((number, *(row[column] for column in columns)))


def _write_glue(spec: str, parts: Mapping[str, Splits], folder: Path) -> None:
    config, splits = _one(spec, parts, "it has the configurations")
    single = "sentence" in next(iter(splits.values())).column_names
    of_columns = ("sst", "cola") if single else ("rte", "mrpc", "sts")
    named = _words(config) or _words(Path(spec.removeprefix("hf:").partition(":")[0]).name)
    task = next((t for t in of_columns if NAMES_OF_TASKS[t] & named), "")
    if not task:
        raise EvaluationError(
            f"--data {spec}: which task of GLUE it is does not stand in its name; expected "
            "hf:NAME:CONFIG with sst2, cola, rte, mrpc or stsb"
        )
    for split, part in splits.items():
        name = _file(spec, split)
        if name != "test":  # its labels are not public
            rows = [_glue_row(task, row) for row in part]
            _write_task(spec, task, folder, name, rows)


def _words(name: str) -> set[str]:
    """Return the words of a name, and all of them as one: of a whole path, any letters match."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    return {*words, "".join(words)} - {"", "default"}


def _glue_row(task: str, row: Mapping[str, Any]) -> list[str]:
    label = row["label"]
    if task == "sts":
        return [row["sentence1"], row["sentence2"], f"{label}"]
    if task == "cola":
        return ["", f"{label}", "", row["sentence"]]
    if task == "mrpc":
        return [f"{label}", "", "", row["sentence1"], row["sentence2"]]
    one = (row["sentence"],) if task == "sst" else (row["sentence1"], row["sentence2"])
    return [*one, f"{label}"]


def _write_task(spec: str, task: str, folder: Path, split: str, rows: list[list[str]]) -> None:
    name, header = {
        "sst": ("SST-2", ["sentence", "label"]),
        "rte": ("RTE", ["sentence1", "sentence2", "label"]),
        "sts": ("STS-B", None),
        "cola": ("CoLA", None),
        "mrpc": ("MRPC", ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]),
    }[task]
    (folder / name).mkdir(exist_ok=True)
    if task == "sts":
        with open(folder / name / f"{split}.csv", "w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows(rows)
        return
    for number, row in enumerate(rows, 1):
        if any(set("\t\r\n") & set(text) for text in row):
            raise EvaluationError(
                f"--data {spec}, row {number} of {split}: a text holds a tab or a line's end, "
                "which the published table cannot hold; expected none"
            )
    lines = ["\t".join(row) for row in ([header] if header else []) + rows]
    (folder / name / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


WRITERS: tuple[tuple[tuple[str, ...], Callable[[str, Mapping[str, Splits], Path], None]], ...] = (
    (("id", "target", "bias_type", "context", "sentences"), _write_stereoset),
    (("sent_more", "sent_less", "stereo_antistereo", "bias_type"), _write_crows),
    (("sentence", "label"), _write_glue),
    (("sentence1", "sentence2", "label"), _write_glue),
)

"""What a measurement is: what decides its numbers, and whether a folder holds another one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import torch

from .. import durable_file
from ..errors import DataError
from ..language import Corpus, Labeller, LanguageModel
from ..language.spread import whole
from ..reporting import read_report
from ..running.identity import differences
from .sets import PlannedSet
from .state import load_state

STATE_FILE = "statistics.safetensors"
SAMPLED_VALUES = 4096

# May differ between two runs of one measurement.
LOOSE_SETTINGS = ("threads", "processes", "device", "device_map", "tensor_parallel")


def identify(
    model: LanguageModel,
    corpus: Corpus,
    labeller: Labeller,
    sets: Mapping[str, PlannedSet],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Describe what decides the statistics, in values that JSON keeps exactly.

    A state of another description is not gone on with. Each of the sets has its own scatter.
    """
    drawn = hashlib.sha256()
    for name, planned in sets.items():
        drawn.update(repr((name, planned.ids.tolist())).encode())
    return {
        "model": PurePath(model.name).name,
        "weights": _fingerprint_weights(model),
        "text": corpus.fingerprint,
        "text_tokens": corpus.tokens,
        "labels": labeller.mode,
        "mask_rate": labeller.settings["mask_rate"],
        "special_labels": labeller.settings["special_labels"],
        "sets": [f"{name} ({len(planned.ids)})" for name, planned in sets.items()],
        "classes_of_sets": drawn.hexdigest(),
        **{
            key: settings[key]
            for key in ("seed", "batch_size", "block_size", "mask_passes", "dtype", "feature_point")
        },
        **{key: settings[key] for key in ("layers", "layers_head") if key in settings},
    }


def digest(identity: Mapping[str, Any]) -> str:
    """Return the SHA-256 in hexadecimal of a description, for a file that belongs to it.

    >>> digest({})[:8]
    '44136fa3'
    """
    return hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()


def _fingerprint_weights(model: LanguageModel) -> str:
    """Hash a sample of every parameter: models of one shape differ nearly everywhere."""
    digest = hashlib.sha256()
    for name, parameter in model.model.named_parameters():
        flat = whole(parameter).reshape(-1)
        step = max(1, flat.numel() // SAMPLED_VALUES)
        digest.update(repr((name, tuple(parameter.shape))).encode())
        digest.update(flat[::step].to("cpu", torch.float64).numpy().tobytes())
    return digest.hexdigest()


def prepare_folder(
    folder: Path,
    resume: bool,
    force: bool,
    settings: Mapping[str, Any],
    identity: Mapping[str, Any],
) -> None:
    """Make the folder of report and statistics, and raise where it has another measurement's.

    ``resume`` goes on with a state there, ``force`` overwrites it; the DataError names what
    differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if durable_file.claim(folder):
        durable_file.remove_partial(folder)
    if force or resume:
        return
    if (folder / "report.json").exists():
        report = read_report(folder)
        found = {
            **report["settings"],
            "model": PurePath(report["model"]["name"]).name,
            "text": report["text"]["fingerprint"],
        }
        expected = {**settings, "model": identity["model"], "text": identity["text"]}
        for key in LOOSE_SETTINGS:
            found.pop(key, None)
            expected.pop(key, None)
        if different := differences(found, expected):
            raise DataError(
                f"{folder} holds the report of another measurement: {'; '.join(different)}; "
                "choose another folder with --out, or overwrite it with --force"
            )
    elif (folder / STATE_FILE).exists() and _has_work(folder / STATE_FILE, identity):
        raise DataError(
            f"{folder} holds an unfinished measurement; go on with --resume, choose another "
            "folder with --out, or overwrite it with --force"
        )


def _has_work(path: Path, identity: Mapping[str, Any]) -> bool:
    """Tell whether overwriting a state would lose something; a foreign or broken file counts."""
    try:
        return load_state(path, identity)[1].position > 0
    except ValueError:
        return True

"""Checkpoints of a training run: complete, atomic, never pickled.

A checkpoint is a folder. It is written beside its place under another name, synced, and renamed: at
any moment the newest complete one is whole, and a run that was killed leaves at most one partial
folder, which the next save removes.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import durable_file
from ..errors import DataError
from ..measure.one_pass import differences

SCHEMA = "ncfast-checkpoint/1"
TENSORS, STATE = "tensors.safetensors", "state.json"
PARTIAL = ".checkpoint.partial"
_COMPLETE = re.compile(r"checkpoint-(\d+)")


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint of a folder, or None.

    Args:
        folder: the folder of a run.

    Returns:
        The checkpoint's own folder.

    Example:
        >>> newest_checkpoint(Path("no-such-folder")) is None
        True
    """
    if not folder.is_dir():
        return None
    found = [(int(m[1]), p) for p in folder.iterdir() if (m := _COMPLETE.fullmatch(p.name))]
    return max(found)[1] if found else None


def save_checkpoint(
    folder: Path,
    step: int,
    identity: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    modules: Mapping[str, nn.Module],
    accumulated: Mapping[str, Tensor],
) -> Path:
    """Save a run as it stands after a step, and remove the checkpoint before.

    Args:
        folder: the folder of the run.
        step: steps done.
        identity: what decides the run; compared on resuming.
        model: its trained parameters and its buffers are saved; frozen weights are those it was
            loaded with, which ``identity`` names.
        optimizer: its state of every parameter.
        modules: the terms of the loss, with what they have accumulated.
        accumulated: other tensors that grow during the run.

    Returns:
        The folder of the checkpoint.

    Raises:
        OSError: it cannot be written; the one before is untouched.

    Example:
        >>> save_checkpoint(Path("out"), 10, {}, model, optimizer, {}, {})  # doctest: +SKIP
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    names = _names(model)
    tensors = {f"model/{name}": p.detach() for name, p in _kept(model).items()}
    numbers: dict[str, Any] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            (tensors if isinstance(value, Tensor) else numbers)[
                f"optimizer/{names[parameter]}/{key}"
            ] = value
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            # Two terms on one word set share its ids; safetensors wants every tensor its own.
            tensors[f"term/{name}/{key}"] = value.clone()
    tensors |= {f"accumulated/{name}": value for name, value in accumulated.items()}
    tensors["rng/cpu"] = torch.get_rng_state()
    state = {
        "schema": SCHEMA,
        "step": step,
        "identity": dict(identity),
        "optimizer": numbers,
    }
    partial, place = folder / PARTIAL, folder / f"checkpoint-{step}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, partial / TENSORS)
    except SafetensorError as error:
        raise OSError(f"{partial} cannot be written: {error}") from error
    (partial / STATE).write_text(json.dumps(state, allow_nan=False), encoding="utf-8")
    for path in (partial / TENSORS, partial / STATE):
        durable_file.sync(path)
    if place.exists():  # the same step again, from a resumed run: the same content
        shutil.rmtree(place)
    durable_file.replace(partial, place)
    for other in folder.iterdir():
        if _COMPLETE.fullmatch(other.name) and other != place:
            shutil.rmtree(other, ignore_errors=True)
    return place


def read_identity(path: Path) -> dict[str, Any]:
    """Read what run a checkpoint belongs to.

    Args:
        path: the folder of the checkpoint.

    Returns:
        The identity it was saved with.

    Raises:
        DataError: it is no checkpoint of this version.

    Example:
        >>> read_identity(Path("out/checkpoint-10"))["steps"]  # doctest: +SKIP
        100
    """
    return _read_state(path)["identity"]


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        schema = state["schema"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{path}: not a checkpoint of ncfast finetune") from None
    if schema != SCHEMA:
        raise DataError(f"{path}: checkpoint of schema {schema}; this version reads {SCHEMA}")
    return state


def load_checkpoint(
    path: Path,
    identity: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    modules: Mapping[str, nn.Module],
    accumulated: Mapping[str, Tensor],
) -> int:
    """Put a run back to where it was.

    Args:
        path: the folder of the checkpoint.
        identity: what decides this run.
        model: gets its weights; it must have been made as in the run before.
        optimizer: gets its state.
        modules: the terms of the loss.
        accumulated: other tensors that grow during the run; filled in place.

    Returns:
        Steps done.

    Raises:
        DataError: a checkpoint of another model, text or settings (the message names what
            differs), or a damaged one; nothing was changed.

    Example:
        >>> load_checkpoint(path, {}, model, optimizer, {}, {})  # doctest: +SKIP
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    state = _read_state(path)
    found = state["identity"]
    if different := differences(found, identity):
        raise DataError(
            f"{path}: the checkpoint of another run: {'; '.join(different)}; choose another "
            "folder, or the same model, text and settings"
        )
    try:
        tensors = load_file(path / TENSORS)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: the checkpoint is damaged: {error}") from None
    wanted = _kept(model)
    saved = {name[6:]: value for name, value in tensors.items() if name.startswith("model/")}
    shapes = {k: tuple(v.shape) for k, v in wanted.items()}
    if shapes != {k: tuple(v.shape) for k, v in saved.items()}:
        odd = sorted(set(shapes) ^ set(saved)) or sorted(shapes)
        raise DataError(f"{path}: the checkpoint of another model: {odd[0]} differs")
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(saved[name])
    _restore_optimizer(optimizer, _names(model), tensors, state["optimizer"])
    for name, module in modules.items():
        prefix = f"term/{name}/"
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        module.load_state_dict(own)
    for name, tensor in accumulated.items():
        tensor.copy_(tensors[f"accumulated/{name}"])
    torch.set_rng_state(tensors["rng/cpu"])
    return int(state["step"])


def _names(model: nn.Module) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in model.named_parameters()}


def _kept(model: nn.Module) -> dict[str, Tensor]:
    kept: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
    persistent = model.state_dict().keys()
    return kept | {f"buffer:{n}": b for n, b in model.named_buffers() if n in persistent}


def _restore_optimizer(
    optimizer: torch.optim.Optimizer,
    names: Mapping[Tensor, str],
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, Any],
) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            prefix = f"optimizer/{names[parameter]}/"
            for source in (tensors, numbers):
                for place, value in source.items():
                    if place.startswith(prefix):
                        key = place.removeprefix(prefix)
                        # Adam's step counter lives on the CPU; moments live with their parameter.
                        at_home = isinstance(value, Tensor) and value.ndim > 0
                        optimizer.state[parameter][key] = (
                            value.to(parameter.device) if at_home else value
                        )

"""Checkpoints of a training run: complete, atomic, never pickled.

A checkpoint is a folder. It is written beside its place under another name, synced, and renamed: at
any moment the newest complete one is whole, and a run that was killed leaves at most one partial
folder, which the next start or save removes. Both its files carry a checksum of their content, and
the one of the tensors stands in the other too. The checkpoint before the newest is kept: where the
newest is damaged, a run can go on from that.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import durable_file, sealed_file
from ..errors import DataError
from ..running.identity import differences

SCHEMA = "ncfast-checkpoint/2"
TENSORS, STATE = "tensors.safetensors", "state.json"
PARTIAL = ".checkpoint.partial"
KEPT = 2
_COMPLETE = re.compile(r"checkpoint-(\d{1,18})")


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the folder of the newest complete checkpoint in the folder of a run, or None.

    >>> newest_checkpoint(Path("no-such-folder")) is None
    True
    """
    found = _complete(folder)
    return found[0] if found else None


def _complete(folder: Path) -> list[Path]:
    """List the checkpoints of a folder, the newest first."""
    if not folder.is_dir():
        return []
    found = [(int(m[1]), p) for p in folder.iterdir() if (m := _COMPLETE.fullmatch(p.name))]
    return [path for _, path in sorted(found, reverse=True)]


def save_checkpoint(
    folder: Path,
    step: int,
    identity: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    modules: Mapping[str, nn.Module],
    accumulated: Mapping[str, Tensor],
    processes: int = 1,
) -> Path:
    """Save a run as it stands after a step, keep the checkpoint before, and return the new folder.

    ``identity`` decides the run and is compared on resuming. Of the model, trained parameters and
    buffers are saved; frozen weights are those it was loaded with, which ``identity`` names.
    ``modules`` are the terms of the loss, ``accumulated`` other tensors that grow. ``processes``
    share the run, which may go on with others. Where it cannot be written, an OSError, the one
    before is untouched.
    """
    names = _names(model)
    tensors = {f"model/{name}": p.detach() for name, p in _kept(model).items()}
    numbers: dict[str, Any] = {}
    for parameter, own in optimizer.state.items():
        for key, value in own.items():
            (tensors if isinstance(value, Tensor) else numbers)[
                f"optimizer/{names[parameter]}/{key}"
            ] = value
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            # Terms on one word set share its ids, and safetensors writes no shared memory.
            tensors[f"term/{name}/{key}"] = value.clone()
    tensors |= {f"accumulated/{name}": value for name, value in accumulated.items()}
    tensors["rng/cpu"] = torch.get_rng_state()
    state: dict[str, Any] = {
        "schema": SCHEMA,
        "step": step,
        "processes": processes,
        "identity": dict(identity),
        "optimizer": numbers,
        "kinds": _kinds(optimizer, modules),
    }
    partial, place = folder / PARTIAL, folder / f"checkpoint-{step}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    state["tensors"] = sealed_file.save_tensors(
        partial / TENSORS, tensors, {"step": str(step)}, SCHEMA
    )
    (partial / STATE).write_text(sealed_file.dump_json(state), encoding="utf-8")
    durable_file.sync(partial / STATE)
    if place.exists():  # the same step again, from a resumed run: the same content
        shutil.rmtree(place)
    durable_file.replace(partial, place)
    for other in _complete(folder)[KEPT:]:
        shutil.rmtree(other, ignore_errors=True)
    return place


def read_identity(path: Path) -> dict[str, Any]:
    """Read what run a checkpoint belongs to; DataError if it is none of this version."""
    return _read_state(path)["identity"]


def processes_of(path: Path) -> int:
    """Read how many processes made a checkpoint; 1 where an earlier version did not note it."""
    found = _read_state(path).get("processes", 1)
    if type(found) is not int or found < 1:
        raise _damaged(path, f"{STATE} says that {found!r} processes made it")
    return found


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = sealed_file.read_json(path / STATE, SCHEMA)
    except (OSError, DataError) as error:
        raise _damaged(path, error) from None
    expected = {"step": int, "identity": dict, "optimizer": dict, "tensors": str}
    for key, kind in expected.items():
        if type(state.get(key)) is not kind:
            raise _damaged(path, f"{STATE} has no {key}")
    if type(state.get("kinds", {})) is not dict:
        raise _damaged(path, f"the kinds in {STATE} are no object")
    if path.name != f"checkpoint-{state['step']}":
        raise _damaged(path, f"{STATE} is of step {state['step']}")
    return state


def _damaged(path: Path, reason: object) -> DataError:
    """Make the error for a checkpoint that cannot be used; it says what to do."""
    before = [other.name for other in _complete(path.parent) if other != path]
    todo = (
        f"remove it to go on from {before[0]}"
        if before
        else "there is none before it: remove it to start anew"
    )
    return DataError(f"{path} is damaged or no checkpoint of ncfast finetune ({reason}); {todo}")


def _read_tensors(path: Path, state: Mapping[str, Any]) -> dict[str, Tensor]:
    try:
        header, tensors = sealed_file.load_tensors(path / TENSORS, SCHEMA)
    except (OSError, DataError) as error:
        raise _damaged(path, error) from None
    if header["checksum"] != state["tensors"] or header.get("step") != str(state["step"]):
        raise _damaged(path, f"{TENSORS} and {STATE} are of two checkpoints")
    return tensors


def load_checkpoint(
    path: Path,
    identity: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    modules: Mapping[str, nn.Module],
    accumulated: Mapping[str, Tensor],
) -> int:
    """Put a run back to where it was, in place, and return the steps done; see
    :func:`save_checkpoint`.

    The model must have been made as in the run before. A checkpoint of another model, text or
    settings (the message names what differs), or a damaged one, is a DataError; nothing was changed
    then.
    """
    state = _read_state(path)
    found = state["identity"]
    if different := differences(found, identity):
        raise DataError(
            f"{path}: the checkpoint of another run: {'; '.join(different)}; choose another "
            "folder, or the same model, text and settings"
        )
    tensors = _read_tensors(path, state)
    of_model = _kept(model)
    names = _names(model)
    kinds = _kinds(optimizer, modules)
    if different := differences(state.get("kinds", kinds), kinds):  # of before, none are noted
        raise DataError(f"{path}: the checkpoint of another run: {'; '.join(different)}")
    _check_complete(path, tensors, of_model, names, modules, accumulated=accumulated)
    _load_modules(path, modules, tensors)  # the only one that may find something wrong
    with torch.no_grad():
        for name, tensor in of_model.items():
            tensor.copy_(tensors[f"model/{name}"])
    _restore_optimizer(optimizer, names, tensors, state["optimizer"])
    for name, tensor in accumulated.items():
        tensor.copy_(tensors[f"accumulated/{name}"])
    torch.set_rng_state(tensors["rng/cpu"])
    return state["step"]


def _check_complete(
    path: Path,
    tensors: Mapping[str, Tensor],
    of_model: Mapping[str, Tensor],
    names: Mapping[Tensor, str],
    modules: Mapping[str, nn.Module],
    accumulated: Mapping[str, Tensor],
) -> None:
    """Reject tensors that are not those of this run, before any of them is used."""
    expected = {f"model/{name}": tensor for name, tensor in of_model.items()}
    saved = {name for name in tensors if name.startswith("model/")}
    if different := sorted(saved ^ set(expected)):
        raise DataError(f"{path}: the checkpoint of another model: {different[0]} differs")
    for name, module in modules.items():
        expected |= {f"term/{name}/{key}": value for key, value in module.state_dict().items()}
    expected |= {f"accumulated/{name}": value for name, value in accumulated.items()}
    expected["rng/cpu"] = torch.get_rng_state()
    owners = {f"optimizer/{name}" for name in names.values()}
    for name in tensors:
        if name.startswith("optimizer/") and name.rpartition("/")[0] not in owners:
            raise DataError(f"{path}: the checkpoint of another model: {name} differs")
    for name, tensor in expected.items():
        if name not in tensors:
            raise _damaged(path, f"{name} is missing")
        found, dtype = tensors[name], tensor.dtype
        # What was accumulated in fewer digits goes on in more.
        wider = name.startswith("accumulated/") and torch.promote_types(found.dtype, dtype) == dtype
        if found.shape != tensor.shape or not (wider or found.dtype == dtype):
            raise DataError(
                f"{path}: the checkpoint of another model: {name} differs: it is {found.dtype} "
                f"{tuple(found.shape)}; expected {tensor.dtype} {tuple(tensor.shape)}"
            )


def _load_modules(
    path: Path, modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]
) -> None:
    """Load the terms; where one rejects its state, all are as they were."""
    before = {
        name: {key: value.clone() for key, value in module.state_dict().items()}
        for name, module in modules.items()
    }
    for name, module in modules.items():
        prefix = f"term/{name}/"
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            for other, kept in before.items():
                modules[other].load_state_dict(kept)
            reason = str(error).splitlines()[-1].strip()
            raise DataError(
                f"{path}: the checkpoint of another run: term {name}: {reason}"
            ) from None


def _kinds(optimizer: torch.optim.Optimizer, modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """Say what tensors of a checkpoint mean that may have the form of another kind's."""
    kinds = {f"term {name}": kind_of_term(module) for name, module in modules.items()}
    return {"optimizer": type(optimizer).__name__} | kinds


def kind_of_term(term: nn.Module) -> str:
    """Say what a term's state is of: its class, and how it estimates class means.

    >>> from ncfast.losses import NC3Regularizer
    >>> kind_of_term(NC3Regularizer(3, 2, means="ema"))
    'DualityRegularizer of ema means'
    """
    means = getattr(term, "class_means", None)
    return type(term).__name__ + (f" of {means.kind} means" if means is not None else "")


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

"""``ncfast doctor``: what is installed here, what each op will run on, and why."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LIBRARIES = (
    "torch",
    "numpy",
    "safetensors",
    "transformers",
    "tokenizers",
    "gguf",
    "accelerate",
    "datasets",
    "triton",
)
VARIABLES = (
    "NCFAST_BACKEND",
    "NCFAST_STRICT",
    "NCFAST_CPU_CAPABILITY",
    "NCFAST_CPU_PRODUCTS",
    "NCFAST_CPU_BFLOAT16",
    "NCFAST_DEBUG",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "--device",
        default=None,
        help="the device whose backends are asked (default: cpu, and cuda where there is one)",
    )
    parser.add_argument("--json", action="store_true", help="the same for programs, and for issues")


def run(options: argparse.Namespace, given: Sequence[str]) -> int:
    """Print versions, the CPU library, and a verdict per op and backend; 1 if an op has no backend.

    >>> run(argparse.Namespace(device="cpu", json=True), [])  # doctest: +ELLIPSIS
    {
     "ncfast": ...
    0
    """
    import torch

    devices = [options.device] if options.device else ["cpu"]
    if not options.device and torch.cuda.is_available():
        devices.append("cuda")
    facts = _facts(devices)
    broken = [op for ops in facts["ops"].values() for op, one in ops.items() if not one["chosen"]]
    if options.json:
        print(json.dumps(facts, indent=1))
        return int(bool(broken))
    print("\n".join(_versions(facts)))
    print()
    print("\n".join(_cpu_library(facts["cpu_library"])))
    print(
        "\n".join(
            ["Products on this CPU:", *_pairs(facts["cpu_products"] or {"none": "no library"})]
        )
    )
    print("\n".join(["CUDA kernels:", *_pairs(facts["cuda_libraries"])]))
    print("\n".join(_backends_for_tests()))
    for device, ops in facts["ops"].items():
        print("\n".join(_ops(device, ops)))
    print()
    if broken:
        print(f"Nothing can run: {', '.join(broken)}.")
        return 1
    print("Every op has a backend that can run it.")
    return 0


def _facts(devices: Sequence[str]) -> dict[str, Any]:
    """Return what is known of this installation, in plain values."""
    from .. import __version__, native, native_cuda

    def plain(values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: list(value) if isinstance(value, (list, tuple)) else value and str(value)
            for name, value in values.items()
        }

    return {
        "ncfast": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "cpu_library": plain(native.describe()),
        "cpu_products": plain(native.products()),
        "cuda_libraries": plain(native_cuda.describe()),
        "ops": {device: _verdicts(device) for device in devices},
    }


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions(facts: Mapping[str, Any]) -> list[str]:
    lines = [f"ncfast {facts['ncfast']}, Python {facts['python']}, {facts['platform']}"]
    lines += [f"  {name:<14} {v or 'not installed'}" for name, v in facts["libraries"].items()]
    return lines + [f"  {name}={value}" for name, value in facts["variables"].items()]


def _pairs(facts: Mapping[str, Any]) -> list[str]:
    return [f"  {name:<14} {_plain(value)}" for name, value in facts.items()]


def _cpu_library(facts: Mapping[str, Any]) -> list[str]:
    lines = [f"C++ library for the CPU: {'loaded' if facts.get('path') else 'not loaded'}"]
    lines += _pairs({name: value for name, value in facts.items() if name != "reason"})
    if reason := facts.get("reason"):
        lines.append(f"  why not: {reason}")
        lines.append("  without it the reference backend serves, correctly but slowly;")
        lines.append("  install a C++17 compiler and run pip install again")
    return lines


def _backends_for_tests() -> list[str]:
    """Return what runs GPU kernels without a GPU, and how to have it where it is not in use."""
    from .. import dispatch, native_cuda

    states = {}
    triton = importlib.util.find_spec("triton") is not None
    if os.environ.get("TRITON_INTERPRET", "0") == "1" and triton:
        states["triton-interpret"] = "available, in use: TRITON_INTERPRET=1 is set"
    elif triton:
        states["triton-interpret"] = "available for tests: set TRITON_INTERPRET=1"
    else:
        states["triton-interpret"] = "not available: triton is not installed"
    reason = native_cuda.describe()["cuda-host"]
    if os.path.exists(reason):
        states["cuda-host"] = "available, loaded"
    elif (Path(__file__).parents[2] / "csrc/build_cuda.py").exists():
        build = "NCFAST_BUILD_CUDA_HOST=1 python setup.py build_ext --inplace"
        states["cuda-host"] = f"available for tests: {build} (pytest builds its own)"
    else:
        states["cuda-host"] = f"not available: {reason}; build it in a checkout of the sources"
    lines = ["GPU kernels without a GPU, for tests:"]
    for name, state in states.items():
        held = [op for op in dispatch.ops() if name in _backends_of(op)]
        lines.append(f"  {name:<16} {state}; {len(held)} of {len(dispatch.ops())} ops")
    return lines


def _backends_of(op: str) -> list[str]:
    from .. import dispatch

    listed = dispatch.explain(op, *sample_arguments(op, "cpu"))
    return [verdict.backend for verdict in listed if verdict.available]


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _verdicts(device: str) -> dict[str, dict[str, Any]]:
    """Return which backend serves each op on a device, and why others do not, by reason."""
    from .. import dispatch

    found = {}
    for op in dispatch.ops():
        explanation = dispatch.explain(op, *sample_arguments(op, device))
        others: dict[str, list[str]] = {}
        for verdict in explanation:
            if not verdict.chosen:
                others.setdefault(verdict.reason or "could serve", []).append(verdict.backend)
        found[op] = {"chosen": explanation.chosen, "others": others}
    return found


def _ops(device: str, ops: Mapping[str, Any]) -> list[str]:
    width = max(map(len, ops), default=0)
    lines = [f"\nOps on {device}, float32:"]
    for op, one in ops.items():
        why = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in one["others"].items())
        lines.append(f"  {op:<{width}}  {one['chosen'] or 'NOTHING':<10} ({why})")
    return lines


def sample_arguments(op: str, device: str) -> list[Any]:
    """Make small arguments of the kinds an op's schema takes, for backends to judge.

    Backends judge by devices, dtypes and shapes alone, and schemas name their arguments alike, so
    an op that is added later needs no entry here.

    >>> import ncfast
    >>> len(sample_arguments("class_moments", "cpu"))
    3
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    samples = {a.name: _sample(a, device) for a in _schema(op).arguments}
    forward = op.removesuffix("_backward")
    if forward != op:
        # What backward takes of forward looks like forward's output, which the op's shape rule
        # tells and no backend is run for: by its name in the schema, and the first one's gradient.
        with FakeTensorMode():
            inputs = [_sample(a, device) for a in _schema(forward).arguments]
            outputs = getattr(torch.ops.ncfast, forward)(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        names = [returned.name for returned in _schema(forward).returns]
        for name, output in [("grad", outputs[0]), *zip(names, outputs, strict=True)]:
            if name in samples:
                samples[name] = torch.zeros(output.shape, dtype=output.dtype, device=device)
    return list(samples.values())


def _schema(op: str) -> Any:
    import torch

    return getattr(torch.ops.ncfast, op).default._schema


def _sample(argument: Any, device: str) -> Any:
    import torch

    kind = str(argument.type)
    if kind.startswith("Optional"):
        return None
    if kind == "Tensor":
        if argument.name in ("y", "index", "counts"):
            return torch.zeros(2, dtype=torch.int64, device=device)
        if argument.name == "m2":
            return torch.zeros(2, dtype=torch.float64, device=device)
        return torch.zeros((2,) if argument.name == "center" else (2, 2), device=device)
    return {"int": 2, "float": 0.0, "bool": True, "str": ""}.get(kind, [])

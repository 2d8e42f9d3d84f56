"""``ncfast doctor``: what is installed here, what each op will run on, and why."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Sequence
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
VARIABLES = ("NCFAST_BACKEND", "NCFAST_STRICT", "NCFAST_CPU_CAPABILITY", "NCFAST_DEBUG")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command.

    Args:
        parser: the command's own parser.

    Example:
        >>> add_arguments(argparse.ArgumentParser())
    """
    parser.add_argument(
        "--device",
        default=None,
        help="the device whose backends are asked (default: cpu, and cuda where there is one)",
    )


def run(options: argparse.Namespace, given: Sequence[str]) -> int:
    """Print versions, the CPU library, and a verdict per op and backend.

    Args:
        options: the parsed arguments.
        given: the words of the command line; not used.

    Returns:
        0, or 1 when an op has no backend that can run it.

    Example:
        >>> run(argparse.Namespace(device="cpu"), [])  # doctest: +SKIP
        0
    """
    import torch

    print("\n".join(_versions()))
    print()
    print("\n".join(_cpu_library()))
    print("\n".join(_cuda_libraries()))
    print("\n".join(_backends_for_tests()))
    devices = [options.device] if options.device else ["cpu"]
    if not options.device and torch.cuda.is_available():
        devices.append("cuda")
    broken = [op for device in devices for op in _print_ops(device)]
    print()
    if broken:
        print(f"Nothing can run: {', '.join(broken)}.")
        return 1
    print("Every op has a backend that can run it.")
    return 0


def _versions() -> list[str]:
    from .. import __version__

    lines = [f"ncfast {__version__}, Python {platform.python_version()}, {platform.platform()}"]
    for name in LIBRARIES:
        try:
            lines.append(f"  {name:<14} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(f"  {name:<14} not installed")
    lines += [f"  {name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    return lines


def _cpu_library() -> list[str]:
    from .. import native

    facts = native.describe()
    reason = facts.get("reason")
    state = "loaded" if facts.get("path") else "not loaded"
    lines = [f"C++ library for the CPU: {state}"]
    lines += [f"  {name:<14} {_plain(value)}" for name, value in facts.items() if name != "reason"]
    if reason:
        lines.append(f"  why not: {reason}")
        lines.append("  without it the reference backend serves, correctly but slowly;")
        lines.append("  install a C++17 compiler and run pip install again")
    return lines


def _cuda_libraries() -> list[str]:
    from .. import native_cuda

    facts = native_cuda.describe()
    return ["CUDA kernels:", *(f"  {name:<14} {state}" for name, state in facts.items())]


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
        held = [op for op in dispatch.ops() if name in _rows(op)]
        lines.append(f"  {name:<16} {state}; {len(held)} of {len(dispatch.ops())} ops")
    return lines


def _rows(op: str) -> list[str]:
    from .. import dispatch

    listed = dispatch.explain(op, *sample_arguments(op, "cpu"))
    return [verdict.backend for verdict in listed if verdict.available]


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _print_ops(device: str) -> list[str]:
    """Print which backend serves each op on a device; return the ops that none serves."""
    from .. import dispatch

    print(f"\nOps on {device}, float32:")
    broken = []
    width = max(map(len, dispatch.ops()), default=0)
    for op in dispatch.ops():
        explanation = dispatch.explain(op, *sample_arguments(op, device))
        others: dict[str, list[str]] = {}
        for verdict in explanation:
            if not verdict.chosen:
                others.setdefault(verdict.reason or "could serve", []).append(verdict.backend)
        why = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in others.items())
        print(f"  {op:<{width}}  {explanation.chosen or 'NOTHING':<10} ({why})")
        if explanation.chosen is None:
            broken.append(op)
    return broken


def sample_arguments(op: str, device: str) -> list[Any]:
    """Make small arguments of the kinds an op takes, for backends to judge.

    Backends judge by devices, dtypes and shapes alone, and schemas name their arguments alike, so
    an op that is added later needs no entry here.

    Args:
        op: the op's name.
        device: where the tensors live.

    Returns:
        One value per argument of its schema.

    Example:
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

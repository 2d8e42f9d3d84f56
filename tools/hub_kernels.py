"""Writes the ops as a project of Hugging Face's kernel-builder: ``tools.hub_kernels OUT``.

``build.toml``, ``flake.nix``, ``CARD.md``, ``csrc/``, ``torch-ext/`` and ``tests/``, all taken from
these sources as they are, so that nothing is kept twice. The Python part is ``ncfast.functional``
and what it imports; it needs torch alone and registers its ops in the namespace of the build.
Triton kernels stay behind: those of the project are compiled ahead of time. ``kernel-builder
build`` makes its variants; ``tests/test_hub_kernels.py`` makes that for CPUs, without Nix.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "csrc"))
from object_cache import closure  # noqa: E402

__all__ = ["NAME", "main", "python_files", "sources", "write"]

NAME = "ncfast-kernels"
PACKAGE = NAME.replace("-", "_")
TEMPLATES = Path(__file__).parent / "hub"
# Template: the file it becomes.
WRITTEN = {
    "flake.txt": "flake.nix",
    "card.txt": "CARD.md",
    "torch_binding.txt": "torch-ext/torch_binding.cpp",
    "init.txt": f"torch-ext/{PACKAGE}/__init__.py",
    "names.txt": f"torch-ext/{PACKAGE}/_names.py",
    "test.txt": "tests/test_kernels.py",
}
# What a build on the Hub does otherwise: file, what stands there, what comes in its place. It loads
# one library, which is imported, and may use torch alone.
CHANGED = (
    ("ops/_definition.py", 'NAMESPACE = "ncfast"\n', "from .._names import NAMESPACE\n"),
    (
        "ops/_gpu_kernels.py",
        'if importlib.util.find_spec(f"ncfast.kernels.',
        'if False and (f"',  # the kernels of Triton are not here
    ),
    ("native.py", 'return _FOLDER / f"libncfast_cpu_{capability}.so"', "return LIBRARY"),
    (
        "native.py",
        'return "avx2" if has_avx2 and _library_path("avx2").exists() else "portable"',
        'return "portable"',
    ),
    (
        "native.py",
        "    capability = _wanted_capability()\n",
        '    if BACKEND != "cpu":\n        return None, "this build holds kernels for GPUs"\n'
        "    capability = _wanted_capability()\n",
    ),
    (
        "native_cuda.py",
        "    path = _library_path(backend)\n    if not",
        '    return "" if backend == BACKEND else f"this build has no kernels for {backend}"\n'
        "    path = _library_path(backend)\n    if not",
    ),
    ("arrays.py", "import numpy\n", "from types import SimpleNamespace\n"),
    (
        "arrays.py",
        "\n_WHOLE = ",
        "\nnumpy = SimpleNamespace(ndarray=())  # no array is one: tensors only\n_WHOLE = ",
    ),
)
RENAMED = {
    r"torch\.ops\.ncfast_native\b": "raw",
    r"getattr\(torch\.ops, NAMESPACES\[backend\]\)": "raw",
    r"torch\.ops\.ncfast(?=[.,])": "public",
}
CAPABILITIES = ("8.0", "9.0a", "10.0a")  # as csrc/build_cuda.py


def sources(backend: str) -> list[Path]:
    """Return the C++ files of a backend, "cpu" or "cuda", with all that they include."""
    roots = {
        "cpu": [*(ROOT / "csrc/cpu").glob("*.cpp"), ROOT / "csrc/bindings/cpu.cpp"],
        "cuda": [*(ROOT / "csrc/cuda").glob("*.cu"), ROOT / "csrc/bindings/cuda.cpp"],
    }[backend]
    found = {path for root in roots for path in closure(root)}
    return sorted(path for path in found if "testing" not in path.parts)  # the emulator's


def python_files() -> list[Path]:
    """Return the modules that ``ncfast.functional`` imports, itself among them.

    Raises:
        ValueError: one imports what is neither torch's nor Python's.
    """
    package, seen = ROOT / "ncfast", set()
    waiting = [package / "functional/__init__.py"]
    while waiting:
        path = waiting.pop()
        if path in seen or path == package / "__init__.py":
            continue
        seen.add(path)
        if path.parent != package:
            waiting.append(path.parent / "__init__.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                names = [base, *(base / alias.name for alias in node.names)]
                files = [f for n in names for f in (n.with_suffix(".py"), n / "__init__.py")]
                waiting += [file for file in files if file.exists()]
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                named = [node.module] if isinstance(node, ast.ImportFrom) else []
                named = named or [alias.name for alias in node.names]
                tops = {str(name).partition(".")[0] for name in named}
                if others := tops - {"torch", "numpy", *sys.stdlib_module_names}:
                    raise ValueError(f"{path.relative_to(ROOT)} imports {', '.join(others)}")
    return sorted(seen)


def on_the_hub(name: str, text: str) -> str:
    """Return a module's text with what is otherwise on the Hub.

    Raises:
        ValueError: what is to be changed does not stand there once.
    """
    for file, old, new in CHANGED:
        if file == name:
            if text.count(old) != 1:
                raise ValueError(f"ncfast/{name}: {old!r} stands there {text.count(old)} times")
            text = text.replace(old, new)
    changed = set()
    for pattern, new in RENAMED.items():
        text, times = re.subn(pattern, new, text)
        changed |= {new} if times else set()
    used = [n for n in ("BACKEND", "LIBRARY") if name.startswith("native") and n in text]
    used += sorted(changed)
    if used:
        line = f"from {'.' * (1 + name.count('/'))}_names import {', '.join(used)}\n"
        text = text.replace("import torch\n", f"import torch\n\n{line}", 1)
    return text


def build_toml() -> str:
    """Return what kernel-builder compiles: files, flags, and for which torch and GPUs."""

    def listed(values: Sequence[str]) -> str:
        return "[\n" + "".join(f'    "{value}",\n' for value in values) + "]"

    def files(backend: str) -> str:
        return listed([in_layout(path) for path in sources(backend)])

    return f"""\
[general]
name = "{NAME}"
version = 0
edition = 5
license = "Apache-2.0"
backends = ["cpu", "cuda"]

[torch]
src = ["torch-ext/torch_binding.cpp"]
cxx-flags = ["-std=c++20"]

[torch.stable-abi]
cpu = "2.11"
cuda = "2.11"

[kernel.cpu]
backend = "cpu"
depends = ["torch"]
cxx-flags = ["-std=c++20", "-fno-math-errno", "-Dncfast_native=TORCH_EXTENSION_NAME"]
src = {files("cpu")}

[kernel.cuda]
backend = "cuda"
depends = ["torch"]
cuda-capabilities = {listed(CAPABILITIES)}
cuda-flags = ["-std=c++20"]
cxx-flags = ["-std=c++20", "-Dncfast_native_cuda=TORCH_EXTENSION_NAME"]
src = {files("cuda")}
"""


def in_layout(path: Path) -> str:
    """Return where a file of csrc lies; what the binding includes is no source of its own."""
    name = path.relative_to(ROOT).as_posix()
    return "csrc/bindings/cpu.h" if name == "csrc/bindings/cpu.cpp" else name


def write(out: Path) -> list[Path]:
    """Write the project into a folder, which must be new or empty; return its files.

    Raises:
        FileExistsError: something is there.
    """
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty")
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    texts = {"build.toml": build_toml(), "tests/__init__.py": ""}
    for template, name in WRITTEN.items():
        text = (TEMPLATES / template).read_text(encoding="utf-8")
        texts[name] = text.replace("VERSION", version[1] if version else "")
    for path in python_files():
        name = path.relative_to(ROOT / "ncfast").as_posix()
        texts[f"torch-ext/{PACKAGE}/{name}"] = on_the_hub(name, path.read_text(encoding="utf-8"))
    for path in {*sources("cpu"), *sources("cuda")}:
        texts[in_layout(path)] = path.read_text(encoding="utf-8")
    for name, text in texts.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text, encoding="utf-8")
    for name in ("LICENSE", "THIRD_PARTY.md"):
        shutil.copy2(ROOT / name, out)
    return sorted(path for path in out.rglob("*") if path.is_file())


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the project."""
    parser = argparse.ArgumentParser(prog="python -m tools.hub_kernels", description=__doc__)
    parser.add_argument("out", type=Path, help="a new folder")
    out = parser.parse_args(arguments).out
    print(f"{len(write(out))} files in {out}")


if __name__ == "__main__":
    main()

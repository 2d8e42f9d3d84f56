"""The ops as a project of kernel-builder: what it names is there; it builds, loads and computes."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

import ncfast.functional as F
from tools import hub_kernels

ROOT = Path(__file__).parents[1]
DECLARED = re.findall(r"^KERNEL\((\w+),", (ROOT / "csrc/common/kernels.def").read_text(), re.M)
INCLUDE = re.compile(r'^\s*#\s*include "([^"]+)"', re.MULTILINE)
# What kernel-builder puts beside the files of a project (its registration.h, without macros for
# what is not here).
REGISTRATION = """
#pragma once
#include <Python.h>
#define EXPANDED_INIT(name) PyInit_##name
#define INIT(name) EXPANDED_INIT(name)
#define EXPANDED_TEXT(name) #name
#define TEXT(name) EXPANDED_TEXT(name)
#define REGISTER_EXTENSION(name)                                                            \\
  PyMODINIT_FUNC INIT(name)() {                                                             \\
    static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, TEXT(name), nullptr, 0, nullptr}; \\
    return PyModule_Create(&module);                                                        \\
  }
"""
OPS = """
import torch
from . import {name}
ops = torch.ops.{name}
def add_op_namespace_prefix(op_name: str):
    return f"{name}::{{op_name}}"
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    hub_kernels.write(folder)
    return folder


def settings_of(project):
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    return tomllib.loads((project / "build.toml").read_text(encoding="utf-8"))


def the_parser_of_kernel_builder():
    """Return the part of the package ``kernels`` that reads build.toml; the rest has needs."""
    package = importlib.util.find_spec("kernels")
    if package is None:
        pytest.skip("kernels is not installed")
    (folder,) = package.submodule_search_locations
    (file,) = Path(folder).glob("_rust*.so")
    spec = importlib.util.spec_from_file_location("kernels._rust", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_build_toml_is_one_that_kernel_builder_reads(project):
    builder = the_parser_of_kernel_builder()
    general = builder.Build.open(project).general
    assert len(general.backends) == 2
    text = (project / "build.toml").read_text(encoding="utf-8")
    (project / "spoiled").mkdir()
    (project / "spoiled/build.toml").write_text(text.replace("cxx-flags", "cxx-flag"))
    with pytest.raises(ValueError, match="cxx-flag"):
        builder.Build.open(project / "spoiled")


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_every_source_and_all_that_it_includes_is_named(project, backend):
    named = set(settings_of(project)["kernel"][backend]["src"])
    assert len(named) == len(hub_kernels.sources(backend))
    for name in named:
        for included in INCLUDE.findall((project / name).read_text(encoding="utf-8")):
            path = (project / name).parent.joinpath(included).resolve().relative_to(project)
            assert str(path) in named or "csrc/testing/" in str(path), (name, included)
    texts = [p.read_text() for p in map(project.joinpath, named) if p.suffix in (".cpp", ".cu")]
    registered = re.findall(r"^NCFAST_KERNEL\((\w+)\)", "\n".join(texts), re.MULTILINE)
    assert sorted(registered) == sorted(DECLARED)


def test_python_needs_torch_alone_and_names_no_fixed_namespace(project):
    files = sorted((project / f"torch-ext/{hub_kernels.PACKAGE}").rglob("*.py"))
    assert len(files) > 40
    for file in files:
        text = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            tops = {name.partition(".")[0] for name in names}
            assert tops <= {"torch", *sys.stdlib_module_names}, (file, tops)
        assert not re.search(r"torch\.ops\.ncfast\w*[.,]", text), file
    template = (project / "tests/test_kernels.py").read_text()
    assert "ncfast_kernels" not in template


def test_what_is_changed_must_be_there():
    with pytest.raises(ValueError, match="stands there 0 times"):
        hub_kernels.on_the_hub("arrays.py", "import torch\n")
    with pytest.raises(FileExistsError):
        hub_kernels.write(ROOT / "tools")


def build_for_cpus(project, name):
    """Do what kernel-builder's CMake does for the CPU; return the folder of the variant."""
    read, variant = settings_of(project), project / "build/torch-stable-abi211-cpu-x86_64-linux"
    torch_folder = Path(torch.__file__).parent
    (project / "registration.h").write_text(REGISTRATION)
    package = project / f"torch-ext/{hub_kernels.PACKAGE}"
    for file in package.rglob("*.py"):
        (variant / file.relative_to(package)).parent.mkdir(parents=True, exist_ok=True)
        (variant / file.relative_to(package)).write_bytes(file.read_bytes())
    (variant / "_ops.py").write_text(OPS.format(name=name))
    about = {"name": hub_kernels.NAME, "id": name, "version": 0, "backend": {"type": "cpu"}}
    (variant / "metadata.json").write_text(
        json.dumps(about | {"license": "Apache-2.0", "python-depends": []})
    )
    include = [torch_folder / "include", sysconfig.get_path("include"), project]
    common = ["-O0", "-fPIC", "-Wno-psabi", "-DCPU_KERNEL", f"-DTORCH_EXTENSION_NAME={name}"]
    common += [f"-I{folder}" for folder in include]
    common += ["-DTORCH_TARGET_VERSION=0x020b000000000000", "-DPy_LIMITED_API=0x03090000"]
    objects = []
    for section in (read["torch"], read["kernel"]["cpu"]):
        for source in [s for s in section["src"] if s.endswith(".cpp")]:
            objects.append(project / f"build/{len(objects)}.o")
            command = ["c++", *common, *section["cxx-flags"], "-c", source, "-o", str(objects[-1])]
            done = subprocess.run(command, cwd=project, capture_output=True, text=True)
            assert done.returncode == 0, shlex.join(command) + done.stderr
    libraries = [f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10"]
    output = ["-o", str(variant / f"{name}.abi3.so")]
    subprocess.run(["c++", "-shared", *map(str, objects), *libraries, *output], check=True)
    return variant


@pytest.mark.slow
def test_the_variant_for_cpus_computes_what_ncfast_does(project, monkeypatch):
    name = "_ncfast_kernels_cpu_1a2b3c4"
    variant = build_for_cpus(project, name)
    spec = importlib.util.spec_from_file_location("loaded_from_the_hub", variant / "__init__.py")
    loaded = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, loaded)
    spec.loader.exec_module(loaded)
    raw = getattr(torch.ops, name)
    assert all(hasattr(raw, op) for op in DECLARED)
    x, weight = torch.randn(64, 16), torch.randn(9, 16)
    y, index = torch.randint(0, 9, (64,)), torch.tensor([1, 3, 4])
    _, means, m2 = F.class_moments(x, y, 9)
    calls = {
        "class_moments": (x, y, 9),
        "within_class_scatter": (x, y, means),
        "between_class_scatter": (means,),
        "alignment": (weight, means, "classes", index),
        "pair_stats": (means, m2, "classes", ("cdnv", "cosine")),
        "nearest_center": (x, means),
        "linear_argmax": (x, weight),
        "linear_nll_lse": (x, weight, y),
    }
    with loaded.use_backend("cpu"):
        for op, arguments in calls.items():
            found, expected = getattr(loaded, op)(*arguments), getattr(F, op)(*arguments)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        x.requires_grad_()
        grads = [
            torch.autograd.grad(m.linear_nll_lse(x, weight, y)[0].sum(), x) for m in (loaded, F)
        ]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)
    with pytest.raises(loaded.DataError, match=r"class_moments: y\[0\] is 9"):
        loaded.class_moments(x, torch.full((64,), 9), 9)
    assert "this build has no kernels for cuda" in str(loaded.explain("class_moments", x, y, 9))

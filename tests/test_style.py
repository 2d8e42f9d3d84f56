"""The house rules a machine can check: linters, imports between packages, names of ops, paths."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ncfast import ops

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ncfast"

# What each package may import; what is not named here (cli, integrations) nobody imports.
ARROWS = {
    "errors": set(),
    "huge_pages": set(),
    "durable_file": set(),
    "mapped": set(),
    "ranks": {"errors"},
    "sealed_file": {"durable_file", "errors"},
    "dispatch": {"errors"},
    "native": {"errors"},
    "native_cuda": {"native", "device_errors", "errors"},
    "reference": {"errors"},
    "device_errors": {"errors"},
    "kernels": {"native", "device_errors", "errors"},
    "ops": {"dispatch", "native", "native_cuda", "reference", "errors"},
    "shards": {"errors"},
    "functional": {"ops", "reference", "arrays", "shards", "errors"},
    "statistics": {
        "functional",
        "arrays",
        "mapped",
        "durable_file",
        "sealed_file",
        "device_errors",
        "errors",
    },
    "geometry": {"functional"},
    "rounding": set(),
    "known_points": {"geometry"},
    "near_points": {"geometry", "known_points"},
    "spectrum": {"geometry", "errors"},
    "presets": set(),
    "arrays": {"errors"},
    "catalogue": set(),
    "moved": {"catalogue", "wheels"},
    "ranges": {"moved"},
    "metrics": {
        "statistics",
        "ranks",
        "mapped",
        "geometry",
        "rounding",
        "known_points",
        "near_points",
        "spectrum",
        "functional",
        "shards",
        "presets",
        "catalogue",
        "arrays",
        "device_errors",
        "errors",
    },
    "agreement": {"statistics", "functional", "shards", "arrays", "errors"},
    "losses": {
        "functional",
        "geometry",
        "rounding",
        "known_points",
        "near_points",
        "presets",
        "shards",
        "errors",
    },
    "testing": {"native", "reference"},
    "wheels": {"errors"},
    "running": set(),
    "language": {"wheels", "errors", "moved"},
    "reporting": {"catalogue", "moved", "durable_file", "sealed_file"},
    "measure": {
        "running",
        "ranks",
        "durable_file",
        "agreement",
        "metrics",
        "statistics",
        "presets",
        "language",
        "reporting",
        "errors",
    },
    "training": {
        "running",
        "ranks",
        "losses",
        "metrics",
        "statistics",
        "functional",
        "language",
        "reporting",
        "durable_file",
        "sealed_file",
        "huge_pages",
        "errors",
    },
    "fairness": {
        "dispatch",
        "native",
        "durable_file",
        "functional",
        "language",
        "wheels",
        "reporting",
        "sealed_file",
        "training",
        "errors",
    },
    "finetune": {
        "running",
        "ranks",
        "durable_file",
        "fairness",
        "training",
        "measure",
        "losses",
        "presets",
        "language",
        "reporting",
        "sealed_file",
        "errors",
    },
    "bench": {
        "functional",
        "losses",
        "metrics",
        "statistics",
        "dispatch",
        "native",
        "testing",
        "reporting",
        "errors",
    },
    "plan": {
        "running",
        "training",
        "losses",
        "functional",
        "language",
        "wheels",
        "reporting",
        "errors",
    },
    "experiment": {
        "running",
        "plan",
        "durable_file",
        "fairness",
        "finetune",
        "training",
        "measure",
        "language",
        "reporting",
        "sealed_file",
        "errors",
    },
}


def sources() -> list[Path]:
    """Return the files that people write."""
    folders = [
        PACKAGE,
        *(ROOT / name for name in ("csrc", "tests", "benchmarks", ".ci", ".github")),
    ]
    suffixes = {".py", ".cpp", ".h", ".md", ".toml", ".yml", ".json", ""}
    files = [p for f in folders for p in f.rglob("*") if p.suffix in suffixes]
    files += [p for p in ROOT.glob("*") if p.suffix in suffixes]
    tree = {"_native", "__pycache__", ".git"}  # a worktree's .git is a file that names a path
    return [p for p in files if p.is_file() and not tree & set(p.parts)]


def imported_rooms(path: Path) -> set[str]:
    """Return the modules directly under ``ncfast`` that a file imports, wherever in it."""
    package = ["ncfast", *path.relative_to(PACKAGE).parts[:-1]]
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            names = [base] if len(base) > 1 else [[*base, alias.name] for alias in node.names]
        else:
            continue
        rooms |= {name[1] for name in names if name[0] == "ncfast" and len(name) > 1}
    return rooms


@pytest.mark.parametrize("room", ARROWS)
def test_arrows(room):
    files = list((PACKAGE / room).rglob("*.py")) if (PACKAGE / room).is_dir() else []
    files += [p for p in [PACKAGE / f"{room}.py"] if p.exists()]
    for path in files:
        allowed = ARROWS[room] | {room}
        # Versions are read by name from the package itself.
        found = imported_rooms(path) - {"__version__"}
        assert found <= allowed, f"{path.relative_to(ROOT)} imports {sorted(found - allowed)}"


def test_every_room_has_arrows():
    rooms = {p.stem for p in PACKAGE.glob("*.py")} | {p.parent.name for p in PACKAGE.glob("*/*.py")}
    assert rooms - {"__init__", "__main__"} == {*ARROWS, "cli", "integrations"}


def module_name(path: Path) -> str:
    """Return the dotted name of a source file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path, known: set[str]) -> set[str]:
    """Return the modules of ``known`` that a file imports, wherever in it, for types too."""
    own = module_name(path).split(".")
    package = own if path.name == "__init__.py" else own[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *filter(None, [node.module])])
            found |= {
                f"{name}.{a.name}" if f"{name}.{a.name}" in known else name for a in node.names
            }
    return found & known - {module_name(path)}


def circles(arrows: dict[str, set[str]]) -> set[str]:
    """Return what is left when what imports nothing that is left is taken away, again and again."""
    left = {name: set(found) for name, found in arrows.items()}
    while free := {name for name, found in left.items() if not found & left.keys()}:
        left = {name: found for name, found in left.items() if name not in free}
    while used := {name for name in left if not any(name in found for found in left.values())}:
        left = {name: found for name, found in left.items() if name not in used}
    return set(left)


def test_no_modules_import_each_other():
    """Nor for types alone: what two files need of each other is a third."""
    files = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    found = circles({name: imported_modules(path, set(files)) for name, path in files.items()})
    assert not found, f"these import each other: {sorted(found)}"


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == {"b", "c"}
    known = {"ncfast.statistics.state", "ncfast.functional"}
    assert imported_modules(PACKAGE / "statistics" / "merging.py", known) == known


def test_arrows_are_checked():
    assert imported_rooms(PACKAGE / "functional" / "checks.py") >= {"ops", "reference"}
    assert imported_rooms(PACKAGE / "ops" / "alignment.py") >= {"reference", "ops"}


OP_FILES = (
    *(f"ncfast/{room}/{{}}.py" for room in ("functional", "ops", "reference", "kernels")),
    "csrc/cpu/{}.cpp",
    "csrc/cuda/{}.cu",
    "tests/ops/test_{}.py",
)


def missing(place: str, names: list[str]) -> list[str]:
    """Return the files of a place that ops of these names lack."""
    return [place.format(op) for op in names if not (ROOT / place.format(op)).exists()]


@pytest.mark.parametrize("place", OP_FILES)
def test_an_op_has_one_name_in_every_room(place):
    assert not missing(place, ops.__all__)
    assert missing(place, ["no_op"]) == [place.format("no_op")]


def kernel_lists(sources: dict[str, str], name: str) -> list[str]:
    """Return the files that write down the arguments of a kernel."""
    written = re.compile(rf"\b(void|class|struct) (torch_|launch_)?{name}\(")
    return sorted(path for path, text in sources.items() if written.search(text))


def test_the_arguments_of_a_kernel_are_written_once_in_each_language():
    csrc = ROOT / "csrc"
    files = [p for p in csrc.rglob("*") if p.suffix in (".cpp", ".h", ".cu", ".cuh")]
    texts = {str(p.relative_to(csrc)): p.read_text("utf-8") for p in files}
    names = re.findall(r"^KERNEL\((\w+),", (csrc / "common/kernels.def").read_text("utf-8"), re.M)
    assert len(names) >= 15
    for name in names:
        cpu, cuda = (
            [p for p, text in texts.items() if p.startswith(room) and f"KERNEL({name})" in text]
            for room in ("cpu/", "cuda/")
        )
        assert len(cpu) == len(cuda) == 1, name
        assert kernel_lists(texts, name) == [*cpu, *cuda]
    planted = {"cuda/alignment.cu": "void alignment(", "cuda/ops.h": "void alignment(Context"}
    assert kernel_lists(planted, "alignment") == sorted(planted)


def test_no_op_imports_another():
    for path in (PACKAGE / "ops").glob("[!_]*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                allowed = ("_definition", "_metadata")
                assert node.module in allowed, f"{path.name} imports {node.module}"


def test_reports_are_drawn_without_torch():
    for room in ("catalogue", "reporting"):
        for path in (PACKAGE / room).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not [n for n in names if n.split(".")[0] == "torch"], path


def test_the_reference_and_the_kernels_know_no_autograd():
    for path in (PACKAGE / "reference").glob("*.py"):
        assert "autograd" not in path.read_text(encoding="utf-8"), path
    for path in (ROOT / "csrc").rglob("*.[ch]*"):
        includes = re.findall(r"#include <(torch/[^>]+|ATen/[^>]+|c10/[^>]+)>", path.read_text())
        for name in includes:
            assert name.startswith(("torch/csrc/stable/", "torch/headeronly/")), f"{path}: {name}"


def test_no_file_names_a_machine():
    # Put together here, or this file would name one.
    pattern = re.compile("/(?:" + "|".join(("work", "home", "root", "Users", "tmp")) + r")/\w")
    for path in sources():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found = pattern.search(text)
        assert found is None, f"{path.relative_to(ROOT)} names {found and found.group()}"


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        pytest.param(["mypy"], marks=pytest.mark.slow),
    ],
)
def test_linters(command):
    if importlib.util.find_spec(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed; it is in the extra 'test'")
    result = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout[-3000:]}{result.stderr}"

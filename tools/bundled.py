"""What a wheel holds that others wrote: ``python -m tools.bundled [--check]`` for THIRD_PARTY.md.

Texts of licences come from the packages that are installed where this runs, which is where the
wheel is built (tools/release.py): the list says what that wheel was made of.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BUNDLED", "Bundled", "main", "unattributed", "written"]

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "THIRD_PARTY.md"
_BSD_ENDS = "POSSIBILITY OF SUCH DAMAGE."


@dataclass(frozen=True)
class Bundled:
    """Hold one work of others.

    ``headers`` begin the names under which csrc includes it. Its licence stands in the file LICENSE
    of ``package`` ("" for one whose text is not ours to repeat), after ``begin``, to ``end``.
    """

    name: str
    licence: str
    where: str
    headers: tuple[str, ...]
    package: str = ""
    begin: str = ""
    end: str = _BSD_ENDS


BUNDLED = (
    Bundled(
        "pybind11",
        "BSD-3-Clause",
        "headers, compiled into ncfast/_native/streaming.so",
        ("pybind11/",),
        "pybind11",
    ),
    Bundled(
        "PyTorch",
        "BSD-3-Clause",
        "headers of its stable ABI, compiled into ncfast/_native/libncfast_*.so",
        ("torch/",),
        "torch",
    ),
    Bundled(
        "FP16",
        "MIT",
        "through PyTorch's header of half precision",
        (),
        "torch",
        begin="third_party/FP16/LICENSE\n---------------------------------\n",
        end="OTHER DEALINGS IN THE SOFTWARE.",
    ),
    Bundled(
        "NVIDIA CUDA runtime",
        "LicenseRef-NVIDIA-CUDA-EULA",
        "in wheels built with NCFAST_BUILD_CUDA=1 only: headers and libcudart_static, compiled "
        "into ncfast/_native/libncfast_cuda.so; its text comes with nvidia-cuda-runtime",
        ("cuda_", "cuda/"),
    ),
)
# Headers of C++ and of the system: what is compiled from them stands under GCC's runtime exception.
_SYSTEM = re.compile(r"[a-z_]+|(sys/)?[a-z]+\.h")


def unattributed(folder: Path = ROOT / "csrc") -> list[str]:
    """Return what csrc includes of others that BUNDLED does not name.

    Args:
        folder: where the sources are; those of tests (``testing``) go into no wheel.

    Returns:
        One "FILE: HEADER" for each.
    """
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".cpp", ".cu", ".h", ".cuh")):
        if "testing" in path.parts:
            continue
        for header in re.findall(r"^\s*#\s*include\s*<([^>]+)>", path.read_text(), re.MULTILINE):
            named = any(header.startswith(begin) for one in BUNDLED for begin in one.headers)
            if not named and not _SYSTEM.fullmatch(header):
                found.append(f"{path.relative_to(folder)}: {header}")
    return found


def written() -> str:
    """Return the text of THIRD_PARTY.md, from the packages installed here.

    Raises:
        SystemExit: a package, or the licence in it, is not there.
    """
    lines = ["# What wheels of ncfast hold that others wrote", ""]
    lines += ["Written by `python -m tools.bundled`. No library of others is in a wheel, but what"]
    lines += ["is compiled into ours:", "", "| work | licence | where |", "|---|---|---|"]
    lines += [f"| {one.name} | {one.licence} | {one.where} |" for one in BUNDLED]
    for one in BUNDLED:
        if one.package:
            lines += ["", f"## {one.name}", "", "```text", _text(one), "```"]
    return "\n".join(lines) + "\n"


def _text(one: Bundled) -> str:
    try:
        files = importlib.metadata.files(one.package) or []
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit(f"tools.bundled: {one.package} is not installed here") from None
    for file in files:
        if re.search(r"\.dist-info/licenses/LICENSE$", str(file)):
            text = Path(str(file.locate())).read_text(encoding="utf-8")
            text = text.partition(one.begin)[2] if one.begin else text
            if one.end in text:
                kept = text.partition(one.end)[0] + one.end
                return "\n".join(line.rstrip() for line in kept.strip().splitlines())
    raise SystemExit(f"tools.bundled: {one.package} brings no licence of {one.name}")


def main() -> None:
    """Write the file, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    options = parser.parse_args()
    if missing := unattributed():
        raise SystemExit(f"tools.bundled: BUNDLED names no work for {'; '.join(missing)}")
    if not options.check:
        FILE.write_text(written(), encoding="utf-8")
    elif FILE.read_text(encoding="utf-8") != written():
        raise SystemExit("THIRD_PARTY.md is not what is installed here; python -m tools.bundled")


if __name__ == "__main__":
    main()

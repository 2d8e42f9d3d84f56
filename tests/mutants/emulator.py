"""Builds the emulator's library in a copy of the tree with few sources compiled anew.

    python tests/mutants/emulator.py KIND SOUND.json                 # compile all; note the objects
    python tests/mutants/emulator.py KIND SOUND.json SOURCE.cu ...   # these anew, and link

The second leaves the library where the tests' fixture looks for it. The objects of the sources that
are not named are those of the first: the fault is not in them. Only the standard library is used.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT / "csrc")
import build_cuda  # noqa: E402
import object_cache  # noqa: E402


def main(kind: str, noted: Path, sources: list[str]) -> None:
    """Compile, and link where sources are named."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    jobs, link = build_cuda.host_jobs(Path(spec.origin).parent, kind)
    if not sources:
        objects = object_cache.compile_all(jobs, build_cuda.run)
        named = {job.source.name: str(path) for job, path in zip(jobs, objects, strict=True)}
        noted.write_text(json.dumps(named), encoding="utf-8")
        return
    sound = json.loads(noted.read_text(encoding="utf-8"))
    # Less optimised, as the detector's build is: a fault is compiled once and run for seconds.
    planted = [
        replace(job, command=tuple("-O1" if part == "-O3" else part for part in job.command))
        for job in jobs
        if job.source.name in sources
    ]
    assert len(planted) == len(sources), sources
    # First: of an inline function that several objects hold, the linker takes the first.
    objects = object_cache.compile_all(planted, build_cuda.run)
    objects += [Path(path) for name, path in sound.items() if name not in sources]
    output = ROOT / "build" / f"libncfast_cuda_host{kind}-{build_cuda.sources_hash()}.so"
    build_cuda.link_objects(objects, link, output)


if __name__ == "__main__":
    try:
        main(sys.argv[1].removeprefix("plain"), Path(sys.argv[2]), sys.argv[3:])
    except build_cuda.CannotBuild as reason:
        raise SystemExit(f"emulator: {reason}") from None

"""The CPU library under sanitizers, with two Python threads in it.

    python -m tests.sanitized address    # AddressSanitizer and UBSan
    python -m tests.sanitized thread     # ThreadSanitizer

Builds the library so into a copy of the package, and there calls every op on every sample, forward
and backward, in two threads at once: they share nothing but the library and torch, and have to come
to the same bits. What a sanitizer reports ends it with 1. torch is not instrumented, so each
thread computes alone (one OpenMP thread): what is reported is ours. ``--planted`` puts a fault into
the copy first, which has to be reported: then it ends with 0 where it was.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLAGS = {
    "address": "-fsanitize=address,undefined -fno-sanitize-recover=undefined",
    "thread": "-fsanitize=thread",
}
LIBRARIES = {"address": ("libasan.so", "libubsan.so"), "thread": ("libtsan.so",)}
REPORTED = 66
# Where faults are planted, and what is put there: a count that two threads share, a write past the
# end of what torch allocated.
PLANTED = ("csrc/cpu/class_moments.cpp", "  std::atomic<bool> nonfinite{false};\n")
FAULTS = {
    "thread": "  static int64_t calls = 0;\n  if (++calls < 0) spread[0] = T(0);\n",
    "address": "  mean[classes * width] = T(0);\n",
}
OPTIONS = {
    "ASAN_OPTIONS": f"detect_leaks=0:verify_asan_link_order=0:exitcode={REPORTED}",
    "UBSAN_OPTIONS": f"halt_on_error=1:exitcode={REPORTED}",
    "TSAN_OPTIONS": f"exitcode={REPORTED}:ignore_noninstrumented_modules=1:halt_on_error=0",
}
CALLS = """
import threading
from pathlib import Path

import torch

import ncfast.functional as F
from ncfast import dispatch, native, use_backend
from ncfast.testing import sample_inputs

torch.set_num_threads(1)
path = Path(native.describe()["path"])
assert path.is_relative_to(Path.cwd()), path  # the copy that was built with a sanitizer
together, found, failed = threading.Barrier(2), ([], []), []

def copied(value):
    return value.clone() if isinstance(value, torch.Tensor) else value

def calls(into):
    torch.set_num_threads(1)
    for op in dispatch.ops():
        if op.endswith("_backward"):
            continue
        for dtype in (torch.float32, torch.bfloat16):
            for sample in sample_inputs(op, dtype):
                args = [copied(a) for a in sample.args]
                grads = [a for a in args if isinstance(a, torch.Tensor) and a.is_floating_point()]
                if op.endswith("_"):
                    grads = []
                for a in grads:
                    a.requires_grad_()
                together.wait()
                out = F.function_of(op)(*args)
                outs = out if isinstance(out, tuple) else (out,)
                sums = [t.double().sum() for t in outs
                        if isinstance(t, torch.Tensor) and t.requires_grad]
                if sums:
                    sum(sums).backward()
                into.append([t.detach() for t in outs if isinstance(t, torch.Tensor)])
                into[-1] += [a.grad for a in grads if a.grad is not None]
                if op.endswith("_"):
                    into[-1] += [a for a in args if isinstance(a, torch.Tensor)]

def run(into):
    try:
        calls(into)
    except BaseException as error:
        failed.append(error)
        together.abort()

with use_backend("cpu"):
    threads = [threading.Thread(target=run, args=(into,)) for into in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
if failed:
    raise failed[0]
for one, two in zip(*found, strict=True):
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())
print("CALLS", len(found[0]))
"""


def built(kind: str, folder: Path, planted: bool) -> None:
    """Build a copy of the package with a sanitizer, and with a fault if asked."""
    left = shutil.ignore_patterns("__pycache__", "*.so", "build*.txt")
    for name in ("ncfast", "csrc"):
        shutil.copytree(ROOT / name, folder / name, ignore=left)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "THIRD_PARTY.md"):
        shutil.copy(ROOT / name, folder)
    if planted:
        path, place = folder / PLANTED[0], PLANTED[1]
        text = path.read_text(encoding="utf-8")
        assert text.count(place) == 1, PLANTED
        path.write_text(text.replace(place, FAULTS[kind] + place), encoding="utf-8")
    environment = {
        "CXX": f"{os.environ.get('CXX', 'c++')} {FLAGS[kind]}",
        "NCFAST_BUILD_NATIVE": "1",
        "NCFAST_BUILD_CUDA": "0",
        "NCFAST_BUILD_CAPABILITIES": "avx2",
        "NCFAST_OBJECT_CACHE": os.environ.get("NCFAST_OBJECT_CACHE", str(ROOT / "build/objects")),
    }
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]


def called(kind: str, folder: Path, script: str = CALLS) -> subprocess.CompletedProcess[str]:
    """Run the calls in a process that the sanitizer watches."""
    compiler = os.environ.get("CXX", "c++").split()[0]
    libraries = [
        subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True)
        for name in (*LIBRARIES[kind], "libstdc++.so")
    ]
    environment = {
        "LD_PRELOAD": " ".join(found.stdout.strip() for found in libraries),
        "PYTHONPATH": str(folder),
        "NCFAST_CPU_CAPABILITY": "avx2",
    }
    # ThreadSanitizer wants its memory where address space randomisation may put something else.
    fixed = ["setarch", "-R"] if shutil.which("setarch") else []
    return subprocess.run(
        [*fixed, sys.executable, "-c", script],
        cwd=folder,
        env=os.environ | OPTIONS | environment,
        capture_output=True,
        text=True,
    )


def main() -> int:
    """Build, call, and say what was reported."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=list(FLAGS))
    parser.add_argument("--planted", action="store_true", help="expect a planted fault reported")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        built(options.kind, folder, options.planted)
        done = called(options.kind, folder)
    print(done.stdout[-2000:], done.stderr[-6000:])
    wrong = done.returncode == REPORTED or "Sanitizer" in done.stderr
    if options.planted:
        print(f"{options.kind}: the planted fault was {'' if wrong else 'NOT '}reported")
        return int(not wrong)
    wrong = wrong or done.returncode or "CALLS" not in done.stdout or "runtime error" in done.stderr
    print(f"{options.kind}: {'REPORTED' if wrong else 'clean'}, exit code {done.returncode}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())

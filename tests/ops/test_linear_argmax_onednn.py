"""Digits where float32 is multiplied by oneDNN, which on some CPUs may leave 8 bits of 24.

A library in front of torch's product rounds what it found as bfloat16 would.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROUND = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
typedef int32_t (*product)(void *, void *, void **, const char *, const double **, int64_t,
                           const char **, void **);
typedef int32_t (*of_tensor)(void *, void *);
int32_t aoti_torch_cpu__linear_pointwise(void *x, void *w, void **bias, const char *after,
                                         const double **scalars, int64_t count, const char **how,
                                         void **out) {
  void *torch = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
  product multiply = (product)dlsym(torch, "aoti_torch_cpu__linear_pointwise");
  int32_t failed = multiply(x, w, bias, after, scalars, count, how, out);
  uint32_t *bits = 0;
  int64_t values = 0;
  ((of_tensor)dlsym(torch, "aoti_torch_get_data_ptr"))(*out, &bits);
  ((of_tensor)dlsym(torch, "aoti_torch_get_numel"))(*out, &values);
  for (int64_t i = 0; i < values; ++i) bits[i] &= KEPT;
  return failed;
}
"""
MARGINS = """
import torch, ncfast
import ncfast.functional as F
generator = torch.Generator().manual_seed(0)
x, head = (torch.randn(n, 601, generator=generator) for n in (70, 300))
try:
    print("no oneDNN" in ncfast.native.products()["float32"])
except ValueError as error:
    raise SystemExit(print(error))
_, margins = F.linear_argmax(x, head)
best = (x.double() @ head.double().T).topk(2).values
print(float((margins - (best[:, 0] - best[:, 1])).abs().max()) < 1e-3)
"""


def said(folder: Path, kept: str, **settings: str) -> str:
    """Return what the process prints where products keep these bits of float32."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("a C compiler and a dynamic linker that takes LD_PRELOAD are needed")
    library = folder / "round.so"
    flags = ["-shared", "-fPIC", "-O2", f"-DKEPT={kept}", "-x", "c", "-", "-ldl"]
    subprocess.run(
        [compiler, *flags, "-o", str(library)], input=ROUND, text=True, check=True, timeout=60
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NCFAST_")}
    environment |= {"LD_PRELOAD": str(library), **settings}
    done = subprocess.run(
        [sys.executable, "-c", MARGINS], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("kept", ["0xffff0000u", "0xffffe000u"], ids=["bfloat16", "tf32"])
def test_products_that_lose_digits_are_not_chosen(tmp_path, kept):
    assert said(tmp_path, kept) == "True\nTrue\n"


def test_products_that_lose_digits_are_an_error_where_they_are_asked_for(tmp_path):
    error = "NCFAST_CPU_PRODUCTS is 'onednn'; this CPU or this torch has no such products\n"
    assert said(tmp_path, "0xffff0000u", NCFAST_CPU_PRODUCTS="onednn") == error

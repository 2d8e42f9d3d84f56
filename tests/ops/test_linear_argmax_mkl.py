"""Ties where bfloat16 is multiplied by MKL, whose kernels for CPUs with AMX never ran here.

A library in front of MKL's adds in an order that depends on what AMX kernels may depend on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MULTIPLY = """
#include <stdint.h>
static float wide(uint16_t half) {
  union { uint32_t bits; float value; } both = {(uint32_t)half << 16};
  return both.value;
}
void cblas_gemm_bf16bf16f32(int layout, int ta, int tb, int m, int n, int k, float alpha,
                            const uint16_t *a, int lda, const uint16_t *b, int ldb, float beta,
                            float *c, int ldc) {
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      const int backwards = BACKWARDS;
      float sum = 0;
      for (int d = 0; d < k; ++d) {
        const int at = backwards ? k - 1 - d : d;
        sum += wide(a[i * lda + at]) * wide(b[j * ldb + at]);
      }
      c[i * ldc + j] = sum;
    }
}
"""
# Two tiles of classes, the second with fewer rows; all rows are equal.
TIES = """
import torch, ncfast
import ncfast.functional as F
try:
    ncfast.native.products()
except ValueError as error:
    raise SystemExit(print(error))
generator = torch.Generator().manual_seed(0)
x = torch.randn(70, 601, generator=generator).bfloat16()
head = torch.randn(1, 601, generator=generator).bfloat16().repeat(603, 1)
classes, margins = F.linear_argmax(x, head)
print(int(classes.max()), float(margins.abs().max()))
"""


def found_with(folder: Path, backwards: str) -> str:
    """Return what the process prints where products are added by a rule of ours."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("a C compiler and a dynamic linker that takes LD_PRELOAD are needed")
    library = folder / "multiply.so"
    flags = ["-shared", "-fPIC", "-O2", f"-DBACKWARDS={backwards}", "-x", "c", "-"]
    subprocess.run(
        [compiler, *flags, "-o", str(library)], input=MULTIPLY, text=True, check=True, timeout=60
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NCFAST_")}
    environment |= {"LD_PRELOAD": str(library), "NCFAST_CPU_BFLOAT16": "mkl"}
    done = subprocess.run(
        [sys.executable, "-c", TIES], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_tiles_of_another_shape_are_never_asked_for(tmp_path):
    assert found_with(tmp_path, "n % 64 != 0 || m % 32 != 0") == "0 0.0\n"


def test_products_that_depend_on_the_place_in_a_tile_are_not_chosen(tmp_path):
    said = "NCFAST_CPU_BFLOAT16 is 'mkl'; this CPU or this torch has no such products\n"
    assert found_with(tmp_path, "j % 64 >= 48") == said

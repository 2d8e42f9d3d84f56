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
#include <stdlib.h>
static float wide(uint16_t half) {
  union { uint32_t bits; float value; } both = {(uint32_t)half << 16};
  return both.value;
}
void cblas_gemm_bf16bf16f32(int layout, int ta, int tb, int m, int n, int k, float alpha,
                            const uint16_t *a, int lda, const uint16_t *b, int ldb, float beta,
                            float *restrict c, int ldc) {
  float *restrict columns = malloc(sizeof(float) * n * k);  /* b in the order of its sums */
  int *from = malloc(sizeof(int) * n);
  for (int j = 0; j < n; ++j) {
    from[j] = BACKWARDS;
    for (int d = 0; d < k; ++d) columns[d * n + j] = wide(b[j * ldb + (from[j] ? k - 1 - d : d)]);
  }
  for (int i = 0; i < m; ++i) {
    float *restrict sums = c + (int64_t)i * ldc;
    for (int j = 0; j < n; ++j) sums[j] = 0;
    for (int d = 0; d < k; ++d) {
      const float ahead = wide(a[i * lda + d]), back = wide(a[i * lda + k - 1 - d]);
      for (int j = 0; j < n; ++j) sums[j] += (from[j] ? back : ahead) * columns[d * n + j];
    }
  }
  free(columns);
  free(from);
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
# A head of few classes, forward and backward.
FEW = """
import torch
import ncfast.functional as F
generator = torch.Generator().manual_seed(0)
x = torch.randn(70, 601, generator=generator).bfloat16().requires_grad_()
head = torch.randn(50, 601, generator=generator).bfloat16().requires_grad_()
y = torch.arange(70) % 50
nll, _ = F.linear_nll_lse(x, head, y)
nll.sum().backward()
plain = torch.nn.functional.cross_entropy(x.float() @ head.float().T, y, reduction="sum")
print(float(nll.sum() - plain) < 0.01, bool((head.grad != 0).any()))
"""


def found_with(folder: Path, backwards: str, script: str = TIES) -> str:
    """Return what the process prints where products are added by a rule of ours."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("a C compiler and a dynamic linker that takes LD_PRELOAD are needed")
    library = folder / "multiply.so"
    flags = ["-shared", "-fPIC", "-O3", f"-DBACKWARDS={backwards}", "-x", "c", "-"]
    subprocess.run(
        [compiler, *flags, "-o", str(library)], input=MULTIPLY, text=True, check=True, timeout=60
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NCFAST_")}
    environment |= {"LD_PRELOAD": str(library), "NCFAST_CPU_BFLOAT16": "mkl"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_tiles_of_another_shape_are_never_asked_for(tmp_path):
    assert found_with(tmp_path, "n % 64 != 0 || m % 32 != 0") == "0 0.0\n"


def test_a_head_of_few_classes_is_no_whole_tile_of_them(tmp_path):
    wider = "(k == 602 && n > 64 ? (__builtin_trap(), 1) : 0)"
    assert found_with(tmp_path, wider, FEW) == "True True\n"


PLACES = {
    "columns": "j % 64 >= 48",
    "long": "n == 320 && j >= 310 && k == 2048",
    "short": "m >= 512 && j >= 100 && k == 334",
    "between": "n == 384 && j >= 370 && k == 768",
    "usual": "n == 192 && j >= 128 && k == 768",
}


@pytest.mark.parametrize(
    "tiles",
    [name if name == "columns" else pytest.param(name, marks=pytest.mark.slow) for name in PLACES],
)
def test_products_that_depend_on_the_place_in_a_tile_are_not_chosen(tmp_path, tiles):
    """In any of the tiles that ops have, not in one shape alone."""
    said = "NCFAST_CPU_BFLOAT16 is 'mkl'; this CPU or this torch has no such products\n"
    assert found_with(tmp_path, PLACES[tiles]) == said

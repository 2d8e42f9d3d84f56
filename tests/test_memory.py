"""The memory an op takes beside its outputs: at most 16 bytes per token and 64 MiB.

On two threads, and on eight for the ops whose threads each hold tiles of points.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ncfast.bench.memory import method

N, D, V = 16_384, 768, 30_522
MIB = 1 << 20
ROOT = Path(__file__).parent.parent

# In a process of its own: what other tests left behind would serve these calls.
METER = """
import json, sys, torch, ncfast.functional as F
from ncfast.bench.memory import peak_extra_bytes as meter
torch.set_num_threads(2)
N, D, V = map(int, sys.argv[1:])
generator = torch.Generator().manual_seed(0)
# Frequencies like those of words: the first class holds about a tenth of the tokens.
share = 1 / torch.arange(1, V + 1, dtype=torch.float64)
y = torch.multinomial(share, N, replacement=True, generator=generator)
x = torch.randn(N, D, generator=generator)
points, head = torch.randn(2, V, D, generator=generator)
index = torch.randperm(V, generator=generator)[: V // 2]
counts, means, m2 = F.class_moments(x, y, V)
m2, scatter = m2.double(), torch.zeros(D, D, dtype=torch.float64)
center, far = points.mean(0), points + 1

def backward(function, *leaves):
    leaves = [t.detach().requires_grad_() for t in leaves]
    out = function(*leaves)
    upstream = torch.ones_like(out)
    return meter(lambda: torch.autograd.grad(out, leaves, upstream))

def on_eight_threads(measured, *arguments):
    torch.set_num_threads(8)
    F.alignment(head[:9], points[:9])  # starts them
    found = measured(*arguments)
    torch.set_num_threads(2)
    return found

def pairs(points, variances):
    kinds = ("cdnv", "log_distance", "cosine")
    edges = torch.linspace(-1, 1, 1001, dtype=torch.float64).repeat(3, 1)
    return F.pair_stats(points, variances, "none", kinds, edges=edges)

def sums_of_pairs(points, variances):
    return pairs(points, variances)[0]

def backward_of_classes(function, *leaves):
    # The center gives the points a second gradient, which autograd adds to the first.
    return backward(function, *leaves) - V * D * 4

small = torch.randn(64, 8)
F.within_class_scatter(small, torch.zeros(64, dtype=torch.int64), small[:1])  # starts the threads
found = {
    "control: one tensor of N x D": meter(lambda: torch.ones(N, D)),
    "control: twice that, half kept": meter(lambda: (torch.ones(N, D) + 1)),
    "class_moments": meter(lambda: F.class_moments(x, y, V)),
    "class_moments backward": backward(lambda x: F.class_moments(x, y, V)[1], x),
    "accumulate": meter(lambda: F.accumulate_class_moments_(counts, means, m2, None, x, y)),
    "accumulate, scatter": meter(
        lambda: F.accumulate_class_moments_(counts, means, m2, scatter, x, y)),
    "within": meter(lambda: F.within_class_scatter(x, y, means)),
    "within backward": backward(lambda x, means: F.within_class_scatter(x, y, means), x, means),
    "between": meter(lambda: F.between_class_scatter(means, counts.double())),
    "between, index": meter(lambda: F.between_class_scatter(means, None, "classes", index)),
    "between backward": backward(
        lambda means, center: F.between_class_scatter(means, None, center), means, center),
    "between backward, classes": backward_of_classes(F.between_class_scatter, means),
    "alignment": meter(lambda: F.alignment(head, points)),
    "alignment, index": meter(lambda: F.alignment(head, points, "classes", index)),
    "alignment backward": backward(F.alignment, head, points, center),
    "alignment backward, classes": backward_of_classes(F.alignment, head, points),
    "pair_stats": on_eight_threads(meter, lambda: pairs(points[:6000], counts[:6000].double())),
    "pair_stats backward": on_eight_threads(
        backward, sums_of_pairs, points[:6000], counts[:6000].double()),
    # 4,096 tokens give eight threads a tile each; scores of 8,192 classes would be 128 MiB.
    "linear_argmax": on_eight_threads(meter, lambda: F.linear_argmax(x[:4096], head[:8192])),
    "linear_argmax, index": meter(lambda: F.linear_argmax(x[:512], head, None, index)),
    "nearest_center": on_eight_threads(meter, lambda: F.nearest_center(x[:4096], far[:8192])),
}
few, labels = x[:1031], y[:1031]
thin = few[:, :256].contiguous(), head[:, :256].contiguous()  # whose logits are as many
BUDGET = 24 << 20

def loss(x, head, **settings):
    return F.linear_nll_lse(x, head, labels, **settings)[0]

def kept_logits():
    # What it keeps for backward was asked for: it counts as an output.
    leaves = [t.detach().requires_grad_() for t in thin]
    return meter(lambda: loss(*leaves, memory_budget=BUDGET)) - BUDGET

found |= {
    "linear_cross_entropy": meter(lambda: loss(few, head)),
    "linear_cross_entropy, budget": kept_logits(),
    "linear_cross_entropy backward": backward(loss, few, head),
    "linear_cross_entropy backward, budget": backward(
        lambda *leaves: loss(*leaves, memory_budget=BUDGET), *thin),
    "linear_cross_entropy backward, bfloat16": backward(loss, *(t.bfloat16() for t in thin)),
}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, int]:
    """Return the peak beside what was held before and the outputs, in bytes, per case."""
    if method() != "VmHWM":
        pytest.skip(f"a short peak may escape here: memory is {method()}")
    # Large blocks go back to the system when freed: what one case leaves serves no other.
    fixed = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    path = os.pathsep.join(map(str, (ROOT, os.environ.get("PYTHONPATH", ""))))
    result = subprocess.run(
        [sys.executable, "-c", METER, *map(str, (N, D, V))],
        env=os.environ | fixed | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_the_meter_sees_what_is_taken(found):
    size = N * D * 4
    for name, expected in (("one tensor of N x D", 0), ("twice that, half kept", size)):
        assert abs(found[f"control: {name}"] - expected) <= 4 * MIB


def test_no_op_takes_more_than_its_share(found):
    allowed = 16 * N + 64 * MIB
    extra = {name: peak for name, peak in found.items() if "control" not in name}
    assert len(extra) == 24
    over = {name: f"{bytes_ / MIB:.1f} MiB" for name, bytes_ in extra.items() if bytes_ > allowed}
    assert not over, f"more than {allowed / MIB:.2f} MiB beside their outputs: {over}"


MANY_COUNTS = """
import ctypes, torch, ncfast.functional as F
torch.set_num_threads(2)
head = torch.randn(8192, 128, requires_grad=True)

def resident():
    # Freed blocks that the heap holds for later are 0 to 36 MiB, by chance: give them back first.
    getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def train(first, last):
    for tokens in range(first, last, 7):
        x, y = torch.randn(tokens, 128, requires_grad=True), torch.arange(tokens)
        F.linear_nll_lse(x, head, y)[0].sum().backward()
    head.grad = None

train(500, 600)
before = resident()
train(600, 800)
print(resident() - before)
"""


@pytest.mark.slow
def test_another_number_of_tokens_each_step_takes_no_more_memory():
    """A library that keeps a kernel for each shape kept 5 MiB a step."""
    if method() == "not measured":
        pytest.skip("no /proc: memory is not measured here")
    command = [sys.executable, "-c", MANY_COUNTS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 24 * MIB

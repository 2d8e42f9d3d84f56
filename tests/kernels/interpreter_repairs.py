"""Each repair of Triton's interpreter, by a kernel that is wrong without it.

``test_interpreted.py`` runs this file in a process with TRITON_INTERPRET=1.
"""

from __future__ import annotations

import math

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter as bare

from ncfast.kernels import interpreter, launching

interpreter.install()

B = tl.constexpr(32)


@triton.jit
def _dot(a, b, c, PRECISION: tl.constexpr):
    i = tl.arange(0, B)[:, None] * B + tl.arange(0, B)[None, :]
    zeros = tl.zeros((B, B), tl.float32)
    tl.store(c + i, tl.dot(tl.load(a + i), tl.load(b + i), zeros, input_precision=PRECISION))


def product(a: torch.Tensor, b: torch.Tensor, precision: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a kernel says a @ b is, and what it is."""
    c = torch.empty(32, 32)
    _dot[(1,)](a, b, c, PRECISION=precision)
    return c, a.double() @ b.double()


def matrices(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(32, 32, generator=generator) for _ in range(2))
    return a.to(dtype), b.to(dtype)


def test_a_dot_of_bfloat16_is_exact():
    found, exact = product(*matrices(torch.bfloat16), "ieee")
    assert (found - exact).abs().max() <= 1e-5


def test_tf32_loses_digits_and_three_of_them_keep_most():
    errors = {}
    for precision in ("tf32", "tf32x3", "ieee"):
        found, exact = product(*matrices(torch.float32), precision)
        errors[precision] = float((found - exact).abs().max())
    assert 1e-4 < errors["tf32"] < 1e-2
    assert errors["tf32x3"] < 1e-5
    assert errors["ieee"] < 1e-5
    # 1 + 2^-11 has one bit too many for tf32, and rounds to the even neighbour, 1.
    a, eye = torch.full((32, 32), 1 + 2**-11), torch.eye(32)
    assert product(a, eye, "tf32")[0].unique().tolist() == [1.0]
    assert product(a, eye, "tf32x3")[0].unique().tolist() == [1 + 2**-11]


@triton.jit
def _double(x, out, KIND: tl.constexpr):
    i = tl.arange(0, B)
    v = tl.load(x + i)
    if KIND == "add":
        v = v + v
    if KIND == "negate":
        v = -v
    if KIND == "sum":
        v = tl.sum(v, axis=0) + tl.zeros((B,), tl.float32)
    if KIND == "compare":
        v = (v > tl.load(x)).to(tl.float32)
    if KIND == "float32":
        v = v.to(tl.float32) + v.to(tl.float32)
    tl.store(out + i, v.to(tl.float32))


@pytest.mark.parametrize("kind", ["add", "negate", "sum", "compare"])
def test_arithmetic_on_bfloat16_is_refused(kind):
    x = torch.ones(32, dtype=torch.bfloat16)
    with pytest.raises(Exception, match="convert to float32 when loading"):
        _double[(1,)](x, torch.empty(32), KIND=kind)


def test_arithmetic_on_bfloat16_that_was_converted():
    x, out = torch.randn(32).bfloat16(), torch.empty(32)
    _double[(1,)](x, out, KIND="float32")
    assert torch.equal(out, 2 * x.float())


@triton.jit
def _narrow(x, out):
    i = tl.arange(0, B)
    tl.store(out + i, tl.load(x + i).to(tl.bfloat16))


def test_bfloat16_is_rounded():
    special = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-40, 3.3895e38, 1 + 2**-8, 1 + 3 * 2**-8]
    x = torch.cat([torch.tensor(special), torch.randn(32 - len(special))])
    out = torch.empty(32, dtype=torch.bfloat16)
    _narrow[(1,)](x, out)
    assert torch.equal(out.nan_to_num(7.0), x.bfloat16().nan_to_num(7.0))
    assert torch.equal(out.isnan(), x.isnan())


@triton.jit
def _assert_positive(x):
    tl.device_assert(tl.load(x + tl.arange(0, B)) > 0, "not positive")


def test_device_asserts_raise():
    _assert_positive[(1,)](torch.ones(32))
    with pytest.raises(Exception, match="not positive"):
        _assert_positive[(1,)](-torch.ones(32))


@triton.jit
def _one_more(v):
    return v + 1


@triton.jit
def _add_three(x):
    i = tl.arange(0, B)
    tl.store(x + i, _one_more(_one_more(_one_more(tl.load(x + i)))))


def test_a_launch_patches_the_language_once_and_gives_it_back(monkeypatch):
    patched, original = [], bare._patch_builtin
    monkeypatch.setattr(bare, "_patch_builtin", lambda m, *r: (patched.append(m), original(m, *r)))
    before = dict(vars(tl)), dict(vars(tl.tensor))
    for launches in (1, 2):
        x = torch.zeros(32)
        _add_three[(2,)](x)
        assert x.unique().tolist() == [6.0]
        assert patched.count(tl) == launches
        assert (dict(vars(tl)), dict(vars(tl.tensor))) == before
    with pytest.raises(Exception, match="not positive"):
        _assert_positive[(1,)](-torch.ones(32))
    assert (dict(vars(tl)), dict(vars(tl.tensor))) == before


def test_a_type_is_looked_up_as_the_bare_interpreter_finds_it():
    names = {name for name in vars(tl) if isinstance(getattr(tl, name), tl.dtype)} - {"void"}
    assert {"int1", "bfloat16", "float64", "uint64"} <= names
    for scalar in [getattr(tl, name) for name in sorted(names)]:
        for wanted in (scalar, tl.pointer_type(scalar)):
            for asked in (wanted, tl.block_type(wanted, [4, 8])):
                found = bare._get_np_dtype(asked)
                assert found == bare._get_np_dtype.__wrapped__(asked), asked


def test_types_and_tensors_of_a_known_shape_are_as_new_ones(monkeypatch):
    made = {}
    for again in (False, True, None):  # the last time by the bare interpreter
        for one in (tl.block_type, tl.tensor) if again is None else ():
            monkeypatch.setattr(one, "__init__", one.__init__.__wrapped__)
        for scalar in (tl.int32, tl.pointer_type(tl.float32), tl.float64):
            for shape in ([8], [4, 2], tl.tuple([2, 4]), [tl.constexpr(4), 2], [1, 1, 8]):
                block = tl.block_type(scalar, shape)
                t = tl.tensor(None, block)
                found = block.name, block.numel, block.shape.values, block.scalar, t.dtype, t.numel
                found += (type(block.shape), t.shape.values, type(t.shape), str(t), t.type is block)
                key = str(scalar), str(shape)
                assert made.setdefault(key, found) == found
        assert tl.tensor(None, tl.int32).shape.values == []
    monkeypatch.undo()
    refused = (TypeError, ValueError, AssertionError)
    for bad in ([4.0, 2], (4, 2), [3], []):
        for _ in range(2):
            with pytest.raises(refused):
                tl.block_type(tl.int32, bad)


@triton.jit
def _add_one(x, out, count, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < count) + 1, mask=i < count)


CHOICES = tuple(launching.Configuration(str(b), w, 1, {"BLOCK": b}) for b, w in ((16, 1), (64, 2)))


def test_autotune_is_served_and_only_on_request(monkeypatch):
    seen = []

    def grid(tiles):
        seen.append(tiles["BLOCK"])
        return (triton.cdiv(100, tiles["BLOCK"]),)

    def launched():
        seen.clear()
        x, out = torch.randn(100), torch.full((100,), math.nan)
        launching.launch(_add_one, grid, CHOICES, x, out, 100, key=("count",))
        assert torch.equal(out, x + 1)
        return set(seen)

    assert launched() == {16}
    with launching.tuning():
        assert launched() == {16, 64}
    assert launched() == {16}

"""The rule for comparing with plain torch: an error of at most twice its own, and a floor."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["assert_matches", "rounding_floor"]


def rounding_floor(
    truth: Tensor, accumulate: torch.dtype, dtype: torch.dtype, scale: float | None = None
) -> float:
    """Return the error that rounding alone explains: ``16 eps(accumulate) s + eps(dtype)/2 s``.

    The first term bounds a pairwise sum of 2^16 terms in the accumulation dtype; the second, only
    where the result is stored narrower than it was summed, is one rounding. ``s``, the natural
    scale, is the largest magnitude in the truth, or what terms that cancel in it reach.

    >>> rounding_floor(torch.tensor([1.0, -2.0]), torch.float64, torch.float64) == 2**-47
    True
    """
    if scale is None:
        scale = float(truth.detach().abs().max()) if truth.numel() else 0.0
    floor = 16 * torch.finfo(accumulate).eps * scale
    if dtype.is_floating_point and torch.finfo(dtype).eps > torch.finfo(accumulate).eps:
        floor += torch.finfo(dtype).eps / 2 * scale
    return floor


def assert_matches(
    out: Tensor,
    truth: Tensor,
    baseline: Tensor,
    *,
    accumulate: torch.dtype = torch.float32,
    floor: float | None = None,
    name: str = "out",
) -> None:
    """Require an error of at most twice that of plain torch, plus a floor: the two-reference rule.

    Integers must be equal. There is no tolerance to choose.

    Args:
        out: What the code under test returned.
        truth: The float64 result.
        baseline: Plain torch on the same inputs, sums in ``accumulate``, in the dtype ``out``
            must have.
        accumulate: The dtype that sums are kept in.
        floor: The error to allow besides, by default :func:`rounding_floor`.
        name: What to call ``out`` in the message.

    Raises:
        AssertionError: A shape or dtype differs, or an error is too large; says both errors and
            where.
        ValueError: The baseline is not finite where the truth is, so that it proves nothing.

    >>> third = torch.tensor([1 / 3], dtype=torch.float64)
    >>> assert_matches(third.float(), third, third.float())
    >>> assert_matches(third.float() + 1e-4, third, third.float())
    Traceback (most recent call last):
    AssertionError: out[0] is 0.3334...; expected 0.3333...: error 0.0001 exceeds ...
    """
    if out.shape != truth.shape or out.dtype != baseline.dtype:
        raise AssertionError(
            f"{name} is {out.dtype} {tuple(out.shape)}; "
            f"expected {baseline.dtype} {tuple(truth.shape)}"
        )
    if not out.numel():
        return
    if not out.dtype.is_floating_point:
        allowed, baseline_error = 0.0, 0.0
    else:
        baseline_error = float((baseline.detach().double() - truth).abs().max())
        if not math.isfinite(baseline_error):
            raise ValueError(f"{name}: the baseline is not finite: it proves nothing")
        floor = rounding_floor(truth, accumulate, out.dtype) if floor is None else floor
        allowed = 2 * baseline_error + floor
    errors = (out.detach().double() - truth.double()).abs()
    errors[~torch.isfinite(errors)] = math.inf
    if float(errors.max()) <= allowed:
        return
    at = [int(i) for i in torch.unravel_index(errors.argmax(), errors.shape)]
    here = tuple(at)
    raise AssertionError(
        f"{name}{at} is {float(out[here]):.9g}; expected {float(truth[here]):.9g}: "
        f"error {float(errors.max()):.3g} exceeds 2 x {baseline_error:.3g} of plain torch "
        f"+ {floor or 0.0:.3g}; {int((errors > allowed).sum())} of {errors.numel()} values do"
    )

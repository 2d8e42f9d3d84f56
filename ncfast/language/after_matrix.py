"""What a model does to the product of features and output matrix: nothing, a scale, a soft-cap.

The head's output is replaced by known numbers, and what comes out of the model is read. So a scale
is exact in whatever dtype the model is, and has no name that had to be known.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from .errors import LanguageError
from .heads import Head, after_product

GRID = (0.0, 1.0, -1.0, 0.25, 3.0, -7.0, 1e8, -1e8)


def probe_after_matrix(
    model: nn.Module, head: Head, inputs: dict[str, Any], logits: torch.Tensor
) -> Head:
    """Return a head with the constant scale and the soft-cap of the logits that a pass gave.

    The model is in eval mode; ``inputs`` are of the pass that gave ``logits`` [B, T, V]. Where the
    matrix is no module of its own, what the configuration says of the soft-cap is kept, and the
    caller's comparison decides. Another function of the product is a LanguageError.
    """
    if head.captures != "input":
        return head
    given, found = _response(model, head, inputs, logits)
    # A bias added behind the module is the response to 0; the numeric check settles what it is.
    at = dict(zip(GRID[: len(given)], found.unbind(0), strict=True))
    at_zero = at[0.0].clone()
    top = float(at[max(at)].abs().max())
    capped = max(at) > 1e3 and top < 1e3 * max(1.0, float((at[1.0] - at_zero).abs().max()))
    softcap = top if capped else 0.0
    # tanh is undone before the bias and the scale are read.
    if softcap:
        at_zero = softcap * torch.atanh(at_zero / softcap)
    one = softcap * torch.atanh(at[1.0] / softcap) if softcap else at[1.0]
    scales = one - at_zero
    scale = _snapped(float(scales.median()), model, found.dtype)
    shown = replace(head, scale=scale, softcap=_snapped(softcap, model, found.dtype))
    expected = after_product(given[:, None] + at_zero / scale if scale else given[:, None], shown)
    error = (found - expected).abs() / (expected.abs() + 1e-3)
    error = torch.maximum(error, (scales - scale).abs() / (abs(scale) + 1e-3))
    tolerance = 1e-4 if found.dtype in (torch.float64, torch.float32) else 2e-2
    if not scale > 0 or not bool((error <= tolerance).all()):
        columns = (error > tolerance).any(0).sum()
        raise LanguageError(
            f"this head is not supported: {type(model).__name__} scales or changes its logits "
            f"after the output matrix, in {int(columns)} of {found.shape[1]} columns by other than "
            f"one positive scale (about {scale:.4g}) and a soft-cap"
        )
    return shown


def _response(
    model: nn.Module, head: Head, inputs: dict[str, Any], logits: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return known outputs of the head [n], and what the model makes of them [n, V]."""
    count = min(len(GRID), logits.shape[1])
    failed: Exception | None = None
    for dtype in (torch.float64, torch.float32, logits.dtype):
        limit = torch.finfo(dtype).max
        grid = torch.tensor(GRID[:count], dtype=torch.float64).clamp(-limit, limit)
        given = grid.to(logits.device, dtype)

        def instead(
            module: nn.Module,
            args: tuple,
            output: torch.Tensor,
            given: torch.Tensor = given,
        ) -> torch.Tensor:
            values = given.new_zeros(output.shape)
            values[:, :count] = given[:, None]
            return values

        handle = head.module.register_forward_hook(instead)
        try:
            found = model.forward(**inputs).logits[0, :count]
        except (RuntimeError, TypeError) as error:
            failed = error
            continue
        finally:
            handle.remove()
        if found.dtype in (torch.float32, torch.float64) or dtype == logits.dtype:
            return given.to(found.dtype), found
    raise LanguageError(
        f"this head is not supported: {type(model).__name__} does not take its head's output as it "
        f"is ({failed})"
    )


def _snapped(value: float, model: Any, dtype: torch.dtype) -> float:
    """Return the number of the configuration that a value rounds, or the value."""
    close = {torch.float64: 1e-9, torch.float32: 1e-6}.get(dtype, 5e-3)
    settings = vars(getattr(model.config, "text_config", None) or model.config)
    numbers = [1.0, *(float(v) for v in settings.values() if isinstance(v, (int, float)))]
    for number in numbers:
        for candidate in (number, 1 / number if number else math.nan):
            if math.isclose(value, candidate, rel_tol=close):
                return candidate
    return value

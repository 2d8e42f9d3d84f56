"""The two ceilings of this machine, copy and matrix product, measured before anything is timed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import torch

from .clock import Clock
from .settings import Settings, settings_of

COPY_BYTES, DRY_COPY_BYTES = 4 << 30, 8 << 20
SIDE, DRY_SIDE = 8_192, 128
REPEATS = 10


def copy_rate(clock: Clock, settings: Settings) -> float:
    """Return the bytes a second that a large copy reads and writes."""
    size = DRY_COPY_BYTES if settings.dry_run else COPY_BYTES
    source = torch.ones(size // 4, device=settings.device)
    target = torch.empty_like(source)
    return 2 * size / clock.median(lambda: target.copy_(source), REPEATS)


def product_rate(clock: Clock, settings: Settings, dtype: torch.dtype) -> float:
    """Return the operations a second of a product of two square matrices."""
    side = DRY_SIDE if settings.dry_run else SIDE
    a, b = (torch.randn(side, side, device=settings.device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * side**3 / clock.median(lambda: torch.mm(a, b, out=out), REPEATS)


def measured(settings: Settings) -> dict[str, float]:
    """Return bytes a second of a copy, and operations a second of products by how they multiply."""
    clock = Clock(settings.device)
    found = {"copy": copy_rate(clock, settings)}
    found["bfloat16"] = product_rate(clock, settings, torch.bfloat16)
    found["float32"] = product_rate(clock, settings, torch.float32)
    torch.backends.cuda.matmul.allow_tf32 = True
    found["tf32"] = product_rate(clock, settings, torch.float32)
    torch.backends.cuda.matmul.allow_tf32 = False
    return found


def main(given: Sequence[str] | None = None) -> int:
    """Write ceilings.json."""
    settings = settings_of(given, __doc__)
    found = measured(settings)
    path = settings.out / "ceilings.json"
    path.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(path.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

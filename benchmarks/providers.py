"""Who is timed, by name, and how each does an op."""

from __future__ import annotations

from . import ncfast_backends, neural_collapse_package, plain_torch, predecessor
from .contract import Absent, Inputs, Prepare, Prepared

__all__ = ["NO_SUCH_OP", "PROVIDERS", "prepare"]

NO_SUCH_OP = "has no such op of its own"

PROVIDERS: dict[str, dict[str, Prepare]] = {
    "cpu": ncfast_backends.table("cpu"),
    "reference": ncfast_backends.table("reference"),
    "torch": plain_torch.TABLE,
    "predecessor": predecessor.TABLE,
    "neural_collapse": neural_collapse_package.TABLE,
}


def prepare(provider: str, op: str, inputs: Inputs) -> Prepared:
    """Return one provider's way to do one op.

    Raises:
        Absent: The provider has no such op, or needs what is not here.
    """
    ops = PROVIDERS[provider]
    if op not in ops:
        raise Absent(NO_SUCH_OP)
    return ops[op](inputs)

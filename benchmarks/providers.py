"""Who is timed, by name, and how each does an op."""

from __future__ import annotations

from ncfast.bench import backends, loss_packages, plain_torch
from ncfast.bench.contract import Absent, Inputs, Prepare, Prepared
from ncfast.bench.gate import NO_SUCH_OP

from . import neural_collapse_package, official_term, predecessor, term, transformers_package

__all__ = ["NO_SUCH_OP", "PROVIDERS", "SPECIAL", "prepare"]

PROVIDERS: dict[str, dict[str, Prepare]] = {
    "cpu": backends.table("cpu") | term.own("cpu"),
    "reference": backends.table("reference") | term.own("reference"),
    "torch": plain_torch.TABLE | term.PLAIN,
    "predecessor": predecessor.TABLE,
    "neural_collapse": neural_collapse_package.TABLE,
    "official": official_term.TABLE,
    "torch_compile": loss_packages.COMPILED,
    "torch_fused": loss_packages.TORCH_FUSED,
    "cut_cross_entropy": loss_packages.CUT_CROSS_ENTROPY,
    "liger": loss_packages.LIGER,
    "transformers": transformers_package.HEAD,
    "masked_lm_step": transformers_package.STEP,
}

# Made for one op: nobody misses them beside the others.
SPECIAL = frozenset(list(PROVIDERS)[list(PROVIDERS).index("official") :])


def prepare(provider: str, op: str, inputs: Inputs) -> Prepared:
    """Return one provider's way to do one op, or raise Absent."""
    ops = PROVIDERS[provider]
    if op not in ops:
        raise Absent(NO_SUCH_OP)
    return ops[op](inputs)

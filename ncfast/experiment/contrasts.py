"""What makes contrasts, margins and endpoints of a protocol wrong, before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .errors import ExperimentError
from .parts import Contrast, Endpoint, Margin, Protocol

__all__ = ["check_contrast", "check_endpoint", "check_margin"]


def check_contrast(protocol: Protocol, contrast: Contrast, arms: Sequence[str]) -> None:
    """Reject a contrast of unknown arms, or of arms that seeds do not pair."""
    name = protocol.path.name
    if missing := {contrast.arm, contrast.against} - set(arms):
        raise ExperimentError(f"{name}: a contrast names {sorted(missing)}; expected {arms}")
    both = {contrast.arm, contrast.against}
    if len(both) < 2 or sum({c.arm, c.against} == both for c in protocol.contrasts) > 1:
        raise ExperimentError(  # each would be one more test, of nothing or of the same
            f"{name}: the contrast of {contrast.arm!r} and {contrast.against!r} is of one arm, or "
            "there twice; expected two arms, and each two once"
        )
    if contrast.primary and contrast.positive:
        raise ExperimentError(
            f"{name}: the contrast of {contrast.arm!r} and {contrast.against!r} is primary "
            "and a positive control; expected one of them"
        )
    one, two = (_trained_as(protocol, n) for n in (contrast.arm, contrast.against))
    if one != two:
        raise ExperimentError(
            f"{name}: {contrast.arm!r} and {contrast.against!r} train differently, "
            f"{one} and {two}, so that seeds do not pair them"
        )


def check_margin(protocol: Protocol, margin: Margin) -> None:
    """Reject a margin of no endpoint, of one that has no cost, or of no size."""
    name, good = protocol.path.name, {e.name: e.good for e in protocol.endpoints}
    if margin.endpoint not in good or margin.scale not in ("difference", "ratio"):
        raise ExperimentError(
            f"{name}: a margin of {margin.endpoint!r} by {margin.scale!r}; expected an "
            "endpoint, and 'difference' or 'ratio'"
        )
    if good[margin.endpoint] == "none":
        raise ExperimentError(
            f"{name}: a margin of {margin.endpoint!r}, whose good is 'none'; expected low or "
            "high, so that there is a cost"
        )
    if not 0 < margin.margin < float("inf"):
        raise ExperimentError(
            f"{name}: a margin of {margin.margin} of {margin.endpoint!r}; expected above 0"
        )


def check_endpoint(protocol: Protocol, endpoint: Endpoint, arms: Sequence[str]) -> None:
    """Reject an endpoint without data, or whose direction or arms are unknown."""
    where = f"{protocol.path.name}: the endpoint {endpoint.name!r}"
    if endpoint.benchmark not in ("perplexity", *protocol.evaluation.data):
        raise ExperimentError(f"{where} is of {endpoint.benchmark!r}, which has no data")
    if endpoint.good not in ("low", "high", "none"):
        raise ExperimentError(f"{where}: good is {endpoint.good!r}; expected low, high or none")
    if endpoint.late and endpoint.benchmark == "perplexity":
        raise ExperimentError(
            f"{where} is late and of perplexity, which is taken where a cell is trained; expected "
            "no late"
        )
    if endpoint.primary and (endpoint.late or endpoint.control):
        raise ExperimentError(f"{where} is primary; expected neither late nor a control")
    if unknown := set(endpoint.late) - set(arms):
        raise ExperimentError(f"{where} names the arms {sorted(unknown)}; expected {arms}")


def _trained_as(protocol: Protocol, name: str) -> tuple[Any, Any]:
    arm = protocol.arm(name)
    arm = protocol.arm(arm.of) if arm.of else arm
    return dict(arm.training), arm.texts

"""What the cells of a grid amount to: arms, effects over seeds, tests, margins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .cells import BASE, Cell
from .directions import direction
from .endpoints import few_units_of, headroom, interval_of, why_no_interval
from .grid import Results, cells_of
from .inference import crossed_interval, equivalence, holm, minimal_detectable_effect, sign_flip
from .pairs import cells_by_seed, made_apart, paired
from .protocol import Contrast, Endpoint, Margin, Model, Protocol

__all__ = ["NC_KEYS", "find"]

SCHEMA = "ncfast-experiment-findings/1"
# Rows of the table of collapse: what the paper's tables 1 to 3 show, and the term itself.
NC_KEYS = ("cdnv_mean", "log_distance_mean", "nc1w_mean", "gnc2w_mean", "nc3_mean", "unc3_std")


def find(protocol: Protocol, results: Results, first: Mapping[str, str]) -> dict[str, Any]:
    """Return what the cells done so far amount to, in strict JSON values.

    ``first`` is of :func:`first_run`. Nothing depends on time, folder or order of running.
    """
    return {
        "schema": SCHEMA,
        "title": protocol.title,
        "protocol": protocol.digest,
        "first": first["digest"],
        "commit": first["commit"],
        "models": [_model(protocol, model, results) for model in protocol.models],
    }


def _model(protocol: Protocol, model: Model, results: Results) -> dict[str, Any]:
    cells = list(cells_of(protocol, model))
    done = [c.name for c in cells if c.name in results]
    base = results.get(Cell(model.name, BASE, 0).name)
    gates = {} if base is None else {k: headroom(v) for k, v in base["endpoints"].items()}
    contrasts = [
        _contrast(protocol, model, contrast, endpoint, results)
        for contrast in protocol.contrasts_of(model)
        for endpoint in protocol.endpoints
        if protocol.asks(endpoint.name, (contrast.arm, contrast.against))
    ]
    family = _test_family(contrasts, gates)
    asked = protocol.contrasts_of(model)
    apart = [said for c in asked if (said := made_apart(model, c, protocol, results))]
    return {
        "name": model.name,
        "cells": len(cells),
        "done": len(done),
        "base": None if base is None else _base(base, gates),
        "arms": [_arm(model, arm.name, protocol, results, base) for arm in protocol.arms_of(model)],
        "maps": _maps(protocol, model, results),
        "contrasts": contrasts,
        **({"made_apart": apart} if apart else {}),
        "family": family,
        "margins": [
            _margin(protocol, model, contrast, margin, results)
            for contrast in protocol.contrasts_of(model)
            for margin in protocol.margins
            if protocol.asks(margin.endpoint, (contrast.arm, contrast.against))
        ],
    }


def _maps(protocol: Protocol, model: Model, results: Results) -> dict[str, Any]:
    """Return where words stand in the base and in the primary arms, of the first seed of each."""
    arms = dict.fromkeys(a for c in protocol.contrasts if c.primary for a in (c.against, c.arm))
    cells = {BASE: results.get(Cell(model.name, BASE, 0).name)}
    cells |= {
        a: next(iter(cells_by_seed(model, a, protocol, results).values()), None) for a in arms
    }
    return {name: c["map"] for name, c in cells.items() if c is not None and c.get("map")}


def _base(base: Mapping[str, Any], gates: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "weights": base["weights"],
        "items": base["identity"]["items"],
        "endpoints": {
            name: {
                "value": entry["value"],
                "interval": _interval(entry),
                "unbiased": entry.get("unbiased"),
                "n": entry.get("n"),
                "clusters": entry.get("clusters"),
                **({"note": why} if (why := why_no_interval(entry)) else {}),
                **gates[name],
            }
            for name, entry in base["endpoints"].items()
        },
        "nc": {name: {k: m.get(k) for k in NC_KEYS} for name, m in base["nc"].items()},
        "classes": {name: m.get("classes") for name, m in base["nc"].items()},
    }


def _interval(entry: Mapping[str, Any]) -> list[float] | None:
    found = interval_of(entry) if entry.get("drawn") else None
    return None if found is None else _listed((found.low, found.high))


def _listed(ends: tuple[float | None, float | None] | None) -> list[float] | None:
    return None if ends is None or ends[0] is None or ends[1] is None else [ends[0], ends[1]]


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.asarray([np.nan if v is None else v for v in values], dtype=np.float64)


def _arm(
    model: Model, name: str, protocol: Protocol, results: Results, base: Mapping[str, Any] | None
) -> dict[str, Any]:
    cells = cells_by_seed(model, name, protocol, results)
    endpoints = {}
    for endpoint in protocol.endpoints:
        values = [
            c["endpoints"][endpoint.name]["value"]
            for c in cells.values()
            if c["endpoints"].get(endpoint.name, {}).get("value") is not None
        ]
        endpoints[endpoint.name] = _moments(values)
    nc: dict[str, Any] = {}
    for words in next(iter(cells.values()))["nc"] if cells else ():
        nc[words] = {}
        for key in NC_KEYS:
            values = [c["nc"][words].get(key) for c in cells.values()]
            kept = [v for v in values if v is not None]
            before = None if base is None else base["nc"].get(words, {}).get(key)
            ratio = float(np.mean(kept)) / before if kept and before else None
            nc[words][key] = {**_moments(kept), "ratio": ratio}
    terms = [c["training"].get("terms", {}).get("nc3/value") for c in cells.values()]
    falls = [1 - after / before for before, after in (t for t in terms if t) if before]
    return {
        "name": name,
        "text": protocol.arm(name).text,
        "seeds": sorted(cells),
        "endpoints": endpoints,
        "nc": nc,
        "term_fell_by": float(np.mean(falls)) if falls else None,
        "values": {
            str(s): {k: e.get("value") for k, e in c["endpoints"].items()} for s, c in cells.items()
        },
        "unc3": {str(s): c["nc"][protocol.evaluation.words]["unc3_std"] for s, c in cells.items()},
        "degrees": [c["training"]["degrees"] for c in cells.values() if "degrees" in c["training"]],
    }


def _moments(values: Sequence[float]) -> dict[str, float | int | None]:
    return {
        "n": len(values),
        "mean": float(np.mean(values)) if values else None,
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }


def _contrast(
    protocol: Protocol, model: Model, contrast: Contrast, endpoint: Endpoint, results: Results
) -> dict[str, Any]:
    pairs = paired(model, contrast, endpoint.name, protocol, results)
    differences = {seed: a["value"] - b["value"] for seed, (a, b) in pairs.items()}
    values, found = list(differences.values()), list(pairs.values())
    tested = contrast.primary and endpoint.primary
    better, side = direction(endpoint, found, tested)
    row: dict[str, Any] = {
        "arm": contrast.arm,
        "against": contrast.against,
        "endpoint": endpoint.name,
        "primary": tested,
        "control": endpoint.control,
        "positive": contrast.positive and endpoint.primary,
        "seeds": len(values),
        "complete": len(values) == len(protocol.seeds_of(model, contrast.arm, contrast.against)),
        "by_seed": {str(seed): d for seed, d in differences.items()},
        **{k: v for k, v in _moments(values).items() if k != "n"},
        "against_mean": float(np.mean([b["value"] for _, b in pairs.values()])) if pairs else None,
        "better": better,
        "interval": None,
        "detectable": None,
        "p": None,
        "p_holm": None,
    }
    base = results.get(Cell(model.name, BASE, 0).name, {"endpoints": {}})["endpoints"]
    known = [*(a for a, _ in pairs.values()), base.get(endpoint.name)]
    why = why_no_interval(*known, seeds=len(values))
    if len(values) >= 2:
        row["detectable"] = minimal_detectable_effect(len(values)) * float(row["sd"])
    if values and not why:
        drawn = None  # of a score without items: seeds alone
        if all(x.get("drawn") for pair in pairs.values() for x in pair):
            drawn = np.stack([_floats(a["drawn"]) - _floats(b["drawn"]) for a, b in pairs.values()])
        row["interval"] = _listed(crossed_interval(values, drawn, *few_units_of(*known)))
        why = "" if row["interval"] else "no interval: its resamples are undefined"
    notes = [note for note in (why if values else "", side) if note]
    return row | ({"note": "; ".join(notes)} if notes else {})


def _test_family(
    contrasts: Sequence[dict[str, Any]], gates: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Test the primary contrasts whose endpoints have headroom; adjust by Holm in place.

    A family of which a seed is missing is not tested: what is looked at half-way is looked at
    twice.
    """
    family = {}
    for row in contrasts:
        row["headroom"] = gates.get(row["endpoint"], {}).get("headroom")
        if row["primary"] and row["headroom"]:
            family[f"{row['arm']} - {row['against']}: {row['endpoint']}"] = row
    if family and all(row["complete"] for row in family.values()):
        for row in family.values():
            row["p"] = sign_flip(list(row["by_seed"].values()))
        adjusted = holm({name: row["p"] for name, row in family.items()})
        for name, row in family.items():
            row["p_holm"] = adjusted[name]
    return list(family)


def _margin(
    protocol: Protocol, model: Model, contrast: Contrast, margin: Margin, results: Results
) -> dict[str, Any]:
    """Test that an ability costs less than the margin; of a ratio, on logarithms."""
    pairs = paired(model, contrast, margin.endpoint, protocol, results)
    ratio = margin.scale == "ratio"
    values = {seed: (a["value"], b["value"]) for seed, (a, b) in pairs.items()}
    why = _why_no_ratio(values) if ratio else ""
    differences = [
        float(np.log(a / b)) if ratio else a - b for a, b in ({} if why else values).values()
    ]
    bound = float(np.log1p(margin.margin)) if ratio else margin.margin
    row: dict[str, Any] = {
        "arm": contrast.arm,
        "against": contrast.against,
        "endpoint": margin.endpoint,
        "margin": margin.margin,
        "scale": margin.scale,
        "seeds": len(values),
        "mean": None,
        "p": None,
        "p_worse": None,
    }
    if differences:
        mean = float(np.mean(differences))
        row["mean"] = float(np.expm1(mean)) if ratio else mean
    asked = protocol.seeds_of(model, contrast.arm, contrast.against)
    if 2 <= len(differences) == len(asked):  # else it would be looked at twice
        found = equivalence(differences, bound)
        good = next(e.good for e in protocol.endpoints if e.name == margin.endpoint)
        row["p"] = found.p_value
        row["p_worse"] = found.p_high if good == "low" else found.p_low
    return row | ({"note": why} if why else {})


def _why_no_ratio(values: Mapping[int, tuple[float, float]]) -> str:
    """Return which seed has no ratio: of 0, or below it, where more of a share is less."""
    for seed, (one, two) in values.items():
        if min(one, two) <= 0:
            return (
                f"no ratio: seed {seed} has {one:.3g} against {two:.3g}, and both have to be "
                "above 0"
            )
    return ""

"""What an experiment found, in words: for the claim, against it, and what it cannot say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .inference import LEVEL
from .protocol import Protocol

__all__ = ["noted", "percent", "signed", "spread", "verdict"]


def signed(value: float | None, digits: int = 3) -> str:
    """Write a difference with its sign.

    >>> signed(-0.0714), signed(12.0), signed(None)
    ('-0.0714', '+12', 'undefined')
    """
    return "undefined" if value is None else f"{value:+.{digits}g}"


def spread(value: float | None, interval: list[float] | None = None) -> str:
    """Write a value with its interval.

    >>> spread(0.5, [0.25, 0.75]), spread(0.5), spread(None)
    ('0.5 [0.25, 0.75]', '0.5', 'undefined')
    """
    if value is None:
        return "undefined"
    if interval is None:
        return f"{value:.3g}"
    return f"{value:.3g} [{interval[0]:.3g}, {interval[1]:.3g}]"


def percent(ratio: float | None) -> str:
    """Write a ratio as a change.

    >>> percent(0.8), percent(1.0), percent(None)
    ('-20.0 %', '+0.0 %', 'undefined')
    """
    return "undefined" if ratio is None else f"{100 * (ratio - 1):+.1f} %"


def noted(row: Mapping[str, Any]) -> str:
    """Return what a contrast notes, to go on a list.

    >>> noted({"note": "no interval"}), noted({})
    ('; no interval', '')
    """
    return f"; {row['note']}" if row.get("note") else ""


def verdict(protocol: Protocol, model: Mapping[str, Any]) -> list[str]:
    """Say what was found on one model, in sentences, by :func:`ncfast.experiment.findings.find`.

    What is missing, or not made alike, whether the term did what it is for, each primary test,
    costs.
    """
    said = []
    if model["done"] < model["cells"]:
        said.append(
            f"{model['done']} of {model['cells']} cells have been run; what is missing is said "
            "below, and the same command goes on with it."
        )
    said += model.get("made_apart", [])
    said += _manipulation(protocol, model)
    said += [_test(row) for row in model["contrasts"] if row["primary"]]
    said.append(_claim(model))
    said += _positive(model) + _controls(model)
    primary = {(c.arm, c.against) for c in protocol.contrasts if c.primary}
    said += [
        _cost(row)
        for row in model["margins"]
        if row["seeds"] >= 2 and (not primary or (row["arm"], row["against"]) in primary)
    ]
    return said


def _manipulation(protocol: Protocol, model: Mapping[str, Any]) -> list[str]:
    """Say by how much each primary arm moved the collapse that its term is about."""
    arms, said = {arm["name"]: arm for arm in model["arms"]}, []
    words = protocol.evaluation.words
    for contrast in (c for c in protocol.contrasts if c.primary):
        one, two = (arms[n]["unc3"] for n in (contrast.arm, contrast.against))
        shared = sorted(set(one) & set(two), key=int)
        both = [s for s in shared if None not in (one[s], two[s])]  # of two words or more
        if both:
            a, b = (sum(x[s] for s in both) / len(both) for x in (one, two))
            said.append(
                f"(U)NC3 of {words} words, {contrast.arm} against {contrast.against}: {a:.4f} "
                f"against {b:.4f} ({percent(a / b if b else None)}), lower in "
                f"{sum(one[s] < two[s] for s in both)} of {len(both)} seeds."
            )
    return said


def _test(row: Mapping[str, Any]) -> str:
    name = f"{row['endpoint']}, {row['arm']} less {row['against']}"
    if row["headroom"] is False:
        return f"{name}: no headroom at the base, so it is not tested."
    if row["mean"] is None:
        return f"{name}: not run yet."
    if row["headroom"] is None:
        why = f" ({row['note']})" if row.get("note") else ""
        return f"{name}: the base has no headroom that is known{why}, so it is not tested."
    size = f"{spread(row['mean'], row['interval'])} ({row['seeds']} seeds; at {row['against']} "
    size += f"{row['against_mean']:.3g}{noted(row)})"
    if row["p_holm"] is None:
        return f"{name}: {size}; not tested, because seeds of the family are missing."
    direction = {True: "less biased", False: "more biased", None: "different"}[row["better"]]
    found = (
        f"{direction}, by more than chance shows at .05"
        if row["p_holm"] <= LEVEL
        else "no difference shown"
    )
    return f"{name}: {size}; p {row['p']:.3g}, by Holm {row['p_holm']:.3g}: {found}."


def _claim(model: Mapping[str, Any]) -> str:
    """Say whether the claim holds: fairer than without the term, and than on other words."""
    rows = [r for r in model["contrasts"] if r["primary"] and r["headroom"]]
    if not rows or any(r["p_holm"] is None for r in rows):
        return "The claim is not decided: its tests are not complete."
    won = [r for r in rows if r["p_holm"] <= LEVEL and r["better"]]
    lost = [r for r in rows if r["p_holm"] <= LEVEL and r["better"] is False]
    across = [r for r in rows if r["p_holm"] <= LEVEL and r["better"] is None]
    if len(won) == len(rows):
        return "The claim is supported: every primary test found the model with the term fairer."
    differ = f" Different, on the other side of unbiased: {_names(across)}." if across else ""
    if won and not lost:
        others = (
            "no other test found it fairer" if across else "the other tests found no difference"
        )
        return f"The claim is supported in part: {_names(won)}; {others}.{differ}"
    if lost:
        return f"The claim is contradicted here: more biased in {_names(lost)}.{differ}"
    return (
        "The claim is not supported here: no primary test found the model with the term fairer."
        f"{differ} The intervals say how large an effect may have been missed."
    )


def _names(rows: list[Mapping[str, Any]]) -> str:
    return "; ".join(f"{row['endpoint']} against {row['against']}" for row in rows)


def _positive(model: Mapping[str, Any]) -> list[str]:
    """Say which primary endpoints the positive control moved, and which it did not."""
    said = []
    for row in model["contrasts"]:
        if not row["positive"]:
            continue
        name = f"{row['endpoint']}, {row['arm']} less {row['against']}, the positive control"
        if row["mean"] is None:
            said.append(f"{name}: not run yet.")
            continue
        if row["interval"] is None:
            said.append(f"{name}: {spread(row['mean'])} ({row['seeds']} seeds{noted(row)}).")
            continue
        moved = not row["interval"][0] <= 0 <= row["interval"][1]
        meaning = "even this moved it by no more than chance, so that it tells little of the others"
        if moved:
            meaning = "this score can move under such a training"
            meaning += "" if row["better"] is not False else ", and moved away from unbiased"
        size = spread(row["mean"], row["interval"])
        said.append(f"{name}: {size} ({row['seeds']} seeds): {meaning}.")
    return said


def _controls(model: Mapping[str, Any]) -> list[str]:
    """Say which scores moved that should not have."""
    return [
        f"{row['endpoint']}, which should not move, did, {row['arm']} less {row['against']}: "
        f"{spread(row['mean'], row['interval'])}; what moves it is not bias alone."
        for row in model["contrasts"]
        if row["control"] and row["interval"] and not row["interval"][0] <= 0 <= row["interval"][1]
    ]


def _cost(row: Mapping[str, Any]) -> str:
    ratio = row["scale"] == "ratio"
    if row["mean"] is None:
        name = f"{row['endpoint']}, {row['arm']} against {row['against']}"
        return f"{name} ({row['seeds']} seeds{noted(row)}): not tested."
    cost = f"{100 * row['mean']:+.2f} %" if ratio else signed(row["mean"])
    margin = f"{100 * row['margin']:g} %" if ratio else f"{row['margin']:g}"
    name = f"{row['endpoint']}, {row['arm']} against {row['against']}: {cost}"
    if row["p"] is None:
        return f"{name} ({row['seeds']} seeds): not tested, because seeds are missing."
    within = row["p"] <= LEVEL
    if within:
        said = f"within {margin} either way"
    elif row["p_worse"] <= LEVEL:
        said = f"no more than {margin} worse"
    else:
        said = f"not shown to stay within {margin}"
    return f"{name} ({row['seeds']} seeds; TOST p {row['p']:.2g}): {said}."

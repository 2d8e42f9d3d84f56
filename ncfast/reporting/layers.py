"""The layers of a report: curves on the page, tables in Markdown and on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..catalogue import LEADING
from .blocks import Block, Details, Heading, Paragraph, table
from .curves import Places, curve_figures
from .tables import format_number


def layer_values(layers: Mapping[str, Any]) -> dict[str, dict[str, list[float | None]]]:
    """Return key -> set -> a value per layer or None, of the leading metrics of a report's layers.

    >>> points = [{"layer": 0, "sets": {"vocabulary": {"nc3_mean": 0.5, "tokens": 9}}}]
    >>> layer_values({"points": points})
    {'nc3_mean': {'vocabulary': [0.5]}}
    """
    points = layers["points"]
    names = list(dict.fromkeys(name for point in points for name in point["sets"]))
    values = {
        key: {name: [point["sets"].get(name, {}).get(key) for point in points] for name in names}
        for key in LEADING
    }
    return {
        key: {name: found for name, found in sets.items() if any(v is not None for v in found)}
        for key, sets in values.items()
        if any(v is not None for found in sets.values() for v in found)
    }


def how_layers(layers: Mapping[str, Any]) -> str:
    """Say what the layers are and what their head rows mean.

    >>> how_layers({"count": 2, "head": "none", "final_norm": False})[:38]
    'Layer 0 is what enters the first block'
    """
    text = (
        f"Layer 0 is what enters the first block (the embeddings), layer {layers['count']} the "
        "output of the last. "
    )
    if layers["head"] == "none":
        return f"{text}No head rows were laid beside them: there is no NC3 and no calibrated form."
    text += "Rows of the output head are laid beside every layer, as in a logit lens"
    if layers["final_norm"]:
        text += ", each layer sent through the model's final norm first"
    return text + (
        ". What lies between the last layer and the head (the transform of a masked model) is in "
        "the numbers above, not in these."
    )


def layer_blocks(layers: Mapping[str, Any] | None) -> list[Block]:
    """Make the section of the layers; nothing without layers.

    >>> layer_blocks(None)
    []
    """
    if not layers:
        return []
    numbers = [point["layer"] for point in layers["points"]]
    places = Places("layer", numbers, [str(number) for number in numbers])
    return [
        Heading("Layer by layer", id="layers"),
        Paragraph(how_layers(layers)),
        *curve_figures("layers", layer_values(layers), places),
        *(
            Details(f"Layers of {name}", [table(header, rows, label=f"Layers of {name}")])
            for name, header, rows in layer_tables(layers)
        ),
    ]


def layer_tables(layers: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Lay the leading metrics of every layer side by side: (set, header, rows) per set.

    >>> points = [{"layer": 0, "sets": {"vocabulary": {"nc3_mean": 0.5}}}]
    >>> layer_tables({"points": points})
    [('vocabulary', ['layer', 'NC3'], [['0', '0.5']])]
    """
    values = layer_values(layers)
    names = list(dict.fromkeys(name for sets in values.values() for name in sets))
    tables = []
    for name in names:
        keys = [key for key, sets in values.items() if name in sets]
        rows = [
            [str(point["layer"]), *(format_number(values[key][name][i], 3) for key in keys)]
            for i, point in enumerate(layers["points"])
        ]
        tables.append((name, ["layer", *(LEADING[key].symbol for key in keys)], rows))
    return tables

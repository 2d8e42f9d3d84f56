"""Everything the literature does differently, by name and in one place."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PRESETS", "Preset", "preset"]


@dataclass(frozen=True)
class Preset:
    """Hold the conventions of one source.

    Attributes:
        norms: what the norm keys are taken of: ``"plain"`` |m|, ``"squared"`` |m|^2, or ``"log"``
            log |m|, where m is a centred class mean.
        log_distance_centered: whether log distances are between centred unit means.
        cdnv_power: the exponent on the squared distance in ``cdnv_*``; ``cdnv2_*`` is always that
            of 2.
        labels: the label mode for :func:`ncfast.measure.measure`, or None for the model's own.
        word_policy: the sub-word policy for word sets.
        special_labels: whether special tokens such as [SEP] are classes.
        nc4_bias: whether the head's bias takes part in its decisions for NC4.
        source: where the conventions come from.
    """

    norms: str
    log_distance_centered: bool
    cdnv_power: int
    labels: str | None
    word_policy: str
    special_labels: bool
    nc4_bias: bool
    source: str


PRESETS = {
    "ncfast": Preset(
        "plain",
        True,
        1,
        None,
        "single",
        special_labels=False,
        nc4_bias=True,
        source="the definitions as they stand",
    ),
    "linguistic-collapse": Preset(
        "log",
        True,
        2,
        "next",
        "single",
        special_labels=False,
        nc4_bias=False,
        source="Linguistic Collapse, arXiv 2405.17767",
    ),
    # Squared norms, uncentred kernel, first sub-words and next-token labels even for masked models:
    # what the released code of the paper computes, its choices included.
    "official": Preset(
        "squared",
        False,
        2,
        "next",
        "first",
        special_labels=True,
        nc4_bias=False,
        source="code of Collapsed Language Models, arXiv 2410.04472",
    ),
}


def preset(name: str) -> Preset:
    """Return a preset by name.

    >>> preset("official").norms
    'squared'
    """
    if name not in PRESETS:
        raise ValueError(f"preset is {name!r}; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]

"""Every setting of a measurement, checked before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from ..language import LanguageError, WordSet
from ..language.labels import LabelMode
from ..language.layers import parse_layers
from ..metrics import CENTERS
from ..metrics.sampling import DRAWN_LEAST
from ..presets import Preset
from ..presets import preset as find_preset
from ..running.options import require_whole
from .layers import HEADS
from .sets import checked_sets

MOST_DRAWS = 1_000_000


# Settings that count something, and the least that they may be.
LEAST = dict.fromkeys(
    (
        "batch_size",
        "block_size",
        "mask_passes",
        "max_tokens",
        "nc4_max_tokens",
        "tensor_parallel",
    ),
    1,
) | dict.fromkeys(("pairs", "bootstrap", "seed"))


@dataclass(frozen=True)
class MeasureSettings:
    """Hold every setting of :func:`measure` besides model, text and folder.

    Args:
        words: named word sets or files, measured beside the whole vocabulary.
        controls: control sets for each word set, ``random:COUNT`` and ``matched``.
        max_tokens: stop after this many tokens of text.
        batch_size: blocks in a batch.
        block_size: tokens in a block; default 128, or fewer where the model takes fewer.
        labels: the class of a position; default by kind of model (and by preset "official").
        mask_passes: how often the text is read under ``labels="masked"``, each time with other
            random masks.
        mask_rate: share of ordinary tokens masked at random.
        policy: what to do with words of several pieces; default "single" (preset "official":
            "first").
        center: what class means are centred on.
        preset: the definitions to follow.
        pairs: how many pairs of classes to draw in sets that have more, each value with its
            standard error; None visits every pair.
        bootstrap: draws of the classes behind the intervals of word sets and matched controls;
            0 makes none.
        nc4: held-out texts; a second pass over them measures how often the head and the nearest
            class mean choose the same word.
        nc4_max_tokens: stop the second pass after this many tokens.
        text_column: column that holds the text, in texts with several; None takes ``text``, or the
            only one of text.
        reference: a CSV of published measurements to lay beside the vocabulary's.
        layers: layers to measure in the same pass, ``"all"`` or their numbers, 0 the embeddings;
            None measures what enters the head alone.
        layers_head: ``"lens"`` lays the head's rows beside every layer, each sent through the
            model's final norm where it has one; ``"none"`` takes the layers as they are.
        save_every_seconds: how often to save.
        progress: show bars on stderr.
        device: where to run; ignored for a loaded model.
        device_map: lay the model on this process's devices as transformers does under this name,
            ``"auto"`` for example; ignored for a loaded model.
        tensor_parallel: processes that hold a part of every layer each, all that were launched;
            they read the same text. Of a loaded model it says that it lies so.
        dtype: of the model's weights; ignored for a loaded model.
        seed: of masks and controls.

    Raises:
        ValueError: one of them makes no sense.

    >>> MeasureSettings(words=["gender"], pairs=5_000).center
    'classes'
    """

    words: Sequence[str | WordSet] = ("gender",)
    controls: str = "random:5,matched"
    max_tokens: int | None = None
    batch_size: int = 32
    block_size: int | None = None
    labels: LabelMode | None = None
    mask_passes: int = 1
    mask_rate: float = 0.15
    policy: Literal["single", "first", "last"] | None = None
    center: Literal["classes", "tokens", "all", "none"] = "classes"
    preset: str = "ncfast"
    pairs: int | None = None
    bootstrap: int = 200
    nc4: str | Sequence[str] = ()
    nc4_max_tokens: int | None = None
    text_column: str | None = None
    reference: str | os.PathLike[str] | None = None
    layers: str | Sequence[int] | None = None
    layers_head: Literal["lens", "none"] = "lens"
    save_every_seconds: float = 60.0
    progress: bool = True
    device: str = "cpu"
    device_map: str | None = None
    tensor_parallel: int = 1
    dtype: torch.dtype = torch.float32
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject what makes no sense."""
        find_preset(self.preset)
        require_whole(self, LEAST, LanguageError)
        for name, known in (("labels", (*get_args(LabelMode), None)), ("layers_head", HEADS)):
            if (value := getattr(self, name)) not in known:
                listed = ", ".join(map(repr, known))
                raise LanguageError(f"{name}={value!r}; expected one of {listed}")
        if not 0.0 <= self.mask_rate <= 1.0:
            raise LanguageError(f"mask_rate={self.mask_rate}; expected a share between 0 and 1")
        if isinstance(self.layers, str):
            parse_layers(self.layers)
        checked_sets(self.words, self.controls, self.pieces)
        if not self.save_every_seconds >= 0:
            raise LanguageError(f"save_every_seconds={self.save_every_seconds}; expected 0 or more")
        if self.center not in CENTERS:
            raise LanguageError(f"center is {self.center!r}; expected one of {', '.join(CENTERS)}")
        if self.pairs is not None and self.pairs < DRAWN_LEAST:
            raise LanguageError(
                f"pairs={self.pairs}; expected at least {DRAWN_LEAST}, or None for every pair"
            )
        if self.bootstrap > MOST_DRAWS:
            raise LanguageError(
                f"bootstrap={self.bootstrap}; expected at most {MOST_DRAWS:,} draws"
            )
        if self.bootstrap < 0 or self.bootstrap == 1:
            raise LanguageError(
                f"bootstrap={self.bootstrap}; expected at least 2 draws, or 0 for none"
            )
        if self.nc4_max_tokens is not None and not self.nc4:
            raise LanguageError("nc4_max_tokens without nc4; expected a held-out text")

    @property
    def conventions(self) -> Preset:
        """The definitions that ``preset`` names."""
        return find_preset(self.preset)

    @property
    def pieces(self) -> str:
        """What becomes of words of several pieces."""
        return self.policy or self.conventions.word_policy

    @property
    def definitions(self) -> dict[str, Any]:
        """What decides the meaning of the keys, so that two reports can be compared."""
        chosen = ("norms", "log_distance_centered", "cdnv_power", "nc4_bias")
        named = {key: getattr(self.conventions, key) for key in chosen}
        return {"center": self.center, "definitions": named}

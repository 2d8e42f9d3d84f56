"""Neural collapse of every layer's features, out of the same pass as the head's.

One state holds all layers: the class of token y in the layer at place l is ``l K + slot(y)``, where
the K slots are the classes that occur in the text. It is saved under the position of the pass, in
a file of its own, before the state of the pass that names that position; so a kill at any moment
leaves a pair that belongs together.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import DataError
from ..language import Corpus, LanguageError, LanguageModel
from ..language.layers import LayerFeatures
from ..metrics import neural_collapse
from ..ranks import Ranks
from ..statistics import ClassStatistics
from .sets import PlannedSet

HEADS = ("lens", "none")
SHOWN_KINDS = ("words", "matched")


class LayerRun:
    """Take the features of chosen layers through a pass, and measure them.

    Args:
        model: the model.
        corpus: gives the classes that occur.
        layers: numbers of layers, or ``"all"``.
        head: ``"lens"`` lays the head's rows beside every layer, sent through the model's final
            norm where it has one; ``"none"`` takes the layers as they are, without a head.
        batch_size: blocks in a batch, for the memory it states.

    Attributes:
        identity: what decides the numbers, a digest that goes into the file and is compared.

    Raises:
        LanguageError: ``head`` is not known, or the model has no such layers.
    """

    def __init__(
        self,
        model: LanguageModel,
        corpus: Corpus,
        layers: str | Sequence[int],
        head: str,
        batch_size: int,
    ) -> None:
        if head not in HEADS:
            raise LanguageError(f"layers_head={head!r}; expected one of {', '.join(HEADS)}")
        self.model, self.head = model, head
        self.features = LayerFeatures(model, layers, lens=head == "lens")
        occurs = corpus.token_counts(model.vocab_size) > 0
        special = [i for i in model.special_ids if i < model.vocab_size]
        occurs[special] = True  # classes under preset="official"
        self.ids = occurs.nonzero()[:, 0].to(model.device)
        self.slots = torch.full((model.vocab_size,), -1, device=model.device)
        self.slots[self.ids] = torch.arange(len(self.ids), device=model.device)
        self.tokens_at_once = batch_size * corpus.block_size
        self.identity = ""
        self.stats = ClassStatistics(
            num_classes=len(self.ids) * len(self.features.numbers),
            dim=self.features.width,
            scatter=False,
            dtype=self._dtype,
            device=model.device,
        )

    @property
    def _dtype(self) -> torch.dtype:
        wide = self.model.head_weight.dtype == torch.float64
        return torch.float64 if wide else torch.float32

    @property
    def with_head(self) -> bool:
        """Return whether head rows fit the layers and are laid beside them."""
        return self.head == "lens" and self.features.width == self.model.hidden_size

    @property
    def settings(self) -> dict[str, Any]:
        """Return what the report states as settings, and a resumed run compares."""
        return {"layers": self.features.numbers, "layers_head": self.head}

    def memory(self) -> str:
        """Say in a sentence what the layers cost beside an ordinary measurement."""
        state = sum(t.numel() * t.element_size() for t in self.stats._tensors().values())
        size = self.model.head_weight.element_size()
        states = (self.features.count + 1) * self.tokens_at_once * self.features.width * size
        return (
            f"{len(self.features.numbers)} layers of {len(self.ids):,} classes: "
            f"{state / 1e6:,.0f} MB of statistics, as much again on the disk for each save, and "
            f"{states / 1e6:,.0f} MB for the hidden states of a batch"
        )

    def step(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, float]:
        """Put one batch through the model and into the layers' statistics.

        Ids, mask and labels (-100 without a class) are [B, T]. Returns the model's features [B, T,
        D], and the seconds of the layers' statistics. A layer whose features are not finite is
        named in a DataError.
        """
        features, layers = self.features(input_ids, attention_mask)
        start = time.perf_counter()
        flat = labels.reshape(-1)
        slots = torch.where(flat >= 0, self.slots[flat.clamp(min=0)], flat)
        for place, (number, state) in enumerate(zip(self.features.numbers, layers, strict=True)):
            moved = torch.where(slots >= 0, slots + place * len(self.ids), slots)
            try:
                self.stats.update(state.reshape(-1, self.features.width), moved)
            except ValueError as error:
                raise DataError(f"layer {number}: {error}") from error
        return features, time.perf_counter() - start

    def save(self, folder: Path, position: int) -> None:
        """Save the state under the position of the pass; earlier ones stay until :meth:`tidy`."""
        self.stats.save(_path(folder, position), {"layers": self.identity})

    def load(self, folder: Path, position: int) -> None:
        """Load the state of a position of the pass; DataError if it is damaged, missing or of
        another.
        """
        path = _path(folder, position)
        if not path.exists():
            raise DataError(
                f"{path}: missing, while the pass stands at batch {position}; start anew with "
                "--force, or in another folder"
            )
        stats = ClassStatistics.load(path, self.model.device)
        if (
            stats.metadata.get("layers") != self.identity
            or stats.num_classes != self.stats.num_classes
        ):
            raise DataError(
                f"{path}: the layers of another measurement; choose another folder, or the same "
                "settings"
            )
        self.stats = stats

    def tidy(self, folder: Path, position: int) -> None:
        """Remove the states of other positions, once the pass is saved at this one."""
        for path in folder.glob("layers-*.safetensors"):
            if path != _path(folder, position):
                path.unlink(missing_ok=True)

    def describe(
        self,
        sets: Mapping[str, PlannedSet],
        center: str,
        preset: str,
        pairs: int | None,
        seed: int,
        ranks: Ranks | None = None,
    ) -> dict[str, Any]:
        """Return the ``layers`` part of a report: vocabulary, word sets and their matched controls.

        ``pairs`` of classes are drawn by ``seed``; None visits all. ``ranks`` share the layers and
        have the same statistics.
        """
        ranks = (ranks or Ranks()).patient()
        weight = self.model.head_weight.detach() if self.with_head else None
        whole = ClassStatistics(
            self.model.vocab_size,
            self.features.width,
            scatter=False,
            dtype=self._dtype,
            device=self.model.device,
        )
        whole.feature_roundoff = self.stats.feature_roundoff
        shown = {name: s.ids for name, s in sets.items() if s.kind in SHOWN_KINDS}
        own: dict[int, dict[str, Any]] = {}
        with ranks.sharing_errors():
            for place in range(ranks.rank, len(self.features.numbers), ranks.size):
                rows = slice(place * len(self.ids), (place + 1) * len(self.ids))
                whole.counts[self.ids] = self.stats.counts[rows]
                whole.means[self.ids] = self.stats.means[rows]
                whole.m2[self.ids] = self.stats.m2[rows]
                own[place] = {
                    name: _known(
                        neural_collapse(
                            whole, weight, ids, center, preset, pairs=pairs, seed=seed
                        ).to_dict()
                    )
                    for name, ids in {"vocabulary": None, **shown}.items()
                }
        found = {place: sets for part in ranks.gather(own) for place, sets in part.items()}
        points = [
            {"layer": number, "sets": found[place]}
            for place, number in enumerate(self.features.numbers)
        ]
        return {
            "count": self.features.count,
            "width": self.features.width,
            "head": self.head if self.with_head else "none",
            "final_norm": self.features.norm is not None and self.features.lens,
            "points": points,
        }


def remove_states(folder: Path) -> None:
    """Remove the states of layers that an earlier measurement left in a folder, if any.

    >>> remove_states(Path("no-such-folder"))
    """
    for path in folder.glob("layers-*.safetensors"):
        path.unlink(missing_ok=True)


def _path(folder: Path, position: int) -> Path:
    return folder / f"layers-{position}.safetensors"


def _known(values: Mapping[str, float]) -> dict[str, float]:
    """Leave out what needs a scatter, which layers do not keep, and whatever is undefined."""
    return {key: value for key, value in values.items() if value == value}

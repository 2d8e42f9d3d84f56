"""From token batches to labels: which positions count, and for which class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from .corpus import Batch
from .errors import LanguageError
from .models import Kind, LanguageModel

IGNORE = -100
LabelMode = Literal["next", "self", "masked"]
DEFAULT_MODES: dict[Kind, LabelMode] = {"causal": "next", "masked": "masked", "encoder": "self"}


@dataclass(frozen=True)
class LabelledBatch:
    """Hold what a forward pass needs and what its positions mean."""

    input_ids: torch.Tensor  # [B, T] int64, with mask tokens put in when the mode masks
    attention_mask: torch.Tensor  # [B, T] int64
    labels: torch.Tensor  # [B, T] int64, the class of each position or -100
    kept: int  # number of labelled positions
    # positions without a label, by reason; ``kept`` plus their sum is B times T
    dropped: dict[str, int]


class Labeller:
    """Label batches in one of three modes.

    - ``"next"``: the class of a position is the next token (the causal problem; what the official
      fairness code does on any model).
    - ``"self"``: the class is the token at the position, which the model sees.
    - ``"masked"``: some tokens are replaced by the mask token, always by it, and only they are
      labelled, with what stood there: every occurrence of ``always_mask``, and a share of the
      rest at random. The draw depends on seed, mask pass, block and position alone, so batch
      size, order and resuming change nothing.

    Padding, special tokens and out-of-vocabulary ids never become a label.

    Attributes:
        mode: the label mode.
        settings: everything the labels depend on besides the text, for a resume to compare.
    """

    def __init__(
        self,
        model: LanguageModel,
        mode: LabelMode | None = None,
        always_mask: Iterable[int] = (),
        mask_rate: float = 0.15,
        seed: int = 0,
        special_labels: bool = False,
    ) -> None:
        """Choose how to label.

        Args:
            model: gives mask token, special tokens and vocabulary.
            mode: ``"next"``, ``"self"`` or ``"masked"``; None takes the kind's default (causal:
                next, masked: masked, encoder: self).
            always_mask: class ids that are masked wherever they occur: the named word sets and
                their controls.
            mask_rate: share of the other tokens that is masked at random.
            seed: of the random mask.
            special_labels: let special tokens be classes in the modes ``next`` and ``self``, as
                the official fairness code does; unknown words too.

        Raises:
            LanguageError: an unknown mode, one that contradicts which tokens the model was found
                to see, a rate outside 0..1, a negative seed, or no mask token to mask with.
        """
        self.mode: LabelMode = mode if mode is not None else DEFAULT_MODES[model.kind]
        if self.mode not in ("next", "self", "masked"):
            raise LanguageError(f"labels={mode!r}; expected 'next', 'self' or 'masked'")
        if self.mode == "masked" and model.mask_id is None:
            raise LanguageError(
                f"labels='masked' with {model.name}, whose tokenizer has no mask token; "
                "expected labels='next' or 'self'"
            )
        if not special_labels:  # the official code shifts labels whatever the model sees
            _check_behaviour(self.mode, model)
        if not 0.0 <= mask_rate <= 1.0:
            raise LanguageError(f"mask_rate={mask_rate}; expected a share between 0 and 1")
        if seed < 0:
            raise LanguageError(f"seed={seed}; expected 0 or more")
        self._mask_id = model.mask_id
        self._mask_rate = float(mask_rate)
        self._seed = int(seed)
        self._special_labels = bool(special_labels) and self.mode != "masked"
        self._vocabulary_end = model.out_of_vocabulary_from
        unknown = model.unknown_id
        self._unknown_id = -1 if unknown is None else unknown
        self._special = torch.tensor(sorted(model.special_ids - {unknown}), dtype=torch.int64)
        self._always = torch.tensor(sorted({int(i) for i in always_mask}), dtype=torch.int64)
        self.settings = {
            "labels": self.mode,
            "always_mask": self._always.tolist() if self.mode == "masked" else [],
            "mask_rate": self._mask_rate if self.mode == "masked" else 0.0,
            "seed": self._seed,
            "special_labels": self._special_labels,
        }

    def __call__(self, batch: Batch, mask_pass: int = 0) -> LabelledBatch:
        """Label one batch.

        Args:
            batch: from :meth:`Corpus.batches`, on the CPU.
            mask_pass: number of the pass over the text; each has other random masks.

        Returns:
            Inputs, labels and counts, on the CPU.
        """
        input_ids, attended = batch.input_ids, batch.attention_mask.bool()
        reasons: list[tuple[str, torch.Tensor]] = []
        if self.mode == "next":
            labels = torch.full_like(input_ids, IGNORE)
            labels[:, :-1] = input_ids[:, 1:]
            exists = torch.zeros_like(attended)
            exists[:, :-1] = attended[:, 1:]
            reasons.append(("padding", ~attended))
            # The last token of a block has no next one inside it.
            reasons.append(("last position", ~exists))
        else:
            labels = input_ids.clone()
            reasons.append(("padding", ~attended))
        if not self._special_labels:
            reasons.append(("special", torch.isin(labels, self._special)))
        reasons.append(("out of vocabulary", self._outside(labels)))
        if self.mode == "masked":
            reasons.append(("unmasked", ~self._draw(batch, mask_pass)))
        dropped, keep = _count(reasons, attended)
        labels = labels.masked_fill(~keep, IGNORE)
        if self.mode == "masked":
            assert self._mask_id is not None
            input_ids = input_ids.masked_fill(keep, self._mask_id)
        return LabelledBatch(input_ids, batch.attention_mask, labels, int(keep.sum()), dropped)

    def _outside(self, labels: torch.Tensor) -> torch.Tensor:
        outside = labels >= self._vocabulary_end
        return outside if self._special_labels else outside | (labels == self._unknown_id)

    def _draw(self, batch: Batch, mask_pass: int) -> torch.Tensor:
        """Return where to mask [B, T], special tokens and padding not yet excluded."""
        length = batch.input_ids.shape[1]
        # Raw 64-bit words of a counter-based generator: numpy keeps their stream stable.
        threshold = int(self._mask_rate * 2.0**53)
        rows = [
            np.random.Philox(key=self._seed, counter=[0, 0, mask_pass, int(block)])
            .random_raw(length)
            .astype(np.uint64)
            >> np.uint64(11)
            for block in batch.blocks
        ]
        drawn = torch.from_numpy(np.stack(rows) < np.uint64(threshold))
        return drawn | torch.isin(batch.input_ids, self._always)


def _check_behaviour(mode: str, model: LanguageModel) -> None:
    """Reject labels that a model sees already, or that it cannot know."""
    if model.sees_later is None:
        return
    if mode == "next" and model.sees_later:
        raise LanguageError(
            f"labels='next' with {model.name}, which sees the tokens after a position (probed): it "
            "would be shown what it has to predict; expected labels='masked' or 'self'"
        )
    if mode == "masked" and not model.sees_later:
        raise LanguageError(
            f"labels='masked' with {model.name}, which does not see the tokens after a position "
            "(probed): it cannot fill in a mask; expected labels='next'"
        )
    if mode == "self" and model.kind == "causal":
        raise LanguageError(
            f"labels='self' with {model.name}, a causal language model: its features predict the "
            "next token, and its head rows are of that; expected labels='next'"
        )


def _count(
    reasons: list[tuple[str, torch.Tensor]], attended: torch.Tensor
) -> tuple[dict[str, int], torch.Tensor]:
    """Give each position its first reason, so that the counts add up."""
    keep = torch.ones_like(attended)
    dropped = {}
    for name, mask in reasons:
        dropped[name] = int((mask & keep).sum())
        keep = keep & ~mask
    return dropped, keep

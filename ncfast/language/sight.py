"""Which other tokens a model's features depend on, by trial, and what kind that makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .errors import LanguageError
from .inspection import Wrapped
from .loading import Kind
from .modes import eval_mode
from .perturbation import spread_rows

# Of the features' size: what rounding may move when a batch is computed in another order.
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 4e-3}
_ZEROS = "its attention may give zeros where a GPU kernel is absent, as MRA's does"


@dataclass(frozen=True)
class Sight:
    """Say which other tokens the features of a position depend on."""

    earlier: bool
    later: bool


@torch.no_grad()
def sight_of(features: Callable[[torch.Tensor], torch.Tensor], ids: torch.Tensor) -> Sight:
    """Tell by trial whether features of a position depend on tokens before and after it.

    That is, beyond rounding, in a model in eval mode: whether changing the first of ``ids``
    (ordinary tokens [n], n of at least 4) moves any feature after it, and changing the last any
    before it.
    """
    row = ids[:-2]
    rows = row.repeat(6, 1)
    rows[2, -1], rows[3, -1] = ids[-2], ids[-1]
    rows[4, 0], rows[5, 0] = ids[-2], ids[-1]
    found = features(rows)
    moved = (found.double() - found[:1].double()).abs().amax(2)
    size = float(found.double().abs().max())
    # Two equal rows say what moves without any reason.
    floor = max(4 * float(moved[1].max()), _ROUNDING.get(found.dtype, 1.6e-2) * size)
    return Sight(bool(moved[4:, 1:].max() > floor), bool(moved[2:4, :-1].max() > floor))


def kind_by_behaviour(kind: Kind, sees: Sight, name: str) -> tuple[Kind, str]:
    """Settle what kind a model is, by what it does before what its class is called.

    Returns the kind and a note for reports, empty where both agree. LanguageError: a masked model
    that does not see the tokens after a position, or an encoder that sees no token but a position's
    own.
    """
    if kind == "causal" and sees.later:
        return "masked", (
            f"{name} sees the tokens after a position (probed: earlier features move when the last "
            "token changes), so it is treated as a masked language model, whatever its name"
        )
    if kind == "masked" and not sees.later:
        raise LanguageError(
            f"{name} is a masked language model by its class, but its features do not see the "
            f"tokens after a position (probed: is_decoder may be set, or {_ZEROS}); expected one "
            "that sees both sides, or the causal class of its family"
        )
    if kind == "encoder" and not sees.later:
        if not sees.earlier:
            raise LanguageError(
                f"the features of {name} depend on no token but a position's own (probed; "
                f"{_ZEROS}); expected an encoder that reads its context"
            )
        return kind, f"{name} does not see the tokens after a position (probed): it is causal"
    if kind == "causal" and not sees.earlier:
        return kind, (
            f"the features of {name} depend on no token but a position's own (probed): it is a "
            "table of which token follows which"
        )
    return kind, ""


def probe_sight(model: Wrapped) -> Sight | None:
    """Try which tokens a model's features depend on; its mode and random state stay.

    None where there are too few ordinary tokens to try with.
    """
    rows = min(model.input_rows, model.tokenizer_rows)
    # Ordinary tokens: a padding or end token may end what the model looks at.
    ordinary = [index for index in range(rows) if index not in model.special_ids]
    if len(ordinary) < 4:
        return None
    places = spread_rows(len(ordinary), 12).tolist()
    ids = torch.tensor([ordinary[place] for place in places], device=model.device)
    devices = [model.device] if model.device.type == "cuda" else []
    with eval_mode(model.model), torch.random.fork_rng(devices):
        if (width := model.features(ids[None]).shape[-1]) != model.hidden_size:
            raise LanguageError(
                f"{model.name}: features have width {width} but the rows of the head have "
                f"width {model.hidden_size}, so they cannot be compared; expected equal widths"
            )
        return sight_of(model.features, ids)

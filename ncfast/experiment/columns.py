"""Which texts a protocol reads, each with which column, and whether those here can be read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ..fairness.recipes import RECIPES, RecipeError
from ..language import LanguageError
from ..language.sources import Sources
from .cells import BASE
from .errors import ExperimentError
from .local_files import is_here
from .parts import Arm, Model, Protocol

__all__ = ["Reading", "check_columns", "readings", "require_readable", "unreadable"]


@dataclass(frozen=True)
class Reading:
    """Name texts that are read together, with one column."""

    texts: tuple[str, ...]
    column: str | None = None
    use: str = ""  # what they are read for, where that is no training on running text
    recipe: Arm | None = None  # whose recipe reads them in a way of its own


def readings(protocol: Protocol, arms: Collection[str] | None = None) -> list[Reading]:
    """Return every way a protocol reads texts once, or what these arms and all of them read."""
    found = [Reading(protocol.texts, protocol.text_column)]
    others: list[Reading] = []
    for model in protocol.models:
        for arm in (Arm(BASE), *protocol.arms_of(model)):
            if arm.of or (arms is not None and arm.name not in arms):
                continue
            training = protocol.training_of(model, arm)
            column = training.get("text_column")
            if arm.texts:
                found.append(Reading(arm.texts, column))
            if kept := tuple(training.get("validation", ())):
                others.append(Reading(kept, column, "for perplexity alone"))
            for option in RECIPES[arm.recipe].trains_on if arm.recipe in RECIPES else ():
                if isinstance(file := arm.options.get(option), str):
                    others.append(Reading((file,), None, f"{option} of {arm.recipe}", arm))
    found += others
    return [one for place, one in enumerate(found) if one not in found[:place]]


def unreadable(reading: Reading) -> dict[str, str]:
    """Return what keeps texts that are here from being read, by their names.

    The first document of each is read, as training, controls and collapse read it.
    """
    found: dict[str, str] = {}
    here = [text for text in reading.texts if is_here(text)]
    for text in here:
        try:
            if reading.recipe is not None:
                options = reading.recipe.options
                RECIPES[reading.recipe.recipe].with_options(options).sentences()
                continue
            # Beside a text with columns, one without is read as it is.
            column = reading.column if Sources([text], progress=False).have_columns() else None
            next(Sources([text], text_column=column, progress=False).read())
        except (LanguageError, RecipeError) as error:
            found[text] = str(error)
    if not found and len(here) == len(reading.texts) and reading.recipe is None:
        try:
            next(Sources(here, text_column=reading.column, progress=False).read())
        except LanguageError as error:  # a column, and no text that has any
            found = dict.fromkeys(here, str(error))
    return found


def require_readable(protocol: Protocol, arms: Collection[str]) -> None:
    """Reject texts here that the first arm to read them would stumble over, hours later."""
    for reading in readings(protocol, arms):
        for text, error in unreadable(reading).items():
            column = "" if reading.column is None else f", column {reading.column!r},"
            raise ExperimentError(
                f"{protocol.path.name}: the text {text}{column} cannot be read: {error}"
            )


def check_columns(protocol: Protocol, model: Model, arm: Arm) -> None:
    """Reject a column that is of no text, or of which it is not plain whose it is."""
    name = protocol.path.name
    if "text_column" in model.training:
        raise ExperimentError(
            f"{name}: training of the model {model.name!r} has text_column, and a model has no "
            "texts; expected it in [training], or beside the texts of an arm"
        )
    if arm.training.get("text_column") is not None and not arm.texts:
        raise ExperimentError(
            f"{name}: the arm {arm.name!r} has text_column = {arm.training['text_column']!r} and "
            "no texts of its own, and control words and collapse are of the protocol's texts and "
            "column; expected texts beside it, or no text_column"
        )
    if not arm.texts or "validation" in arm.training:
        return
    own = protocol.training_of(model, arm)
    if own.get("validation") and own.get("text_column") != protocol.text_column:
        raise ExperimentError(
            f"{name}: the arm {arm.name!r} reads its own texts with the column "
            f"{own.get('text_column')!r}, and would read the validation of all arms with it, "
            f"whose column is {protocol.text_column!r}; expected validation in its own training"
        )

"""What makes a protocol wrong, found before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..fairness.recipes import RECIPES, find_recipe
from ..finetune import FinetuneSettings, TermSettings
from ..running.options import MAX_THREADS
from .cells import BASE
from .columns import check_columns
from .contrasts import check_contrast, check_endpoint, check_margin
from .errors import ExperimentError
from .fields import check_fields
from .inference import EXACT
from .parts import Arm, Model, Protocol, made_of

__all__ = ["check_protocol", "only"]

# What an arm may set of its own: the rest of the training is the same in all of them.
TERMS = tuple(f.name for f in fields(TermSettings))
TRAINING = tuple(
    f.name
    for f in fields(FinetuneSettings)
    if f.name
    not in ("terms", "seed", "device", "progress", "measure_tokens", "recipe", "recipe_options")
)
VOCABULARY = "vocabulary"  # what collapse of all words goes by, beside that of each set


def only(path: Path, where: str, given: Mapping[str, Any], known: Sequence[str] | set[str]) -> None:
    if unknown := sorted(set(given) - set(known)):
        raise ExperimentError(
            f"{path.name}: {where} has {', '.join(unknown)}; expected only "
            f"{', '.join(sorted(known))}"
        )


def check_protocol(protocol: Protocol) -> None:
    """Reject what could only fail, or mislead, hours later."""
    name = protocol.path.name
    _check_names(protocol)
    if not protocol.texts or len(set(protocol.seeds)) < max(2, len(protocol.seeds)):
        raise ExperimentError(f"{name}: expected texts, and at least 2 different seeds")
    if not 0 <= protocol.threads <= MAX_THREADS:
        raise ExperimentError(f"{name}: threads is {protocol.threads}; expected 1 to {MAX_THREADS}")
    only(protocol.path, "training", protocol.training, TRAINING)
    check_fields(name, "training", FinetuneSettings, protocol.training)
    _check_controls(protocol)
    _check_evaluation(protocol)
    arms = [arm.name for arm in protocol.arms]
    for arm in protocol.arms:
        _check_arm(protocol, arm, arms)
    for model in protocol.models:
        _check_model(protocol, model, arms)
    for contrast in protocol.contrasts:
        check_contrast(protocol, contrast, arms)
    for margin in protocol.margins:
        check_margin(protocol, margin)
    for endpoint in protocol.endpoints:
        check_endpoint(protocol, endpoint, arms)


def _check_names(protocol: Protocol) -> None:
    """Reject arms, endpoints and models that have no name, one twice, or one no folder can have."""
    name = protocol.path.name
    for what, names in (
        ("arms", [arm.name for arm in protocol.arms]),
        ("endpoints", [endpoint.name for endpoint in protocol.endpoints]),
        ("models", [model.name for model in protocol.models]),
    ):
        if not names or len(set(names)) < len(names):
            raise ExperimentError(f"{name}: {what} are {names}; expected some, of different names")
        if bad := [n for n in names if not n or set("/\\ ") & set(n) or n.startswith(".")]:
            raise ExperimentError(
                f"{name}: {what} has the name {bad[0]!r}; expected no slash, space"
            )
    if BASE in (arm.name for arm in protocol.arms):  # its cells would be the checkpoint, untrained
        raise ExperimentError(
            f"{name}: an arm is called {BASE!r}, as the checkpoint without training is; expected "
            "another name"
        )


def _check_controls(protocol: Protocol) -> None:
    """Reject control sets of an unknown kind, or called as words that they would replace."""
    name = protocol.path.name
    for control, kind in protocol.controls.items():
        if kind not in ("random", "matched"):
            raise ExperimentError(
                f"{name}: controls has {control} = {kind!r}; expected 'random' or 'matched'"
            )
        if control in (protocol.evaluation.words, VOCABULARY):
            raise ExperimentError(
                f"{name}: controls has {control}, the name of what the control is compared with; "
                "expected another name"
            )


def _check_evaluation(protocol: Protocol) -> None:
    """Reject sizes of which a cell, trained for hours, could not be evaluated."""
    name, asked = protocol.path.name, protocol.evaluation
    for field, least in (("resamples", 2), ("nc_tokens", 1)):
        if getattr(asked, field) < least:
            raise ExperimentError(
                f"{name}: evaluation has {field} = {getattr(asked, field)}; expected at least "
                f"{least}"
            )


def _check_arm(protocol: Protocol, arm: Arm, arms: Sequence[str]) -> None:
    """Reject terms and training of an arm that are no settings, and arms it does not have."""
    name = protocol.path.name
    for what, values, settings, known in (
        ("terms", arm.terms, TermSettings, TERMS),
        ("training", arm.training, FinetuneSettings, TRAINING),
    ):
        where = f"{what} of the arm {arm.name!r}"
        only(protocol.path, where, values, known)
        # A control set goes by its name alone: words = "matched".
        words = values.get("words") if what == "terms" else None
        single = {"words": [words]} if isinstance(words, str) else {}
        check_fields(name, where, settings, {**values, **single})
    if arm.of and (arm.of not in arms or protocol.arm(arm.of).of or arm.terms):
        raise ExperimentError(
            f"{name}: the arm {arm.name!r} is of {arm.of!r}; expected a trained arm, no terms"
        )
    like = arm.options.get("like")
    if arm.of and like is not None and (like not in arms or protocol.arm(like).of):
        raise ExperimentError(
            f"{name}: the arm {arm.name!r} is like {like!r}; expected a trained arm"
        )


def _check_kept_back(protocol: Protocol, model: Model, arm: Arm) -> None:
    """Reject perplexity of a file that the arm's recipe trains on beside its text."""
    recipe, training = RECIPES.get(arm.recipe), protocol.training_of(model, arm)
    if arm.of or recipe is None:
        return
    kept: Sequence[str] = training.get("validation", ())
    if not kept and training.get("held_out", FinetuneSettings().held_out):
        kept = arm.texts or protocol.texts
    places = {Path(text).resolve() for text in kept}
    for option in recipe.trains_on:
        file = arm.options.get(option)
        if isinstance(file, str) and Path(file).resolve() in places:
            raise ExperimentError(
                f"{protocol.path.name}: the arm {arm.name!r} trains on {file}, its option "
                f"{option}, and perplexity would be of the same file; expected validation = "
                '["OTHER TEXT"] in its training, or held_out = 0'
            )


def _check_model(protocol: Protocol, model: Model, arms: Sequence[str]) -> None:
    name = protocol.path.name
    if bool(model.spec) == bool(model.prepare):
        raise ExperimentError(
            f"{name}: the model {model.name!r} needs either a spec or what prepares it"
        )
    if model.prepare and (model.prepare[0] != "finetune" or "--out" in model.prepare):
        raise ExperimentError(
            f"{name}: the model {model.name!r} is prepared by {model.prepare[0]!r}; expected "
            "'finetune' and its arguments, without --out"
        )
    if unknown := set(model.arms) - set(arms):
        raise ExperimentError(f"{name}: the model {model.name!r} names the arms {sorted(unknown)}")
    seeds = protocol.seeds_of(model)
    if len(set(seeds)) < max(2, len(seeds)) or (protocol.tests and len(seeds) > EXACT):
        raise ExperimentError(
            f"{name}: the model {model.name!r} has the seeds {list(seeds)}; expected 2 or more, "
            f"all different{f', at most {EXACT} for its exact tests' if protocol.tests else ''}"
        )
    where = f"training of the model {model.name!r}"
    only(protocol.path, where, model.training, TRAINING)
    check_fields(name, where, FinetuneSettings, model.training)
    for arm in protocol.arms_of(model):
        check_columns(protocol, model, arm)
        _check_kept_back(protocol, model, arm)
    chosen = {arm.name for arm in protocol.arms_of(model)}
    for arm in protocol.arms_of(model):
        for other in made_of(arm):
            if other not in chosen:
                raise ExperimentError(
                    f"{name}: the model {model.name!r} has the arm {arm.name!r}, but not the "
                    f"{other!r} that it is made of"
                )
            if protocol.arm(other).stage > arm.stage:
                raise ExperimentError(
                    f"{name}: the arm {arm.name!r} of stage {arm.stage} is made of {other!r}, "
                    f"which is run later, in stage {protocol.arm(other).stage}"
                )
        _check_seeds(protocol, model, arm)
        _check_settings(protocol, model, arm)


def _check_settings(protocol: Protocol, model: Model, arm: Arm) -> None:
    """Reject settings, terms and options of each right type that make no sense together."""
    if arm.recipe not in RECIPES:  # said when it is to be run
        return
    given = protocol.training_of(model, arm)
    lists: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    terms = {k: v for k, v in arm.terms.items() if k != "words"}
    options = {k: v for k, v in arm.options.items() if not (arm.of and k == "like")}
    try:
        if arm.of:
            find_recipe(arm.recipe, options)
        else:
            FinetuneSettings(
                **lists, terms=TermSettings(**terms), recipe=arm.recipe, recipe_options=options
            )
    except ValueError as error:
        raise ExperimentError(f"{protocol.path.name}: the arm {arm.name!r}: {error}") from error


def _check_seeds(protocol: Protocol, model: Model, arm: Arm) -> None:
    """Reject seeds of an arm's own that would leave cells out silently."""
    name, all_of = protocol.path.name, protocol.seeds_of(model)
    chosen = protocol.seeds_of(model, arm.name)
    if arm.seeds and chosen != arm.seeds:
        raise ExperimentError(
            f"{name}: the arm {arm.name!r} has the seeds {list(arm.seeds)}; expected some of "
            f"{list(all_of)}, in their order, of the model {model.name!r}"
        )
    for other in made_of(arm):
        if set(chosen) - set(protocol.seeds_of(model, other)):
            raise ExperimentError(
                f"{name}: the arm {arm.name!r} is made of {other!r} with seeds that {other!r} "
                "does not have"
            )
    for contrast in protocol.contrasts_of(model):
        if contrast.primary and arm.name in (contrast.arm, contrast.against) and chosen != all_of:
            raise ExperimentError(
                f"{name}: the arm {arm.name!r} of a primary contrast has the seeds {list(chosen)}; "
                f"expected all of {list(all_of)}"
            )

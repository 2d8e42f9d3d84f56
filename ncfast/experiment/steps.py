"""What an experiment would do, without doing any of it: steps, data, memory, hours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..fairness.benchmarks import BENCHMARKS, make
from ..fairness.data import DataFolder
from ..fairness.recipes import RECIPES, Recipe
from ..finetune import FinetuneSettings
from ..reporting import strict
from .grid import known_recipes
from .inference import can_be_significant, minimal_detectable_effect, sign_flip_floor
from .protocol import Arm, Model, Protocol
from .untrained import WAYS

__all__ = ["fewest_seeds", "hours", "memory", "render_steps", "tests_of", "training_flops"]

# What a 24 GB card (RTX 3090 or 4090, A10) is assumed to sustain in float32 with TF32 products;
# published peaks are 35 to 83 TFLOP/s. Nobody has measured it with this loop.
RATE = 15e12
GIB = 2**30


def training_flops(shape: Mapping[str, int], tokens: float, mask_rate: float = 0.15) -> float:
    r"""Return the FLOPs of training an encoder on T tokens.

    .. math:: 6 T \, (L (4 D^2 + 2 D F + 2 D B / 2) + r D (V + D))

    with L layers of width D and inner width F, blocks of B tokens (of ``BertConfig``, and
    ``block_size``), and a head over V words at the share r of tokens that is masked; forward, and
    twice that backward.

    >>> round(training_flops({"block_size": 128}, 1) / 1e6)  # BERT-base
    538
    """
    width, layers = shape.get("hidden_size", 768), shape.get("num_hidden_layers", 12)
    inner, words = shape.get("intermediate_size", 3072), shape.get("vocab_size", 30522)
    layer = 4 * width**2 + 2 * width * inner + width * shape["block_size"]
    return 6 * tokens * (layers * layer + mask_rate * width * (words + width))


def hours(protocol: Protocol, model: Model, arm: Arm) -> float | None:
    """Return the hours of training one cell at :data:`RATE`; None where steps are not given."""
    training = protocol.training_of(model, arm)
    if not model.shape or not training.get("steps"):
        return None
    default = FinetuneSettings()
    blocks = training.get("batch_size", default.batch_size)
    size = training.get("block_size") or 128
    tokens = training["steps"] * blocks * size
    rate = training.get("mask_rate", default.mask_rate)
    return training_flops({**model.shape, "block_size": size}, tokens, rate) / RATE / 3600


def memory(protocol: Protocol, model: Model, arm: Arm) -> int | None:
    """Return the predicted peak bytes of training one cell; None without the model's shape."""
    if not model.shape:
        return None
    import transformers

    from ..training.unloaded import plan_from_config

    training = protocol.training_of(model, arm)
    shape: dict[str, Any] = dict(model.shape)
    rows = training.get("batch_size", 32) // training.get("accumulate", 1)
    found = plan_from_config(
        transformers.BertConfig(**shape),
        rows,
        training.get("block_size") or 128,
        dtype=torch.float32,
        recompute=training.get("recompute", 0),
        term_classes=300 if arm.terms.get("nc3") else 0,
        kind="masked",
    )
    return int(found.peak)


def render_steps(protocol: Protocol) -> str:
    """List every step of a protocol: models, data and where to get them, tests, cells with memory
    and hours.
    """
    lines = [protocol.title, f"protocol: {protocol.path.name}, SHA-256 {protocol.digest}", ""]
    lines += ["1. Models"]
    for model in protocol.models:
        lines.append(f"   {model.name}: {model.made}" + (f" ({model.get})" if model.get else ""))
    lines += ["", "2. Texts to train on"]
    texts = dict.fromkeys([*protocol.texts, *(t for arm in protocol.arms for t in arm.texts)])
    lines += [f"   {text}" + _got(protocol.get, text) for text in texts]
    ways = [protocol.training, *(m.training for m in protocol.models)]
    ways += [arm.training for arm in protocol.arms]
    for text in dict.fromkeys(t for way in ways for t in way.get("validation", ())):
        lines.append(f"   {text}, for perplexity alone" + _got(protocol.get, text))
    lines += ["", "3. Benchmarks"]
    for name, spec in protocol.evaluation.data.items():
        got = _got(protocol.evaluation.get, name)
        lines.append(f"   {name}: {spec}, {_state(name, spec)}{got}")
    lines += ["", "4. Tests", *(f"   {line}" for line in tests_of(protocol))]
    for model in protocol.models:
        lines += ["", f"5. Cells of {model.name}", *_cells(protocol, model)]
    lines += ["", "6. Report: report.html, report.md, findings.json, cells.json, pictures"]
    return "\n".join(lines)


def _got(get: Mapping[str, str], name: str) -> str:
    return f"\n      {get[name]}" if name in get else ""


def _state(name: str, spec: str) -> str:
    if name not in BENCHMARKS:
        return "NOT THERE: no such benchmark"
    if spec.startswith(("demo:", "pypi:")):
        return "read out of a package's wheel"
    if spec.startswith("hf:"):
        return "fetched when it is run"
    try:
        found = make(name).available(DataFolder(spec, progress=False))
    except ValueError:  # no such folder
        found = False
    return "found" if found else "NOT FOUND here"


def fewest_seeds(protocol: Protocol) -> int:
    """Return how many seeds the model with the fewest of them is tested with."""
    tested = [m for m in protocol.models if any(c.primary for c in protocol.contrasts_of(m))]
    return min(len(protocol.seeds_of(model)) for model in tested or protocol.models)


def tests_of(protocol: Protocol) -> list[str]:
    """Say what will be tested, and how large an effect that many seeds can find."""
    seeds = fewest_seeds(protocol)
    primary = [e.name for e in protocol.endpoints if e.primary]
    contrasts = [f"{c.arm} less {c.against}" for c in protocol.contrasts if c.primary]
    tests = max(1, protocol.tests)
    first = minimal_detectable_effect(seeds, 0.05 / tests)
    hopeless = "NONE OF THESE CAN BE SIGNIFICANT: fewer tests or more seeds are needed"
    return [
        f"primary endpoints: {', '.join(primary) or 'none'}; contrasts: {', '.join(contrasts)}",
        f"{tests} exact sign-flip tests over {seeds} seeds, smallest p "
        f"{sign_flip_floor(seeds):.4f}, Holm's first level {0.05 / tests:.4f}",
        f"detectable with 80 % power: {minimal_detectable_effect(seeds):.2f} standard deviations "
        f"of the paired differences at .05, {first:.2f} at Holm's first level",
        *([] if can_be_significant(seeds, tests) or not contrasts else [hopeless]),
        *(
            f"TOST: {m.endpoint} within {100 * m.margin:g} %"
            if m.scale == "ratio"
            else f"TOST: {m.endpoint} within {m.margin:g}"
            for m in protocol.margins
        ),
    ]


def _cells(protocol: Protocol, model: Model) -> list[str]:
    lines, total, known = [], 0.0, 0
    plans: dict[str, int | None] = {}
    for arm in protocol.arms_of(model):
        ways, seeds = WAYS if arm.of else known_recipes(), protocol.seeds_of(model, arm.name)
        lacks = "" if arm.recipe in ways else f"; NOT THERE: the recipe {arm.recipe} does not exist"
        if arm.of:
            lines.append(
                f"   {arm.name}: {len(seeds)} of {arm.of}, {arm.recipe}, no training{lacks}"
            )
            continue
        training = protocol.training_of(model, arm)
        key = repr(strict({**training, "term": bool(arm.terms.get("nc3"))}))
        if key not in plans:
            plans[key] = memory(protocol, model, arm)
        peak, each = plans[key], hours(protocol, model, arm)
        steps = training.get("steps") or f"{training.get('epochs', 1)} epochs of"
        said = f"   {arm.name}: {len(seeds)} runs of {arm.recipe}, {steps} steps"
        said += "" if peak is None else f", {peak / GIB:.1f} GiB"
        said += "" if each is None else f", {each:.2f} h each"
        if arm.recipe in RECIPES and RECIPES[arm.recipe].own_loss is not Recipe.own_loss:
            said += ", its own passes not counted"
        lines.append(said + lacks)
        if each is not None:
            total, known = total + each * len(seeds), known + 1
    if known:
        lines.append(
            f"   training: {total:.0f} h in all, on a card that sustains {RATE / 1e12:g} TFLOP/s "
            "(assumed for 24 GB cards, not measured; evaluation is not counted)"
        )
    elif not model.shape:
        lines.append("   memory and hours: not predicted, since the protocol names no shape")
    return lines

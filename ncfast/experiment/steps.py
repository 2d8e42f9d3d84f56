"""What an experiment would do, without doing any of it: steps, data, memory, hours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..fairness.benchmarks import BENCHMARKS, make
from ..fairness.data import DataFolder
from ..finetune import FinetuneSettings
from ..reporting import strict
from .cells import BASE
from .columns import Reading, readings, unreadable
from .costs import CARD, RATE, Hours, cell_hours, evaluation_hours, late_hours, memory
from .grid import known_recipes
from .inference import can_be_significant, minimal_detectable_effect, sign_flip_floor
from .local_files import is_here
from .protocol import Model, Protocol
from .untrained import WAYS

__all__ = ["fewest_seeds", "render_steps", "tests_of"]

GIB = 2**30


def render_steps(protocol: Protocol) -> str:
    """List every step of a protocol: models, data and where to get them, tests, cells with memory
    and hours.
    """
    lines = [protocol.title, f"protocol: {protocol.path.name}, SHA-256 {protocol.digest}", ""]
    lines += ["1. Models"]
    for model in protocol.models:
        lines.append(f"   {model.name}: {model.made}" + (f" ({model.get})" if model.get else ""))
    lines += ["", "2. Texts to train on"]
    said = [line for reading in readings(protocol) for line in _texts(protocol, reading)]
    lines += list(dict.fromkeys(said))
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


def _texts(protocol: Protocol, reading: Reading) -> list[str]:
    """Say of each text how it is read, whether it is here, and what keeps it from being read."""
    column = "" if reading.column is None else f", column {reading.column!r}"
    use, failed = reading.use and f", {reading.use}", unreadable(reading)
    lines = []
    for text in reading.texts:
        state = "" if ":" in text or is_here(text) else ", NOT FOUND here"
        if text in failed:
            state = f", CANNOT BE READ: {failed[text]}"
        lines.append(f"   {text}{column}{use}{state}" + _got(protocol.get, text))
    return lines


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
    lines = [f"   {BASE}: 1, no training{_hours(protocol, model)}"]
    plans: dict[str, int | None] = {}
    total: list[tuple[int, Hours]] = []
    if model.shape:
        total.append((1, Hours(0.0, 0.0, *evaluation_hours(protocol, model))))
    unknown: list[str] = []
    for arm in protocol.arms_of(model):
        ways, seeds = WAYS if arm.of else known_recipes(), protocol.seeds_of(model, arm.name)
        lacks = "" if arm.recipe in ways else f"; NOT THERE: the recipe {arm.recipe} does not exist"
        each = None if lacks else cell_hours(protocol, model, arm)
        if each is not None:
            total.append((len(seeds), each))
        elif model.shape:
            unknown.append(arm.name)
        took = "" if each is None else f", {each.all:.2f} h each"
        if arm.of:
            said = f"   {arm.name}: {len(seeds)} of {arm.of}, {arm.recipe}, no training"
            lines.append(f"{said}{took}{lacks}")
            continue
        training = protocol.training_of(model, arm)
        decides = {"term": bool(arm.terms.get("nc3")), "recipe": [arm.recipe, dict(arm.options)]}
        key = repr(strict({**training, **decides}))
        if key not in plans:
            plans[key] = None if lacks else memory(protocol, model, arm)
        peak = plans[key]
        steps = f"{training.get('steps')} steps"
        if not training.get("steps"):
            steps = f"{training.get('epochs', FinetuneSettings().epochs)} epochs"
        said = f"   {arm.name}: {len(seeds)} runs of {arm.recipe}, {steps}"
        said += "" if peak is None else f", {peak / GIB:.1f} GiB"
        said += "" if peak is None or peak <= CARD else " (DOES NOT FIT in 24 GiB)"
        said += took
        if each is not None and each.own:
            said += f", {each.own:.2f} of it the recipe's own passes"
        lines.append(said + lacks)
    return lines + _late(protocol, model) + _total(model, total, unknown)


def _hours(protocol: Protocol, model: Model) -> str:
    return f", {evaluation_hours(protocol, model)[0]:.2f} h" if model.shape else ""


def _late(protocol: Protocol, model: Model) -> list[str]:
    """List what is evaluated after all cells."""
    lines = []
    names = {arm.name for arm in protocol.arms_of(model)}
    for endpoint in (e for e in protocol.endpoints if e.late):
        arms = [name for name in endpoint.late if name in names]
        models = sum(len(protocol.seeds_of(model, name)) for name in arms)
        hours = late_hours(model, endpoint)
        took = f", {hours:.2f} h each, {hours * models:.0f} h in all" if hours is not None else ""
        took = took or (", hours not known" if model.shape else "")
        if models:
            lines.append(
                f"   {endpoint.name}, evaluated last: {models} models ({', '.join(arms)}){took}"
            )
    return lines


def _total(model: Model, total: Sequence[tuple[int, Hours]], arms: Sequence[str]) -> list[str]:
    if not model.shape:
        return ["   memory and hours: not predicted, since the protocol names no shape"]
    text, own, asked = (
        sum(n * getattr(h, name) for n, h in total) for name in ("text", "own", "evaluation")
    )
    unknown = sorted({name for _, h in total for name in h.unknown})
    lines = [
        f"   all cells: {text + own + asked:.0f} h: {text:.0f} training on text, {own:.0f} the "
        f"recipes' own passes (at most, with sentences as long as they may be), {asked:.1f} "
        f"evaluation; on a card that sustains {RATE / 1e12:g} TFLOP/s (assumed for 24 GB cards, "
        "not measured); without what is evaluated last"
    ]
    if arms:
        lines.append(
            f"   not in these hours: the arms {', '.join(arms)}, whose steps or recipe is not known"
        )
    if unknown:
        lines.append(f"   not in these hours: {', '.join(unknown)}, whose size is not known")
    return lines

"""The report of an experiment as blocks: verdict, protocol, effects, collapse, cost, commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..fairness.recipes import RECIPES
from ..reporting.blocks import Block, Details, Figure, Heading, Items, Legend, Paragraph, table
from .findings import NC_KEYS
from .fitting import told_unfit
from .inference import can_be_significant, minimal_detectable_effect, sign_flip_floor
from .pictures import collapse_against, group_styles, paired_dots, styles_of, word_places
from .protocol import Protocol
from .repeated import PRINTED
from .steps import fewest_seeds
from .verdict import noted, percent, signed, spread, verdict

__all__ = ["report_tree"]

CHANGED = (
    "The protocol has changed since the first run in this folder: what stands here was not all "
    "fixed before its data were seen."
)
# By python -m benchmarks.coverage_crossed.
HELD = "95 to 97 % of cases for eight seeds and 20 + 20 clusters, 87 to 98 % for 10 skewed clusters"
ONE_BASE = (
    "One base checkpoint: seeds vary the order of the text that is trained on, and masks and "
    "dropout where a model has them, so that nothing here is a claim over pre-trainings, other "
    "models or other languages. Gender is binary in these benchmarks, and whether they measure "
    "harm is disputed (Blodgett et al. 2021)."
)


def report_tree(protocol: Protocol, found: Mapping[str, Any]) -> list[Block]:
    """Return the report of :func:`ncfast.experiment.findings.find`, without its title."""
    blocks: list[Block] = [Paragraph(" ".join(protocol.question.split()))]
    if found["protocol"] != found["first"]:
        blocks.append(Paragraph(CHANGED, "note"))
    blocks += [Paragraph(told, "note") for told in told_unfit(found.get("unfit", {}))]
    for model in found["models"]:
        blocks += [Heading(f"What was found: {model['name']}"), Items(verdict(protocol, model))]
        blocks += _figures(protocol, model)
    blocks.append(Paragraph(ONE_BASE, "note"))
    blocks += _protocol(protocol, found)
    for model in found["models"]:
        blocks += _model(protocol, model)
    return blocks + _commands(protocol, found)


def _figures(protocol: Protocol, model: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    for endpoint in (e for e in protocol.endpoints if e.primary):
        text = f"{endpoint.text or endpoint.name}. A dot is a run; the runs of a seed are joined."
        if drawing := paired_dots(model, endpoint.name):
            blocks.append(Figure(text, drawing))
        if drawing := collapse_against(model, endpoint.name):
            blocks.append(
                Figure(f"Collapse and fairness. {endpoint.name}, a dot for each run.", drawing)
            )
    if blocks:
        blocks.append(Legend(styles_of([arm["name"] for arm in model["arms"]])))
    if drawing := word_places(model):
        words = protocol.evaluation.words
        blocks.append(
            Figure(
                f"The {words} words before and after, first seed. A dot is a word: to the right as "
                "its head row leans to one group, upward as the row faces its class mean. (U)NC3 "
                "is the spread upward.",
                drawing,
            )
        )
        blocks.append(Legend(group_styles(model)))
    return blocks


def _protocol(protocol: Protocol, found: Mapping[str, Any]) -> list[Block]:
    seeds = fewest_seeds(protocol)
    tests = protocol.tests
    fixed = f"The protocol's SHA-256 is {found['protocol']}"
    if found["protocol"] != found["first"]:
        fixed += f"; before the first run it was {found['first']}"
        fixed += f", in commit {found['commit']}" if found["commit"] else ""
    elif found["commit"]:
        fixed += f"; commit {found['commit']} held it before the first run"
    lines = [
        f"{fixed}.",
        f"Primary: {', '.join(e.name for e in protocol.endpoints if e.primary)}; contrasts "
        + ", ".join(f"{c.arm} less {c.against}" for c in protocol.contrasts if c.primary)
        + f": {tests} tests, each an exact sign-flip test over {seeds} seeds (smallest p "
        f"{sign_flip_floor(seeds):.3g}), adjusted by Holm. The tests hold the items: what others "
        "would change is in the intervals alone. An endpoint whose base lies within two standard "
        "errors of an unbiased model, or whose interval holds it, has no headroom and is not "
        "tested.",
        ""
        if can_be_significant(seeds, tests) or not tests
        else f"With {seeds} seeds, none of the {tests} tests can be significant.",
        "Everything else is an estimate with an interval, and is not tested. Intervals are 95 %, "
        "of each effect alone, over seeds and clusters of items: Student's with a variance of "
        "seeds, clusters and both (a quasi F; Clark 1973). In simulations they hold the true "
        f"effect in {HELD} (benchmarks/results/coverage_crossed.md).",
        f"Of {seeds} paired seeds, a t-test finds an effect of "
        f"{minimal_detectable_effect(seeds):.2f} standard deviations of the differences with "
        f"80 % power at .05, and of {minimal_detectable_effect(seeds, 0.05 / max(tests, 1)):.2f} "
        f"at .05/{max(tests, 1)}.",
        "Runs of a seed share batches, and masks and dropout where a model has them, in every arm"
        f"{_other_texts(protocol)}.",
        *protocol.notes,
    ]
    return [Heading("The protocol"), Items([line for line in lines if line])]


def _other_texts(protocol: Protocol) -> str:
    changing = {name for name, recipe in RECIPES.items() if recipe.changes_text}
    changed = [arm.name for arm in protocol.arms if arm.recipe in changing]
    return f" but {', '.join(changed)}, where the text is changed" if changed else ""


def _model(protocol: Protocol, model: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = [Heading(f"Effects: {model['name']}"), _effects(model)]
    blocks += [Heading("Scores by arm", 3), _scores(protocol, model)]
    blocks.append(Details("Every run", (_runs(protocol, model),)))
    if model["margins"]:
        blocks += [Heading("What it cost", 3), _margins(model)]
    if model["base"] is not None:
        blocks += [Heading("The base and its headroom", 3), _headroom(model)]
        blocks += _collapse(model)
    return blocks


def _effects(model: Mapping[str, Any]) -> Block:
    rows = []
    for row in model["contrasts"]:
        if row["mean"] is None:
            continue
        kind = "primary" if row["primary"] else "must not move" if row["control"] else ""
        rows.append(
            [
                f"{row['arm']} - {row['against']}: {row['endpoint']}",
                f"{kind}{noted(row)}".removeprefix("; "),
                spread(row["mean"], row["interval"]),
                str(row["seeds"]),
                "" if row["sd"] is None else f"{row['sd']:.3g}",
                "" if row["detectable"] is None else f"{row['detectable']:.3g}",
                "" if row["p"] is None else f"{row['p']:.3g}",
                "" if row["p_holm"] is None else f"{row['p_holm']:.3g}",
            ]
        )
    header = ["contrast", "", "mean [95 %]", "seeds", "SD", "detectable", "p", "p, Holm"]
    caption = (
        "First arm less second, seed by seed. Detectable: what a t-test of so many seeds with this "
        "SD finds with 80 % power at .05."
    )
    return table(header, rows, caption)


def _scores(protocol: Protocol, model: Mapping[str, Any]) -> Block:
    names = [e.name for e in protocol.endpoints]
    rows = []
    if model["base"] is not None:
        base = model["base"]["endpoints"]
        scores = (spread(base[n]["value"]) if n in base else "" for n in names)
        rows.append(["base", "", *scores])
    for arm in model["arms"]:
        cells = []
        for name in names:
            entry = arm["endpoints"][name]
            missing = "not run" if protocol.asks(name, (arm["name"],)) else ""
            text = missing if entry["mean"] is None else f"{entry['mean']:.3g}"
            cells.append(text if entry["sd"] is None else f"{text} ± {entry['sd']:.2g}")
        rows.append([arm["name"], str(len(arm["seeds"])), *cells])
    told = "; ".join(f"{arm['name']}: {arm['text']}" for arm in model["arms"] if arm["text"])
    caption = f"Mean ± standard deviation over seeds. {told}."
    return table(["arm", "seeds", *names], rows, caption)


def _runs(protocol: Protocol, model: Mapping[str, Any]) -> Block:
    """Return what ``--against`` compares of a run."""
    names, words = [e.name for e in protocol.endpoints], protocol.evaluation.words
    runs: dict[str, tuple[Mapping[str, Any], float | None]] = {}
    if model["base"] is not None:
        before = {k: e["value"] for k, e in model["base"]["endpoints"].items()}
        runs["base/0"] = before, model["base"]["nc"].get(words, {}).get("unc3_std")
    for arm in model["arms"]:
        for seed, values in arm["values"].items():
            runs[f"{arm['name']}/{seed}"] = values, arm["unc3"].get(seed)
    rows = []
    for name, (values, unc3) in runs.items():
        found = [*(values.get(endpoint) for endpoint in names), unc3]
        told = ["" if v is None else f"{v:.{PRINTED}g}" for v in found]
        rows.append([f"{model['name']}/{name}", *told])
    header = ["run", *names, f"(U)NC3 of {words}"]
    return table(header, rows, "What --cell RUN --against this folder compares.")


def _margins(model: Mapping[str, Any]) -> Block:
    rows = []
    for row in model["margins"]:
        ratio = row["scale"] == "ratio"
        mean = (
            percent(1 + row["mean"]) if ratio and row["mean"] is not None else signed(row["mean"])
        )
        margin = f"{100 * row['margin']:g} %" if ratio else f"{row['margin']:g}"
        p = ["" if row[k] is None else f"{row[k]:.2g}" for k in ("p", "p_worse")]
        name = f"{row['arm']} against {row['against']}: {row['endpoint']}{noted(row)}"
        rows.append([name, mean, margin, str(row["seeds"]), *p])
    header = ["contrast", "mean", "margin", "seeds", "p, TOST", "p, not worse"]
    told = (
        "TOST: both one-sided t-tests over seeds; a small p is within. The text or items are held, "
        "so that nothing is said of others."
    )
    return table(header, rows, told)


def _headroom(model: Mapping[str, Any]) -> Block:
    rows = []
    for name, entry in model["base"]["endpoints"].items():
        gate = {True: "yes", False: "no headroom", None: ""}[entry["headroom"]]
        gate = f"{gate}{noted(entry)}".removeprefix("; ")
        z = "" if entry["z"] is None else f"{entry['z']:.1f}"
        size = "" if entry["n"] is None else f"{entry['n']} ({entry['clusters']} clusters)"
        unbiased = "" if entry["unbiased"] is None else f"{entry['unbiased']:g}"
        rows.append([name, spread(entry["value"], entry["interval"]), unbiased, z, gate, size])
    header = ["endpoint", "base [95 %]", "unbiased", "z", "headroom", "items"]
    return table(header, rows, "Before any training.")


def _collapse(model: Mapping[str, Any]) -> list[Block]:
    """Return the paper's tables 1 to 3 in shape: a table for each set of words."""
    blocks: list[Block] = [Heading("Neural collapse, and as a ratio to the base", 3)]
    for words, base in model["base"]["nc"].items():
        rows = [["base", *("" if base.get(k) is None else f"{base[k]:.4g}" for k in NC_KEYS)]]
        for arm in model["arms"]:
            entries = arm["nc"].get(words)
            if entries:
                rows.append(
                    [
                        arm["name"],
                        *(
                            "" if e["mean"] is None else f"{e['mean']:.4g} ({_ratio(e['ratio'])})"
                            for e in (entries[k] for k in NC_KEYS)
                        ),
                    ]
                )
        classes = model["base"]["classes"].get(words)
        about = "" if classes is None else f", {classes:.0f} classes"
        told = f"{words}{about}: means over seeds, in brackets their ratio to the base."
        blocks.append(table(["arm", *NC_KEYS], rows, told))
    return blocks


def _ratio(value: float | None) -> str:
    return "no ratio" if value is None else f"{value:.3f}"


def _commands(protocol: Protocol, found: Mapping[str, Any]) -> list[Block]:
    name = f"experiments/{protocol.path.name}"
    cells = [
        f"{m['name']}/{arm['name']}/{arm['seeds'][0]}"
        for m in found["models"]
        for arm in m["arms"]
        if arm["seeds"]
    ]
    late = {e.benchmark for e in protocol.endpoints if e.late}
    every = sorted(protocol.evaluation.get)
    data = "".join(f" --data {key}={key.upper()}" for key in every)
    now = "".join(f" --data {key}={key.upper()}" for key in every if key not in late)
    threads = protocol.threads or 1
    lines = [
        f"ncfast experiment {name}{data} --threads {threads}: the whole grid; it goes on where it "
        "stopped."
    ]
    if cells:
        lines.append(
            f"ncfast experiment {name}{now} --threads {threads} --out again --cell {cells[-1]} "
            "--against THIS_FOLDER: one run anew. The command says whether the numbers in the "
            f"table of every run come out the same to their {PRINTED} digits, and how far what is "
            "not printed differs: the last digits are equal only with the same code, torch, "
            "threads and kind of processor."
        )
    lines += [f"{key.upper()}: {text}." for key, text in protocol.evaluation.get.items()]
    for model in protocol.models:
        lines.append(f"The model {model.name}: {model.made}")
    for model in found["models"]:
        if model["base"] is not None:
            items = ", ".join(f"{k} {v}" for k, v in model["base"]["items"].items())
            lines.append(
                f"SHA-256 of the weights of {model['name']}: {model['base']['weights']}; digests "
                f"of the items: {items}."
            )
    return [Heading("To repeat it"), Items(lines)]

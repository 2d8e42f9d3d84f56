"""Every flag of every command that changes a computation, run once from end to end.

A row gives the words that are run and, before the ``|``, those of the run they are compared with:
where a flag changes what is computed, the two results have to differ. A flag, or a choice of one,
that stands in no row fails by its name.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

import pytest

from ncfast.cli import COMMANDS, main
from ncfast.reporting import read_report
from ncfast.training.log import read_log

# What is given with every run, and so is run with all of them.
LONG = ("measure", "finetune")
COMMON = {
    "measure": "--quiet --out {out} --batch-size 8 --block-size 32 --controls random:2,matched "
    "--bootstrap 20 --max-tokens 2000 --seed 0",
    "finetune": "--quiet --out {out} --batch-size 8 --block-size 32 --lr 1e-2 --steps 4 "
    "--measure-tokens 0 --max-tokens 2000",
}
# Flags that say how to run or what to print, not what to compute, and those of commands that
# compute nothing: they have tests of their own, in the files beside this one.
RUNNING = {
    "measure": "--help --out --resume --force --quiet --save-every --rank-timeout --all --text",
    "finetune": "--help --out --resume --force --quiet --save-every",
    "compare": "--help --out --quiet --names --reference --label --all",
    # Every one of these is run by tests/fairness/test_asked_for.py.
    "evaluate": "--help --out --quiet --all --on --data --predictions --export --text --uniform "
    "--noise-control --seed --device --batch-tokens --threads --attribute gender --attribute race "
    "--attribute religion --attribute all --dtype float32 --dtype bfloat16 --dtype float16",
    # tests/experiment/test_protocol.py and test_grid.py run these.
    "experiment": "--help --out --quiet --dry-run --cell --report --data --against --device "
    "--state "
    "--threads",
    # tests/plan runs these.
    "plan": "--help --layers --hidden --vocab --gpus --memory --parallel fsdp --parallel tp "
    "--parallel fsdp+tp --tp --bandwidth --tp-bandwidth --batch-size --block-size --accumulate "
    "--recompute --lora --dtype bfloat16 --dtype float32 --precision fp32 --precision bf16 "
    "--optimizer --term-classes --choices --json",
    # tests/test_bench.py runs these.
    "bench": "--help --rows --width --tokens --ops --no-peers --repeat --threads --out --quiet",
    "doctor": "--help --device --json",
}

DIFFERS = {
    "measure": (
        "causal | --words {jobs}",
        "causal | --words none",
        "causal | --controls random:3",
        "causal --words {jobs} --policy single | --words {jobs} --policy first",
        "causal --words {jobs} --policy single | --words {jobs} --policy last",
        "causal | --max-tokens 1500",
        "causal | --nc4 {other}",
        "causal --nc4 {other} | --nc4 {other} --nc4-max-tokens 500",
        "masked --labels masked | --labels self",
        "masked | --mask-passes 2",
        "masked | --mask-rate 0.5",
        "masked | --seed 3",
        "masked --center classes | --center tokens",
        "masked --center classes | --center all",
        "masked --center classes | --center none",
        "masked --preset ncfast | --preset official",
        "causal --preset ncfast | --preset linguistic-collapse",
        "two.csv --text-column one | --text-column two",
        "causal | --pairs 100",
        "causal | --bootstrap 30",
        "causal | --block-size 16",
        "causal --dtype float32 | --dtype float64",
        "causal --dtype float32 | --dtype bfloat16",
        "causal --dtype float32 | --dtype float16",
    ),
    "finetune": (
        "masked | --recipe bec",
        "masked --recipe bec | --recipe bec --recipe-option share=1",
        "masked | --nc3 1",
        "masked --nc3 1 | --nc3 1 --alignment 1",
        "masked | --nc1 1",
        "masked | --uniformity 1",
        "masked --nc3 1 | --nc3 1 --words {jobs}",
        "masked --uniformity 1 | --uniformity 1 --words none",
        "masked --nc3 1 --class-means batch | --nc3 1 --class-means ema",
        "masked --nc3 1 --class-means batch | --nc3 1 --class-means running",
        "masked --nc3 1 | --nc3 1 --term-warmup 2",
        "masked --nc3 1 --preset ncfast | --nc3 1 --preset official",
        "masked --nc3 1 --term-gradient both | --nc3 1 --term-gradient head",
        "masked --nc3 1 --term-spread std | --nc3 1 --term-spread var",
        "masked --nc3 1 --term-spread std | --nc3 1 --term-spread cov",
        "masked --nc3 1 --alignment 1 | --nc3 1 --alignment 1 --term-spread none",
        "masked --nc3 1 --term-gradient both | --nc3 1 --term-gradient features",
        "encoder --new-head | --new-head --lr 1e-3",
        "masked | --steps 3",
        "masked | --batch-size 4",
        "masked | --block-size 16",
        "masked --schedule linear | --schedule cosine",
        "masked --schedule linear | --schedule constant",
        "masked | --warmup 2",
        "masked | --optimizer SGD",
        "masked | --weight-decay 0.5",
        "masked | --clip 0.01",
        "masked | --label-smoothing 0.3",
        "masked | --mask-rate 0.5",
        "masked | --mask-words 0.9",
        "masked | --held-out 0.3",
        "masked | --validation {other}",
        "two.csv --text-column one | --text-column two",
        "masked | --max-tokens 1500",
        "masked | --seed 3",
        "causal --precision fp32 | --precision bf16",
        "causal --dtype float32 | --dtype bfloat16",
        "causal | --lora 2",
        "causal --nc3 1 | --nc3 1 --metrics-every 2",
        "masked | --measure-tokens 1500",
    ),
}
# These change how a value is computed, not which one (but for rounding): they have to end well.
RUNS = {
    "measure": (
        "causal --device cpu",
        "causal --device-map auto",
        "causal --tp 1",  # tests/test_measure_spread.py runs 2
        "causal --labels next",
        "causal --threads 1",
        "causal --batch-size 4",
        "causal --reference {published}",
        "causal --layers all --layers-head lens",
        "causal --layers 0,-1 --layers-head none",
    ),
    "finetune": (
        "masked --task mlm",
        "causal --task clm",
        "masked --epochs 1",
        "causal --accumulate 2 --uniformity 1 --nc3 1 --nc1 1",
        "causal --memory-limit 1GiB",
        "causal --recompute 1",
        "causal --device cpu --threads 1",
    ),
}


def _flags(command: str) -> list[argparse.Action]:
    parser = argparse.ArgumentParser()
    importlib.import_module(f"ncfast.cli.{command}").add_arguments(parser)
    return [action for action in parser._actions if action.option_strings]


def _words(command: str) -> list[list[str]]:
    rows = [RUNNING[command]]
    if command in LONG:
        rows += [*DIFFERS[command], *RUNS[command], COMMON[command]]
    return [row.replace("|", " ").split() for row in rows]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_and_every_choice_stands_in_a_row(command):
    rows = _words(command)
    given = {word for row in rows for word in row}
    for action in _flags(command):
        assert set(action.option_strings) & given, f"ncfast {command}: no row runs {action}"
        if action.choices is not None:
            flag = action.option_strings[0]
            used = {row[i + 1] for row in rows for i, word in enumerate(row) if word == flag}
            missing = set(action.choices) - used
            assert not missing, f"ncfast {command}: no row runs {flag} {sorted(missing)}"


@pytest.fixture(scope="module")
def result_of(tiny_model, tiny_text, tmp_path_factory):
    """Return a function that runs a command once and gives what it computed."""
    root = tmp_path_factory.mktemp("every-flag")
    (root / "jobs.txt").write_text("bant\nbanting\nbants\nfont\nbard\nce")
    lines = tiny_text.read_text().splitlines()
    (root / "other.txt").write_text("\n".join(" ".join(line.split()[::-1]) for line in lines))
    (root / "two.csv").write_text("one,two\n" + "\n".join(f"{a},she {a}" for a in lines) + "\n")
    (root / "published.csv").write_text("model,cdnv,simcos_mean,hits,misses\na,0.1,0.2,1,3\n")
    values = {path.stem: path for path in root.iterdir()}
    done: dict[tuple[str, str], object] = {}

    def run(command: str, row: str) -> object:
        if (command, row) not in done:
            out, (subject, *words) = root / f"out-{len(done)}", row.split()
            texts = [str(tiny_text)]
            if subject.endswith(".csv"):  # a text of its own
                texts, subject = ["{two}"], "masked"
            subjects = [str(tiny_model(subject)), *texts] if command in LONG else subject.split()
            words = [*subjects, *COMMON[command].split(), *words]
            assert main([command, *(word.format(out=out, **values) for word in words)]) == 0, row
            done[command, row] = (_measured if command == "measure" else _trained)(out)
        return done[command, row]

    return run


def _measured(folder: Path) -> object:
    report = read_report(folder)
    return report["sets"], report["bootstrap"], report["held_out"]


def _trained(folder: Path) -> object:
    lines = read_log(folder / "steps.jsonl")
    report = json.loads((folder / "finetune.json").read_text())
    weights = (folder / "model" / "model.safetensors").read_bytes()
    curve = [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
    return curve, report["perplexity"], report["sets"], weights


@pytest.mark.parametrize(("command", "row"), [(c, row) for c in LONG for row in DIFFERS[c]])
def test_a_flag_changes_what_is_computed(command, row, result_of):
    before, _, after = row.partition(" |")
    kind = before.split()[0]
    assert result_of(command, f"{kind} {after}") != result_of(command, before)


@pytest.mark.parametrize(("command", "row"), [(c, row) for c in LONG for row in RUNS[c]])
def test_a_flag_runs(command, row, result_of):
    assert result_of(command, row)

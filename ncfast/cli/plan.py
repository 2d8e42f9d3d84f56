"""``ncfast plan``: what training a model would take, from its configuration alone."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from ..errors import DataError
from .running import count, positive

MACHINE = 8  # GPUs that are joined faster than a network joins machines
EPILOG = """\
models:  llama3-8b, llama3-70b, gemma2-9b, gemma2-27b, smollm2-135m, bert-base; a model type of
         transformers (llama, bert, ...); a folder, a hub name or a demo, whose configuration is
         read; each with --layers, --hidden or --vocab of your own

examples:
  ncfast plan llama3-8b --memory 24GiB --lora 16 --recompute all
  ncfast plan gemma2-27b --gpus 8 --parallel fsdp --memory 80GiB --recompute all
  ncfast plan llama3-70b --vocab 256000 --gpus 64 --parallel fsdp+tp --tp 8 --memory 80GiB

No weight is loaded and no GPU is needed: one step of the loop runs with shapes alone, FSDP2 and
tensor parallelism of torch included, and every byte is counted. A GPU's context and what its
allocator rounds up are not.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("model", metavar="MODEL", help="see below")
    size = parser.add_argument_group("sizes in place of the model's own")
    size.add_argument("--layers", metavar="N", type=positive)
    size.add_argument("--hidden", metavar="N", type=positive)
    size.add_argument("--vocab", metavar="N", type=positive)
    place = parser.add_argument_group("devices")
    place.add_argument(
        "--gpus", metavar="N", type=count, default=1, help="0 plans the loop on this CPU"
    )
    place.add_argument("--memory", metavar="SIZE", help="of a device, for example 24GiB")
    place.add_argument(
        "--parallel",
        choices=("fsdp", "tp", "fsdp+tp"),
        help="how several GPUs share the model (default: fsdp)",
    )
    place.add_argument(
        "--tp", metavar="N", type=positive, help="GPUs that share every layer (fsdp+tp: 8)"
    )
    place.add_argument(
        "--bandwidth",
        metavar="SIZE",
        help="a second, that a GPU sends to others (default: 450GB among up to 8 GPUs, as within "
        "a machine, and 50GB among more, as between machines)",
    )
    place.add_argument(
        "--tp-bandwidth",
        metavar="SIZE",
        default="450GB",
        help="the same among those that share a layer (default: %(default)s)",
    )
    how = parser.add_argument_group("training")
    how.add_argument(
        "--batch-size",
        metavar="N",
        type=positive,
        help="blocks of a step, over all GPUs (default: one per GPU, or group that shares layers)",
    )
    how.add_argument("--block-size", metavar="N", type=positive, help="default: 2048 or fewer")
    how.add_argument("--accumulate", metavar="N", type=positive, default=1, help="micro-batches")
    how.add_argument("--recompute", metavar="LAYERS", default="0", help="a number, or all")
    how.add_argument(
        "--lora", metavar="RANK", type=count, default=0, help="of adapters; 0 trains all weights"
    )
    kinds: dict[str, Any] = {"choices": ("bfloat16", "float32"), "default": "bfloat16"}
    how.add_argument("--dtype", **kinds, help="of the weights (default: %(default)s)")
    how.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="of the arithmetic; bf16 is autocast (default: %(default)s)",
    )
    how.add_argument("--optimizer", default="AdamW", help="a class of torch.optim")
    terms = "of a (U)NC3 term (default: 300 or fewer); 0 for none"
    how.add_argument("--term-classes", metavar="K", type=count, help=terms)
    show = parser.add_argument_group("output")
    show.add_argument("--choices", action="store_true", help="a table over the usual choices")
    show.add_argument("--json", action="store_true", help="the same for programs")


def run(options: argparse.Namespace, given: Sequence[str]) -> int:
    """Plan, and print what was found; 1 if ``--memory`` is given and the plan does not fit it."""
    from ..plan import plan_choices, plan_model, read_config, remedies
    from ..plan.report import plan_blocks
    from ..reporting.terminal import Terminal
    from ..training.memory import parse_size

    memory = None if options.memory is None else parse_size(options.memory)
    between = options.bandwidth or ("450GB" if options.gpus <= MACHINE else "50GB")
    rates = {"data": between, "tensor": options.tp_bandwidth}
    bandwidths = {over: float(parse_size(text)) for over, text in rates.items()}
    config = read_config(options.model, options.layers, options.hidden, options.vocab)
    settings = settings_of(options, config)
    if options.choices:
        plans = plan_choices(config, settings, options.model)
    else:
        plans = [plan_model(config, settings, options.model)]
    fits = memory is None or plans[0].needed <= memory
    fixes = [] if fits or memory is None else remedies(config, plans[0], memory, options.model)
    if options.json:
        seconds = {over: plans[0].sent(over) / rate for over, rate in bandwidths.items()}
        document: dict[str, Any] = {
            "model": options.model,
            "plans": [plan.to_dict() for plan in plans],
            "memory": memory,
            "fits": fits,
            "would_fit": [{"change": words, **plan.to_dict()} for words, plan in fixes],
            "traffic_seconds": seconds,
        }
        print(json.dumps(document, indent=1))
    else:
        Terminal().blocks(plan_blocks(options.model, plans, memory, bandwidths, fixes))
    return 0 if fits else 1


def settings_of(options: argparse.Namespace, config: Any) -> Any:
    """Return the settings that the arguments ask for; ``config`` is the model's."""
    from ..plan import EVERY, PlanSettings

    parallel = options.parallel or ("fsdp" if options.gpus > 1 else "none")
    gpus = max(1, options.gpus)
    tensor = options.tp or {"tp": gpus, "fsdp+tp": min(8, gpus)}.get(parallel, 1)
    if options.recompute != "all" and not options.recompute.isdecimal():
        raise DataError(f"--recompute {options.recompute}; expected a number of layers, or all")
    limit = getattr(config, "max_position_embeddings", None) or 2048
    replicas = gpus // max(1, tensor)  # PlanSettings says what is wrong
    return PlanSettings(
        gpus=options.gpus,
        parallel=parallel,
        tensor=tensor,
        batch_size=options.batch_size or max(1, replicas),
        block_size=options.block_size or min(2048, limit),
        accumulate=options.accumulate,
        recompute=EVERY if options.recompute == "all" else int(options.recompute),
        lora=options.lora,
        dtype=options.dtype,
        precision=options.precision,
        optimizer=options.optimizer,
        term_classes=_term_classes(options.term_classes, config),
    )


def _term_classes(asked: int | None, config: Any) -> int:
    """Return the classes of the term, 300 where no number was asked for, of those there are."""
    there = getattr(config.get_text_config(), "vocab_size", None)
    if asked is None:
        return min(300, there or 300)
    if there is not None and asked > there:
        raise DataError(f"--term-classes {asked} with {there} classes; expected that many or fewer")
    return asked

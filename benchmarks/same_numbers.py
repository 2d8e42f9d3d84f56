"""Every op, metric, loss and a short fine-tuning on small fixed inputs, kept bit for bit.

Run it in one tree and compare in another, on one machine and with the same number of threads::

    python -m benchmarks.same_numbers --write before.json
    python -m benchmarks.same_numbers --compare before.json

A change that moves code must leave every number as it was. What differs is named with its first
differing values; a name that is in one tree only is named too, and is no failure unless it is gone.
``--backends cpu,reference,cuda-host`` adds backends to those that run everywhere.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ncfast
from ncfast.functional import function_of
from ncfast.testing import sample_inputs, tiny_tokens

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SHOWN = 4  # values kept of each tensor beside its hash, to say what differs
CLOCK = ("second", "created", "command", "versions", "timing", "memory", "peak", "threads")

ENDS = ("nt", "rd", "lk", "sp", "mb")

Found = Iterator[tuple[str, Any]]


def digest(value: Any) -> dict[str, Any]:
    """Reduce a value to its bits' hash, and the first of its numbers for a reader."""
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().flatten()
        head = f"{value.dtype} {tuple(value.shape)}".encode()
        found = hashlib.sha256(head + flat.view(torch.uint8).numpy().tobytes()).hexdigest()
        return {"hash": found[:24], "first": [repr(v) for v in flat[:SHOWN].tolist()]}
    text = float(value).hex() if isinstance(value, float) and math.isfinite(value) else repr(value)
    return {"hash": hashlib.sha256(text.encode()).hexdigest()[:24], "first": [repr(value)[:60]]}


def of_ops(backends: tuple[str, ...]) -> Found:
    """Yield the outputs and gradients of every op, of every sample, dtype and backend."""
    from ncfast import ops

    for op in ops.__all__:
        for dtype in DTYPES:
            for sample in sample_inputs(op, dtype):
                where = f"op/{op}/{str(dtype).removeprefix('torch.')}/{sample.name}"
                tensors = [a for a in sample.args if isinstance(a, Tensor)]
                yield f"{where}/inputs", torch.cat([_bytes(a) for a in tensors])
                for backend in backends:
                    with ncfast.use_backend(backend):
                        yield from _of_call(f"{where}/{backend}", op, sample.args)


def _bytes(value: Tensor) -> Tensor:
    return value.contiguous().flatten().view(torch.uint8)


def _of_call(where: str, op: str, args: tuple[Any, ...]) -> Found:
    leaves = [a.clone() if isinstance(a, Tensor) else a for a in args]
    updates = op.endswith("_")
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and not updates:
            leaf.requires_grad_()
    try:
        out = function_of(op)(*leaves)
    except Exception as error:  # a rejection is a result too
        yield f"{where}/rejected", type(error).__name__
        return
    results = leaves[:4] if updates else out if isinstance(out, tuple) else (out,)
    for index, result in enumerate(results):
        if isinstance(result, Tensor):
            yield f"{where}/out{index}", result
    grown = [r for r in results if isinstance(r, Tensor) and r.requires_grad and not updates]
    if not grown:
        return
    generator = torch.Generator().manual_seed(11)
    above = [torch.randn(r.shape, generator=generator, dtype=torch.float64) for r in grown]
    wanted = [i for i, a in enumerate(leaves) if isinstance(a, Tensor) and a.requires_grad]
    grads = torch.autograd.grad(
        grown,
        [leaves[i] for i in wanted],
        [g.to(r.dtype) for g, r in zip(above, grown, strict=True)],
        allow_unused=True,
    )
    for index, grad in zip(wanted, grads, strict=True):
        if grad is not None:
            yield f"{where}/grad{index}", grad


def of_metrics() -> Found:
    """Yield every metric under every preset and center, estimates, intervals and NC4."""
    from ncfast.metrics.bootstrap import bootstrap_intervals

    classes, width = 41, 12
    for dtype in (torch.float32, torch.float64):
        stats = ncfast.ClassStatistics(classes, width, dtype=dtype)
        for seed in range(3):
            stats.update(*tiny_tokens(211, width, classes, dtype, seed))
        head = torch.randn(classes, width, generator=torch.Generator().manual_seed(5)).to(dtype)
        agreement = ncfast.NearestCenterAgreement(stats, head)
        agreement.update(*tiny_tokens(97, width, classes, dtype, 9))
        name = str(dtype).removeprefix("torch.")
        yield f"metrics/{name}/counts", stats.counts
        yield f"metrics/{name}/means", stats.means
        yield f"metrics/{name}/m2", stats.m2
        common: dict[str, Any] = {
            "head_weight": head,
            "agreement": agreement,
            "ood_mean": torch.linspace(-1, 1, width, dtype=dtype),
            "histograms": 12,
        }
        calls: dict[str, dict[str, Any]] = {
            f"{preset}/{center}": {"preset": preset, "center": center}
            for preset in ("ncfast", "linguistic-collapse", "official")
            for center in ("classes", "tokens", "all", "none")
        }
        calls |= {"subset": {"classes": range(3, 33, 2)}, "drawn": {"pairs": 200, "seed": 3}}
        for call, settings in calls.items():
            report = ncfast.neural_collapse(stats, **{**common, **settings})
            where = f"metrics/{name}/{call}"
            yield from flat(where, dict(report))
            yield from flat(f"{where}/notes", dict(report.notes))
            yield from flat(f"{where}/errors", dict(report.standard_errors))
            yield from flat(f"{where}/distributions", dict(report.distributions))
        yield from flat(
            f"metrics/{name}/bootstrap", dict(bootstrap_intervals(stats, head, repeats=20))
        )


def flat(where: str, value: Any) -> Found:
    """Yield the leaves of nested mappings, lists and objects, without what a clock decides."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            if not any(word in str(key) for word in CLOCK):
                yield from flat(f"{where}/{key}", one)
    elif isinstance(value, (list, tuple)):
        for index, one in enumerate(value):
            yield from flat(f"{where}/{index}", one)
    elif hasattr(value, "__dataclass_fields__"):
        yield from flat(where, vars(value))
    else:
        yield where, value


def of_losses() -> Found:
    """Yield the value and gradients of every regulariser and of the loss, two steps each."""
    losses = ncfast.losses
    classes, width = 29, 11
    ids = torch.arange(2, 24, 3)
    made: dict[str, Any] = {}
    for means in ("batch", "ema", "running"):
        for spread in losses.SPREADS:
            made[f"nc3/{means}/{spread}"] = losses.DualityRegularizer(
                classes, width, ids, means=means, spread=spread
            )
        made[f"nc1/{means}"] = losses.WithinClassRegularizer(classes, width, ids, means=means)
        made[f"gnc2/{means}"] = losses.UniformityRegularizer(classes, width, ids, means=means)
    made["cross-entropy"] = lambda x, y, w: losses.linear_cross_entropy(x, w, y)
    made["smoothed"] = lambda x, y, w: losses.linear_cross_entropy(x, w, y, label_smoothing=0.1)
    for name, loss in made.items():
        for step in range(2):
            x, y = tiny_tokens(83, width, classes, seed=step)
            generator = torch.Generator().manual_seed(step)
            head = torch.randn(classes, width, generator=generator).requires_grad_()
            value = loss(x.requires_grad_(), y, head)
            yield f"loss/{name}/{step}", value
            for who, grad in zip(
                ("x", "head"), torch.autograd.grad(value, (x, head), allow_unused=True), strict=True
            ):
                if grad is not None:
                    yield f"loss/{name}/{step}/{who}", grad


def of_finetuning() -> Found:
    """Yield loss, weights and both reports of ten steps of a tiny masked and causal model."""
    from ncfast.finetune import FinetuneSettings, TermSettings, finetune

    gender = ["she", "he", "her", "his", "woman", "man", "mother", "father", "queen", "king"]
    words = gender + [start + end for start in ("ba", "ce", "di", "fo", "gu", "ka") for end in ENDS]
    for kind in ("masked", "causal"):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            _save_tiny(kind, words, folder / "tiny")
            generator = torch.Generator().manual_seed(0)
            drawn = torch.randint(0, len(words), (400, 9), generator=generator).tolist()
            text = folder / "tiny.txt"
            text.write_text("\n".join(" ".join(words[i] for i in line) for line in drawn))
            terms = TermSettings(nc1=0.1, nc3=0.5, uniformity=0.1, words=("gender",))
            settings = FinetuneSettings(
                terms=terms, steps=10, batch_size=4, block_size=32, lr=1e-3, progress=False
            )
            with open(os.devnull, "w") as null, redirect_stdout(null), redirect_stderr(null):
                result = finetune(str(folder / "tiny"), str(text), folder / "out", settings)
            for name, weight in result.model.model.named_parameters():
                yield f"finetune/{kind}/weights/{name}", weight
            lines = (folder / "out/steps.jsonl").read_text().splitlines()
            yield from flat(f"finetune/{kind}/steps", [json.loads(line) for line in lines])
            for moment in ("before", "after"):
                report = json.loads((folder / "out" / moment / "report.json").read_text())
                for part in ("sets", "tokens", "bootstrap"):
                    yield from flat(f"finetune/{kind}/{moment}/{part}", report[part])


def _save_tiny(kind: str, words: list[str], folder: Path) -> None:
    import transformers as t
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: index for index, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = dict(zip(("pad_token", "unk_token", "cls_token"), special, strict=False))
    names |= {"sep_token": "[SEP]", "mask_token": "[MASK]"}
    t.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    torch.manual_seed(1)
    size = len(vocabulary)
    shape: dict[str, Any] = {"vocab_size": size, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "causal":
        t.GPT2LMHeadModel(t.GPT2Config(**shape, n_embd=16, n_positions=64)).save_pretrained(folder)
        return
    shape |= {"hidden_size": 16, "max_position_embeddings": 64, "intermediate_size": 24}
    t.BertForMaskedLM(t.BertConfig(**shape)).save_pretrained(folder)


def everything(backends: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Compute all of it and return name -> digest.

    >>> digest(1.0)["first"]
    ['1.0']
    """
    found: dict[str, dict[str, Any]] = {}
    for source in (of_ops(backends), of_metrics(), of_losses(), of_finetuning()):
        for name, value in source:
            assert name not in found, f"two values are named {name}"
            found[name] = digest(value)
    return found


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return what changed or is gone, and what is new.

    >>> one = {"a": digest(1.0)}
    >>> differences(one, {"a": digest(2.0), "b": digest(1)})
    (['a: 1.0 became 2.0'], ['b'])
    """
    changed = [f"{name}: gone" for name in before if name not in after]
    for name, old in before.items():
        new = after.get(name)
        if new is not None and new["hash"] != old["hash"]:
            was, now = ", ".join(old["first"]), ", ".join(new["first"])
            changed.append(f"{name}: {was} became {now if now != was else 'other further on'}")
    return changed, [name for name in after if name not in before]


def main(arguments: list[str] | None = None) -> int:
    """Write or compare; return 1 where a number changed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", metavar="FILE", type=Path)
    action.add_argument("--compare", metavar="FILE", type=Path)
    parser.add_argument("--backends", default="cpu,reference")
    options = parser.parse_args(arguments)
    torch.use_deterministic_algorithms(True)
    found = everything(tuple(options.backends.split(",")))
    if options.write:
        options.write.write_text(json.dumps(found, indent=0) + "\n")
        print(f"{len(found):,} numbers and tensors written to {options.write}")
        return 0
    before = json.loads(options.compare.read_text())
    changed, new = differences(before, found)
    for line in changed[:60]:
        print(line)
    print(f"{len(before):,} before: {len(changed):,} changed or gone, {len(new):,} new")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Every class of transformers' auto mappings, tiny: features x head beside its own logits and loss.

``python -m tests.language.families --out benchmarks/results/families.md`` runs all of them;
``--part 3`` every tenth from the third. Each class is either right, before and after 20 steps of
training, or rejected in one sentence; what cannot be built tiny is listed with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ncfast.language import LanguageError
from ncfast.language.models import LanguageModel
from ncfast.losses import linear_cross_entropy
from ncfast.training.loss_check import own_loss

from .tiny_families import Case, batches, build, cases, tokenizer

PARTS = 10
STEPS = 20
SECONDS = 60
# Float32: what sums in another order make of logits, of their size.
LOGITS, LOSS = 1e-5, 1e-5
HELP = "files of what was found: what they hold is not run again, the first takes what is"
OUTCOMES = ("right", "rejected", "wrong", "cannot be built tiny")


@dataclass(frozen=True)
class Result:
    """Say what came of one class."""

    case: Case
    outcome: str
    reason: str = ""
    kind: str = ""
    scale: float = 1.0
    softcap: float = 0.0
    logits: float = 0.0
    loss: float = 0.0
    drop: float = 0.0


@contextlib.contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def late(number: int, frame: Any) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _labels(model: LanguageModel, ids: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
    """Return the class that each position predicts, -100 for none."""
    if model.kind != "causal":
        return ids.masked_fill(draw > 0.5, -100)
    labels = torch.full_like(ids, -100)
    labels[:, :-1] = ids[:, 1:].masked_fill(draw[:, 1:] > 0.8, -100)
    return labels


def _our_loss(model: LanguageModel, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    features = model.features(ids, torch.ones_like(ids))
    x, weight, bias = model.scaled(features.flatten(0, 1))
    return linear_cross_entropy(
        x, weight, labels.flatten(), linear_bias=bias, softcap=model.softcap
    )


@torch.no_grad()
def differences(model: LanguageModel) -> tuple[float, float]:
    """Return how far logits and loss are from the model's own, of their size."""
    inner = model.model
    was_training = inner.training
    inner.eval()
    ids, draw = next(iter(batches(1)))
    labels = _labels(model, ids, draw)
    torch.manual_seed(0)  # Reformer hashes at random
    features = model.features(ids, torch.ones_like(ids)).double()
    weight, bias = model.head_weight.double(), model.head_bias
    logits = (features @ weight.T + (0 if bias is None else bias.double())) * model.logit_scale
    if model.softcap:
        logits = model.softcap * torch.tanh(logits / model.softcap)
    torch.manual_seed(0)
    ours = _our_loss(model, ids, labels)
    if model.kind == "encoder":  # no head of its own: its rows are what the table looks up
        own = inner.get_input_embeddings()(ids).double()
        rows = weight[ids]
        scale = (own * rows).sum() / rows.square().sum()
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        inner.train(was_training)
        return float((own - scale * rows).norm() / own.norm()), float((ours - expected).abs())
    torch.manual_seed(0)
    theirs, own = own_loss(model, ids, torch.ones_like(ids), labels)
    inner.train(was_training)
    return (
        float((logits - own.double()).norm() / own.double().norm()),
        float((ours - theirs).abs() / (1 + theirs.abs())),
    )


def examine(case: Case) -> Result:
    """Build, check, train and check one class again."""
    try:
        with _at_most(SECONDS), torch.no_grad():
            inner = build(case)
            ids, _ = next(iter(batches(1)))
            inner(input_ids=ids, attention_mask=torch.ones_like(ids))
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return Result(case, "cannot be built tiny", f"{type(error).__name__}: {reason[:160]}")
    try:
        with _at_most(SECONDS):
            model = LanguageModel.from_pretrained_model(inner, tokenizer(case), case.class_name)
            logits, loss = differences(model)
            first, last = _train(model)
            after = differences(model)
    except TimeoutError as error:
        return Result(case, "cannot be built tiny", f"it takes {error}")
    except LanguageError as error:
        return Result(case, "rejected", " ".join(str(error).split()))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        return Result(case, "wrong", f"{type(error).__name__}: {reason}")
    logits, loss = max(logits, after[0]), max(loss, after[1])
    good = logits <= LOGITS and loss <= LOSS and last < first
    reason = f"logits {logits:.2g}, loss {loss:.2g}, training {first:.4g} to {last:.4g}"
    reason = "" if good else f"differs from its own, or does not train: {reason}"
    return Result(
        case,
        "right" if good else "wrong",
        reason,
        model.kind,
        model.logit_scale,
        model.softcap,
        logits,
        loss,
        first - last,
    )


def _train(model: LanguageModel) -> tuple[float, float]:
    """Train on one batch; return the loss of the first step and of the last one."""
    model.model.train()
    optimizer = torch.optim.AdamW(model.model.parameters(), lr=3e-3)
    ids, draw = next(iter(batches(1)))
    labels, losses = _labels(model, ids, draw), []
    for step in range(STEPS):
        torch.manual_seed(step)
        loss = _our_loss(model, ids, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    model.model.eval()
    return losses[0], losses[-1]


def table(results: list[Result], seconds: float) -> str:
    """Write what came of all classes as Markdown."""
    import transformers

    counts = Counter(result.outcome for result in results)
    lines = [
        "# Model families",
        "",
        f"Every class that the masked and causal auto mappings of transformers "
        f"{transformers.__version__} name, and the encoders of the masked ones, built tiny with "
        "random weights: "
        f"features x head (+ bias, scale, soft-cap) beside the model's own logits, our loss beside "
        f"its own, before and after {STEPS} steps of AdamW on our loss. Encoders have no head: the "
        "rows of their embedding are compared with what it looks up. Differences are relative "
        f"(float32; right is at most {LOGITS:g}). `python -m tests.language.families --out "
        f"benchmarks/results/families.md`, {seconds:.0f} s, {time.strftime('%Y-%m-%d')}; CI runs "
        "every tenth, another each day.",
        "",
        "| classes | " + " | ".join(OUTCOMES) + " |",
        "|--:|" + "--:|" * len(OUTCOMES),
        f"| {len(results)} | " + " | ".join(str(counts[o]) for o in OUTCOMES) + " |",
        "",
        "## Right",
        "",
        "| family | class | kind, probed | scale | soft-cap | logits | loss |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {r.case.model_type} | {r.case.class_name} | {r.kind} | {r.scale:.6g} | {r.softcap:g} | "
        f"{r.logits:.1e} | {r.loss:.1e} |"
        for r in results
        if r.outcome == "right"
    ]
    for outcome in OUTCOMES[1:]:
        chosen = [r for r in results if r.outcome == outcome]
        lines += ["", f"## {outcome.capitalize()}", ""]
        lines += ["| family | class | why |", "|---|---|---|"] if chosen else ["None."]
        lines += [
            f"| {r.case.model_type} | {r.case.class_name} | {r.reason.replace('|', '/')} |"
            for r in chosen
        ]
    return "\n".join(lines) + "\n"


def read(path: Path) -> Iterator[tuple[Result, float]]:
    """Read what an earlier run found, with the seconds it took."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in lines:
        values = json.loads(line)
        yield Result(Case(*values.pop("case").values()), **values["result"]), values["seconds"]


def keep(paths: list[Path], result: Result, seconds: float) -> None:
    """Append what came of one class to the first of the files, if there is one."""
    for path in paths[:1]:
        values = asdict(result)
        line = {"case": values.pop("case"), "result": values, "seconds": seconds}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back what transformers says about tiny configurations."""
    import transformers

    library = transformers.utils.logging
    before = library.get_verbosity()
    library.set_verbosity(50)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        library.set_verbosity(before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the table here")
    parser.add_argument("--part", type=int, nargs="*", help="every tenth class from these")
    parser.add_argument("--results", type=Path, nargs="*", default=[], help=HELP)
    parser.add_argument("--only", help="classes whose name holds this")
    options = parser.parse_args()
    numbered = enumerate(cases())
    chosen = [c for i, c in numbered if options.part is None or i % PARTS in options.part]
    chosen = [case for case in chosen if (options.only or "") in str(case)]
    known = {str(r.case): (r, t) for path in options.results for r, t in read(path)}
    results, seconds = [], 0.0
    with quiet():
        for case in chosen:
            start = time.perf_counter()
            if str(case) not in known:
                known[str(case)] = examine(case), time.perf_counter() - start
                keep(options.results, *known[str(case)])
            results.append(known[str(case)][0])
            seconds += known[str(case)][1]
            print(f"{results[-1].outcome:22}{case}  {results[-1].reason[:300]}", flush=True)
    if options.out is not None:
        options.out.write_text(table(results, seconds), encoding="utf-8")
    print(Counter(result.outcome for result in results))
    return int(any(result.outcome == "wrong" for result in results))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())

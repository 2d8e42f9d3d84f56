"""What shows that the model of another process is this one's: its weights and what it answers."""

from __future__ import annotations

import hashlib

import torch

from ..language import LanguageModel
from .answers import reading_digest, weights_digest
from .benchmarks.glue_items import Example
from .benchmarks.glue_training import fine_tune, is_narrow
from .engine import ModelScorer
from .errors import EvaluationError
from .requests import Masked, Sequence

__all__ = ["likeness"]

PROBE = "He said that she isn't there; 42 of them were."


def likeness(model: LanguageModel, batch_tokens: int | None = None) -> dict[str, str]:
    """Return what two processes that have one model agree in, to the bit.

    ``weights``: a digest of every parameter and buffer. ``reading``: of configuration, tokenizer
    and code. ``answers``: to a short probe, computed in one thread. ``training``: what a narrow
    model predicts after a step. A method that was replaced, a buffer that no checkpoint holds or a
    setting of torch shows in the last two alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {
            "weights": weights_digest(model),
            "reading": reading_digest(model),
            "answers": _answers(model, batch_tokens),
            "training": _training(model),
        }


def _answers(model: LanguageModel, batch_tokens: int | None) -> str:
    ids = [i % model.vocab_size for i in model.tokenizer(PROBE)["input_ids"]]
    text = tuple(ids[: min(model.max_positions or len(ids), len(ids))])
    scorer = ModelScorer(model, None, batch_tokens)
    try:
        if scorer.kind == "masked":
            logs = scorer.masked([Masked(text, at, tuple(set(text))) for at in range(len(text))])
        else:
            logs = scorer.sequences([Sequence(text)])
        states = scorer.hidden_states([text], lambda rows, _number, _length: rows.double())
    except EvaluationError as error:  # of weights that are not finite, which every answer will say
        return f"{error}"
    found = hashlib.sha256(repr(logs).encode())
    found.update(states[0].contiguous().numpy().tobytes())
    return found.hexdigest()


def _training(model: LanguageModel) -> str:
    if not is_narrow(model):
        return ""
    examples = [Example("train", n, (PROBE[n:],), float(n)) for n in range(2)]
    try:
        return repr(fine_tune(model, examples, examples, 1, seed=0, epochs=1))
    except EvaluationError as error:
        return f"{error}"

"""A model's finished answers to a benchmark, kept on disk under what they are answers to."""

from __future__ import annotations

import functools
import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import sealed_file
from ..language import LanguageModel
from ..reporting import write_atomically
from .records import Record

__all__ = [
    "ANSWERS",
    "AnswerFile",
    "changed_parts",
    "identity_digest",
    "items_digest",
    "reading_digest",
    "weights_digest",
]

ANSWERS = "ncfast-evaluation-answers/1"
# Whose hooks change no answer: transformers hangs one on every layer that it returns states of.
LIBRARIES = ("accelerate", "ncfast", "peft", "torch", "transformers")


@dataclass(frozen=True)
class AnswerFile:
    """Keep the records of one benchmark and one model, by digests of items and weights."""

    path: Path | None
    weights: str
    items: str

    def read(self) -> list[Record] | None:
        """Return the records, or None where there are none of these weights and items."""
        if self.path is None or not self.path.exists():
            return None
        document = sealed_file.read_json(self.path, ANSWERS)
        if document.get("identity") != self._identity:
            return None  # other data under the same name: asked anew
        return [Record.from_json(record) for record in document["records"]]

    def write(self, records: Sequence[Record]) -> None:
        """Keep the records, whole or not at all."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        document = {"schema": ANSWERS, "identity": self._identity}
        kept = sealed_file.dump_json({**document, "records": [r.to_json() for r in records]})
        write_atomically(self.path, kept)

    @property
    def _identity(self) -> dict[str, str]:
        return {"weights": self.weights, "items": self.items}


def items_digest(items: Sequence[Any]) -> str:
    """Return the SHA-256 of a benchmark's settings and items."""
    return hashlib.sha256("\n".join(map(repr, items)).encode()).hexdigest()


def reading_digest(model: LanguageModel) -> str:
    """Return the SHA-256 of what answers depend on beside weights and items.

    That is the configuration, the tokenizer, and the code that asks: answers of another tokenizer,
    or of a version whose fault has been mended since, are not these.
    """
    config = model.model.config.to_dict()
    told = {k: v for k, v in config.items() if k not in ("_name_or_path", "transformers_version")}
    parts = [json.dumps(told, sort_keys=True, default=str), *_tokenizer(model.tokenizer), _code()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _tokenizer(tokenizer: Any) -> list[str]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return [
            json.dumps(tokenizer.get_vocab(), sort_keys=True),
            f"{tokenizer.special_tokens_map}",
        ]
    made = json.loads(backend.to_str())
    for of_last_call in ("padding", "truncation"):
        made.pop(of_last_call, None)
    return [json.dumps(made, sort_keys=True), f"{tokenizer.special_tokens_map}"]


@functools.cache
def _code() -> str:
    here = Path(__file__).parent
    asking = ("batches", "engine", "prefixes", "pronouns", "requests", "texts")
    files = [*(here / f"{name}.py" for name in asking), *sorted(here.glob("benchmarks/*.py"))]
    # How a head is found and its logits are made.
    for folder in ("language", "functional"):
        files += sorted((here.parent / folder).glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def identity_digest(model: LanguageModel) -> str:
    """Return the SHA-256 of a model's weights, or one like no other where they do not tell all.

    What a hook or a method of somebody's own does to a part is in no weight: answers of such a
    model are never another one's, nor its own of before.
    """
    digest = weights_digest(model)
    if not changed_parts(model):
        return digest
    return hashlib.sha256(f"{digest} {uuid.uuid4()}".encode()).hexdigest()


def changed_parts(model: LanguageModel) -> list[str]:
    """Name the modules whose forward pass has a hook, or is a method, that no library brings."""
    found = []
    for name, module in model.model.named_modules():
        changes = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        if "forward" in vars(module) and not hasattr(module, "_hf_hook"):  # accelerate's own
            changes.append(vars(module)["forward"])
        if any(_root(change) not in LIBRARIES for change in changes):
            found.append(name or "the whole model")
    return found


def _root(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__module__", "")).partition(".")[0]


def weights_digest(model: LanguageModel) -> str:
    """Return the SHA-256 of every parameter and buffer of a model."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()

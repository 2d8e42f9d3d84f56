"""The folder of a run: whether it may be written, and whose run it holds."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Any

from .. import durable_file
from ..errors import DataError
from ..language import Corpus, DrawnWords, LanguageError, LanguageModel, WordSet
from ..reporting import strict
from ..running.identity import differences
from ..training import Ranks
from ..training.checkpoints import newest_checkpoint, read_identity
from .settings import FinetuneSettings
from .texts import TrainingText


def check_name(folder: Path) -> None:
    """Reject a folder that is none, or whose name no model can be saved under."""
    durable_file.require_folder(folder)
    try:
        str(folder).encode()
    except UnicodeEncodeError:  # transformers would say so after the training
        raise LanguageError(
            f"the folder {folder} has a name that is no UTF-8, and no model can be saved there; "
            "choose another with --out"
        ) from None


def identity_of(
    model: LanguageModel,
    text: TrainingText,
    validation: Corpus | None,
    steps: int,
    settings: FinetuneSettings,
) -> dict[str, Any]:
    """Describe what decides the curve, in values that JSON keeps exactly."""
    free = (
        "memory_limit",
        "metrics_every",
        "save_every_seconds",
        "progress",
        "device",
        "measure_tokens",
        "text_column",
    )
    decisive = {k: v for k, v in asdict(settings).items() if k not in (*free, "epochs", "terms")}
    decisive["mask_words_of"] = [_word_name(w) for w in settings.mask_words_of]
    terms = asdict(settings.terms) | {"words": [_word_name(w) for w in settings.terms.words]}
    return strict(
        {
            "model": PurePath(model.name).name,
            "weights": model.fingerprint,
            "text": text.corpus.fingerprint,
            **decisive,
            "validation": validation and validation.fingerprint,
            **{f"term {name}": value for name, value in terms.items()},
            "steps": steps,
        }
    ) | {"undefined": {}}


def _word_name(word: str | WordSet) -> str:
    word_set = word if isinstance(word, WordSet) else WordSet.load(str(word))
    drawn = word_set.ids if isinstance(word_set, DrawnWords) else ()
    known = repr((word_set.words, drawn) if drawn else word_set.words)
    words = hashlib.sha256(known.encode()).hexdigest()[:16]
    return f"{word_set.name} ({len(word_set.words)} words, {words})"


def prepare(folder: Path, identity: dict[str, Any], resume: bool, force: bool) -> None:
    """Make the folder, and raise rather than overwrite another run's work."""
    folder.mkdir(parents=True, exist_ok=True)
    if Ranks.current().rank == 0 and durable_file.claim(folder):
        durable_file.remove_partial(folder)
    found = newest_checkpoint(folder)
    if force or found is None:
        return
    if not resume:
        raise DataError(
            f"{folder} holds a run of {found.name.removeprefix('checkpoint-')} steps; go on with "
            "--resume, choose another folder with --out, or overwrite it with --force"
        )
    if different := differences(read_identity(found), identity):
        raise DataError(
            f"{found}: the checkpoint of another run: {'; '.join(different)}; choose another "
            "folder, or the same model, text and settings"
        )


def clear(folder: Path, force: bool) -> None:
    """Remove the checkpoints of a run that ``force`` overwrites."""
    for path in folder.glob("checkpoint-*") if force else ():
        shutil.rmtree(path)

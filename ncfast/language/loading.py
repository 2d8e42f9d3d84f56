"""Checkpoints from folders, GGUF files and the hub, loaded whole or not at all."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from .errors import ROAD, LanguageError, import_extra
from .fits import check_stored_dtypes, check_weights, padding_within
from .spread import loading_arguments, require_spread

Kind = Literal["masked", "causal", "encoder"]


@dataclass(frozen=True)
class Loaded:
    """Hold a model, its tokenizer and its kind."""

    model: Any
    tokenizer: Any
    kind: Kind


def load_checkpoint(
    path: str,
    name: str,
    dtype: torch.dtype,
    trust_remote_code: bool = False,
    progress: bool = True,
    device_map: str | None = None,
    tensor_parallel: int = 1,
) -> Loaded:
    """Load a model, on the CPU, with tokenizer and kind, and the head its checkpoint holds, never a
    random one.

    ``path`` is a local folder, a .gguf file or a hub name; ``device_map`` and ``tensor_parallel``
    lay the model on several devices, see :mod:`.spread`. LanguageError: nothing there, unreadable,
    weights missing or others than its class needs, an encoder-decoder, or another task.
    """
    transformers = import_extra("transformers", f"loading the model {name!r}")
    folder, gguf_file = _locate(path, name)
    common: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if gguf_file is not None:
        common["gguf_file"] = gguf_file
        import_extra("gguf", f"reading the GGUF file of {name!r}")
        import_extra("accelerate", f"reading the GGUF file of {name!r}")
    with plain_errors(name), quieted(transformers, progress):
        config = transformers.AutoConfig.from_pretrained(folder, **common)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **common)
    # GGUF files do not always name a class; those that are language models are causal ones.
    kinds: list[Kind] = ["causal"] if gguf_file is not None else _candidate_kinds(config, name)
    auto_classes = {
        "masked": transformers.AutoModelForMaskedLM,
        "causal": transformers.AutoModelForCausalLM,
        "encoder": transformers.AutoModel,
    }
    if gguf_file is not None and hasattr(transformers, "GgufConfig"):
        # Weights that stay packed, or are marked as such, can be neither trained nor saved.
        common["quantization_config"] = transformers.GgufConfig(dequantize=True)
    for kind in kinds:
        with plain_errors(name), quieted(transformers, progress):
            spread = loading_arguments(auto_classes[kind], config, device_map, tensor_parallel)
            model, info = auto_classes[kind].from_pretrained(
                folder,
                **spread,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # check_weights names them
                **common,
            )
        if kind == "encoder":
            # A pooler sits beside the last hidden state, not before it.
            info["missing_keys"] = {key for key in info["missing_keys"] if "pooler" not in key}
        if not info["missing_keys"]:
            break
    with plain_errors(name):
        require_spread(model, name)
        check_weights(model, info, name)
        if gguf_file is None:
            check_stored_dtypes(model, folder, name)
        if kind == "causal":
            padding_within(model, tokenizer)
    return Loaded(model, tokenizer, kind)


def kind_of_architecture(architecture: str, config: Any) -> Kind | None:
    """Return the kind by a class name (``"BertForMaskedLM"``), None for other tasks."""
    if getattr(config, "is_encoder_decoder", False):
        return None
    if architecture.endswith("ForMaskedLM"):
        return "masked"
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return "causal"
    from transformers.models.auto import modeling_auto

    mappings: tuple[tuple[Kind, Mapping[str, Any]], ...] = (
        ("masked", modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES),
        ("causal", modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    )
    for kind, names in mappings:
        if any(architecture in ((n,) if isinstance(n, str) else n) for n in names.values()):
            return kind
    if architecture.endswith("Model") and "Heads" not in architecture:
        return "encoder"
    return None


def task_of(architecture: str, config: Any) -> str:
    """Say what a model of no such kind is: ``"an encoder-decoder"``; empty if unknown."""
    if getattr(config, "is_encoder_decoder", False):
        return "an encoder-decoder"
    tasks = {
        "ForSequenceClassification": "a sequence classifier",
        "ForTokenClassification": "a token classifier",
        "ForQuestionAnswering": "a question-answering model",
        "ForMultipleChoice": "a multiple-choice model",
    }
    return next((task for end, task in tasks.items() if architecture.endswith(end)), "")


def _candidate_kinds(config: Any, name: str) -> list[Kind]:
    """List the kinds to try, the first whose weights are all there wins."""
    architectures = getattr(config, "architectures", None) or []
    architecture = architectures[0] if architectures else ""
    if task := task_of(architecture, config):
        is_pair = getattr(config, "is_encoder_decoder", False)
        body = "" if is_pair else "save its encoder (model.base_model), or "
        raise LanguageError(
            f"{name} is {task} ({architecture or config.model_type}); expected a masked or causal "
            f"language model, or an encoder: {body}{ROAD}"
        )
    kind = kind_of_architecture(architecture, config) if architecture else None
    if kind is not None:
        return [kind]
    # No class named, or one for another task (ForPreTraining): the
    # checkpoint may still hold a masked head; if it does not, only its encoder is usable.
    from transformers.models.auto import modeling_auto

    kinds: list[Kind] = []
    if config.model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        kinds.append("masked")
    elif config.model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        kinds.append("causal")
    return [*kinds, "encoder"]


def _locate(path: str, name: str) -> tuple[str, str | None]:
    """Return the folder (or hub name) and the GGUF file in it, if that is what it holds."""
    local = Path(path).expanduser()
    if local.is_file():
        if local.suffix != ".gguf":
            raise LanguageError(f"{name} is a file; expected a model folder or a .gguf file")
        return str(local.parent), local.name
    if local.is_dir():
        gguf_files = sorted(local.glob("*.gguf"))
        if (local / "config.json").exists() or not gguf_files:
            if not (local / "config.json").exists():
                within = [found.parent.name for found in local.glob("*/config.json")]
                within.sort(key=lambda found: (found != "model", found))  # as finetune writes
                meant = f", for example {Path(name) / within[0]}" if within else ""
                raise LanguageError(
                    f"the folder {name} holds neither config.json nor a .gguf file; "
                    f"expected a model folder as transformers saves it{meant}"
                )
            return str(local), None
        if len(gguf_files) > 1:
            listed = ", ".join(file.name for file in gguf_files)
            raise LanguageError(f"{name} holds several .gguf files ({listed}); name one of them")
        return str(local), gguf_files[0].name
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise LanguageError(f"there is no model folder {name}")
    return path, None


@contextlib.contextmanager
def plain_errors(name: str) -> Iterator[None]:
    """Turn what libraries raise over a user's model files into one sentence, a LanguageError.

    Damaged files and senseless settings end in errors of every type there, arithmetic ones too.
    """
    try:
        yield
    except LanguageError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        if not isinstance(error, (OSError, ValueError, ImportError, RuntimeError)):
            reason = f"{type(error).__name__}: {reason}"
        if Path(name).expanduser().exists() or ":" in name:
            raise LanguageError(f"cannot load the model {name}: {reason[:400]}") from error
        first = reason.split(". ")[0]
        raise LanguageError(
            f"cannot load the model {name!r}: it is no local folder, and the model hub does not "
            f"give it ({first[:200]}); expected a folder, a hub name that can be reached from "
            "here, or demo:minilm, demo:bert-tiny, demo:smollm2"
        ) from error


@contextlib.contextmanager
def quieted(transformers: Any, progress: bool) -> Iterator[None]:
    """Hold back reports that are turned into errors of our own, and the bar unless asked for."""
    library = transformers.utils.logging
    verbosity, hub = library.get_verbosity(), logging.getLogger("huggingface_hub")
    hub_level, had_bar = hub.level, library.is_progress_bar_enabled()
    library.set_verbosity_error()
    hub.setLevel(logging.ERROR)
    if not progress:
        library.disable_progress_bar()
    try:
        with _bar_of_gguf(progress):
            yield
    finally:
        library.set_verbosity(verbosity)
        hub.setLevel(hub_level)
        if had_bar:
            library.enable_progress_bar()


@contextlib.contextmanager
def _bar_of_gguf(progress: bool) -> Iterator[None]:
    """Hold back the bar of transformers' GGUF reader, which heeds no setting of transformers."""
    from transformers import modeling_gguf_pytorch_utils as reader

    drawn = getattr(reader, "tqdm", None)
    if progress or drawn is None:
        yield
        return
    reader.tqdm = functools.partial(drawn, disable=True)
    try:
        yield
    finally:
        reader.tqdm = drawn
